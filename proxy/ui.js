// What mlflow-proxy adds to MLflow's UI: the account menu, signing out, and signing in again without
// losing the page. It changes nothing else, and where it does not find what it looks for it stays aside.
"use strict";
(() => {
  const here = document.currentScript;
  if (!here || !window.fetch || window.mlflowProxy) return;
  window.mlflowProxy = true;
  // Without, a password comes with each request: nothing ends, and the menu leads to the account page alone.
  const sessions = here.dataset.sessions !== "no";
  // …/-/ui.js: everything is below the folder above it, whatever path the public URL has.
  const base = new URL("..", here.src);
  const at = (path) => new URL(path, base).href;
  const ask = window.fetch.bind(window);
  // MLflow's own account button; its menu leads to pages for MLflow's own users, who are not used here.
  const BUTTON = 'button[aria-label^="Account menu for "]';
  const SETTLED = 4000; // ms after which MLflow's UI has shown its button, if it has one
  const POLL = 3000; // ms between two looks whether somebody has signed in again

  // Who is signed in: the name, null where nobody is, undefined where that can't be said now.
  const lookUp = async () => {
    try {
      const answer = await ask(at("ajax-api/2.0/mlflow/users/current"), { cache: "no-store" });
      if (answer.status === 401) return null;
      if (!answer.ok) return undefined;
      return (await answer.json()).user.username;
    } catch {
      return undefined;
    }
  };
  // Once for all who ask at the same time: a page has many calls under way when its session ends.
  let asking = null;
  const whoIsIt = () => (asking ??= lookUp().finally(() => (asking = null)));
  let user = whoIsIt();

  // Our elements live in a shadow tree: neither MLflow's styles nor ours reach across.
  const host = document.createElement("div");
  host.id = "mlflow-proxy";
  const tree = host.attachShadow({ mode: "open" });
  const style = new CSSStyleSheet();
  style.replaceSync(`
    :host { pointer-events: auto; --card: #fff; --ink: #11171c; --quiet: #566573; --line: #d8dee4; --accent: #0e6ba8; --on: #fff; color-scheme: light; }
    :host(.dark) { --card: #1b242c; --ink: #eef2f5; --quiet: #9fb0bf; --line: #33414d; --accent: #66b8f0; --on: #0b151c; color-scheme: dark; }
    * { box-sizing: border-box; font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink); }
    [popover], dialog, .corner { background: var(--card); border: 1px solid var(--line); border-radius: 8px; box-shadow: 0 4px 18px #0004; }
    [popover] { position: fixed; inset: auto; margin: 0; padding: 6px; width: 230px; }
    [popover] p { margin: 0; padding: 6px 10px; overflow-wrap: anywhere; color: var(--quiet); font-size: 13px; }
    .item { display: block; width: 100%; padding: 7px 10px; text-align: left; text-decoration: none; background: none; border: 0; border-radius: 5px; cursor: pointer; }
    .item:hover { background: var(--line); }
    :focus-visible { outline: 2px solid var(--accent); outline-offset: -1px; }
    form { margin: 0; }
    dialog { width: min(420px, calc(100vw - 32px)); padding: 24px; }
    dialog::backdrop { background: #0008; }
    h2 { margin: 0 0 8px; font-size: 18px; font-weight: 600; }
    dialog p { margin: 0 0 16px; }
    .buttons { display: flex; flex-wrap: wrap; gap: 8px; }
    .buttons > * { padding: 8px 16px; border: 1px solid var(--accent); border-radius: 6px; background: none; color: var(--accent); font-weight: 600; text-decoration: none; cursor: pointer; }
    .buttons > .first { background: var(--accent); color: var(--on); }
    .corner { position: fixed; right: 16px; bottom: 16px; z-index: 2000; padding: 7px 14px; max-width: 60vw; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; cursor: pointer; }
    [hidden] { display: none; }
  `);
  tree.adoptedStyleSheets = [style];
  // MLflow's own dialogues close when something happens outside of them, and with them goes what was typed.
  for (const kind of ["pointerdown", "mousedown", "touchstart", "focusin", "click", "keydown"]) {
    host.addEventListener(kind, (event) => event.stopPropagation());
  }
  window.addEventListener(
    "keydown",
    (event) => event.key === "Escape" && event.target === host && event.stopImmediatePropagation(),
    true,
  );
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  // The menu.
  const who = make("p", {});
  const menu = make(
    "div",
    { popover: "auto", role: "dialog", ariaLabel: "Account" },
    who,
    make("a", { className: "item", href: at("-/account"), textContent: sessions ? "Account and sessions" : "Account and tokens" }),
  );
  if (sessions) {
    const out = make("button", { className: "item", type: "submit", textContent: "Sign out" });
    menu.append(make("form", { method: "post", action: at("oauth2/sign_out") }, out));
  }
  let opener = null;
  let closed = 0;
  menu.addEventListener("beforetoggle", (event) => {
    if (event.newState === "closed") closed = performance.now();
  });
  menu.addEventListener("toggle", (event) => {
    if (event.newState === "closed" && opener?.isConnected && !dialog.open) opener.focus();
  });
  const openMenu = async (button) => {
    if (!menu.showPopover) {
      location.assign(at("-/account"));
      return;
    }
    // The press that closed the menu, by being outside of it, does not open it again.
    if (menu.matches(":popover-open") || performance.now() - closed < 250) return;
    opener = button;
    const box = button.getBoundingClientRect();
    menu.style.left = `${Math.max(8, Math.min(box.left, innerWidth - 238))}px`;
    menu.style.bottom = `${Math.max(8, innerHeight - box.top + 6)}px`;
    menu.showPopover();
    menu.querySelector("a").focus();
    who.textContent = `Signed in as ${(await user) || "somebody"}`;
  };
  const corner = make("button", { className: "corner", type: "button", hidden: true });
  corner.addEventListener("click", () => (ended ? askToSignIn() : openMenu(corner)));

  // MLflow's button opens our menu. Its own listens to the pointer and to keys, so that both are kept from it.
  const KEYS = ["Enter", " ", "ArrowDown"];
  const buttonOf = (event) => (event.target instanceof Element ? event.target.closest(BUTTON) : null);
  for (const kind of ["pointerdown", "mousedown", "keydown", "click"]) {
    window.addEventListener(
      kind,
      (event) => {
        const button = buttonOf(event);
        if (!button || (kind === "keydown" && !KEYS.includes(event.key))) return;
        event.stopImmediatePropagation();
        if (kind === "click" || kind === "keydown") {
          event.preventDefault();
          openMenu(button);
        }
      },
      true,
    );
  }

  // The dialog, for when the session has ended under the open page.
  let ended = false;
  let waiting = null; // settles with true when the same person is back, with false at "Not now"
  let settle = () => {};
  const dialog = make("dialog", {});
  dialog.setAttribute("aria-labelledby", "ended");
  dialog.setAttribute("aria-describedby", "why");
  dialog.append(
    make("h2", { id: "ended", textContent: "Your session has ended. Sign in again" }),
    make("p", { id: "why", textContent: "Signing in opens in a new tab. This page stays as it is and goes on afterwards." }),
    make(
      "div",
      { className: "buttons" },
      make("a", {
        className: "first",
        target: "_blank",
        href: at("oauth2/sign_in?rd=" + encodeURIComponent(base.pathname + "-/signed-in")),
        textContent: "Sign in again",
      }),
      make("button", { type: "button", textContent: "Not now", onclick: () => dialog.close() }),
    ),
  );
  const back = (isBack) => {
    settle(isBack);
    waiting = null;
  };
  dialog.addEventListener("close", () => {
    if (ended) back(false);
    show();
  });
  const askToSignIn = () => {
    ended = true;
    waiting ??= new Promise((resolve) => (settle = resolve));
    if (!dialog.open) {
      if (menu.matches(":popover-open")) menu.hidePopover();
      host.removeAttribute("aria-hidden"); // an open dialogue of MLflow's hides all that is not its own
      dialog.showModal();
    }
    show();
    return waiting;
  };
  const look = async () => {
    if (!ended) return;
    const before = await user;
    const now = await whoIsIt();
    if (!now || !ended) return;
    if (now !== before) {
      // Somebody else: what this page holds and what it was about to send are not theirs.
      location.reload();
      return;
    }
    ended = false;
    user = Promise.resolve(now);
    back(true);
    if (dialog.open) dialog.close();
    show();
  };
  try {
    new BroadcastChannel("mlflow-proxy").addEventListener("message", look);
  } catch {
    // Then the polling below finds it out.
  }
  window.addEventListener("focus", look);
  setInterval(() => ended && !document.hidden && look(), POLL);

  // A call that was refused because the session has ended is made again when the person is back: the
  // server did nothing for it. Who chooses "Not now" gets the refusal, as without us.
  const isOurs = (input) => {
    try {
      const url = new URL(input instanceof Request ? input.url : input, document.baseURI);
      return url.origin === base.origin && url.pathname.startsWith(base.pathname);
    } catch {
      return false;
    }
  };
  window.fetch = async (input, init) => {
    if (!sessions || !isOurs(input)) return ask(input, init);
    const again = input instanceof Request ? input.clone() : input;
    const answer = await ask(input, init);
    if (answer.status !== 401) return answer;
    // A 401 may be another's, handed on (a model provider's); ours says so for every call.
    if (!ended && (await whoIsIt()) !== null) return answer;
    if (init?.body instanceof ReadableStream) {
      askToSignIn();
      return answer;
    }
    if (ended && !dialog.open) return answer;
    const signal = init?.signal ?? (input instanceof Request ? input.signal : null);
    const left = new Promise((resolve) => signal?.addEventListener("abort", () => resolve(true), { once: true }));
    const isBack = await Promise.race([askToSignIn(), left]);
    return isBack ? ask(again, init) : answer;
  };

  // Where MLflow shows no button of its own, and after "Not now", a small one of ours stands in the corner.
  let settled = false;
  const show = async () => {
    host.className = document.body.classList.contains("dark-mode") ? "dark" : "";
    const name = await user;
    corner.textContent = ended ? "Signed out: sign in again" : name || "Account";
    corner.ariaLabel = ended ? "" : `Account of ${name || "this session"}`;
    corner.hidden = dialog.open || !(ended || (settled && !document.querySelector(BUTTON)));
  };
  const begin = () => {
    tree.append(menu, dialog, corner);
    document.body.append(host);
    setTimeout(() => (settled = true), SETTLED);
    setInterval(show, 1000);
  };
  if (document.body) begin();
  else window.addEventListener("DOMContentLoaded", begin);
})();
