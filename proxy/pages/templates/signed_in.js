"use strict";
(() => {
  try {
    new BroadcastChannel("mlflow-proxy").postMessage("signed-in");
  } catch {
    // The waiting tab asks by itself, too.
  }
  // A browser closes only a tab that a script opened, and not every one of those.
  window.close();
})();
