"use strict";
(() => {
  const spoken = document.getElementById("spoken");
  for (const button of document.querySelectorAll("button[data-copies]")) {
    const source = document.getElementById(button.dataset.copies);
    button.hidden = false;
    button.addEventListener("click", async () => {
      getSelection().selectAllChildren(source);
      let done = true;
      try {
        // Absent where the page came over plain HTTP.
        await navigator.clipboard.writeText(source.textContent);
      } catch {
        done = document.execCommand("copy");
      }
      button.textContent = done ? "Copied" : "Selected";
      spoken.textContent = done ? "Copied." : "It is selected: copy it with the keyboard.";
    });
  }
})();
