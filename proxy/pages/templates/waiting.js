
"use strict";
(() => {
  const ready = document.querySelector("main").dataset.ready;
  const reason = document.getElementById("reason");
  const spoken = document.getElementById("spoken");
  const waited = document.getElementById("waited");
  const began = Date.now();
  const wordsOf = (text) => text.replace(/[0-9]+/g, "");

  // What is read aloud changes only with the words, not with every second that a reason counts.
  const show = (text) => {
    reason.textContent = text;
    if (wordsOf(spoken.textContent) !== wordsOf(text)) spoken.textContent = text;
  };

  const ask = async () => {
    try {
      const answer = await fetch(ready, { cache: "no-store", signal: AbortSignal.timeout(10000) });
      if (answer.ok) {
        location.reload();
        return;
      }
      const text = (await answer.text()).trim();
      const ours = (answer.headers.get("content-type") || "").startsWith("text/plain");
      if (answer.status === 503 && ours && text) show(text.slice(0, 500));
    } catch {
      show("The server can't be reached at the moment.");
    }
    setTimeout(ask, 1000);
  };

  setInterval(() => {
    waited.textContent = `Waiting for ${Math.round((Date.now() - began) / 1000)} s`;
  }, 1000);
  setTimeout(ask, 1000);
})();
