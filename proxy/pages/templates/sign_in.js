"use strict";
(() => {
  // MLflow's routes are fragments: the browser carried this one here through the redirect, rd carries it on.
  const fragment = location.hash;
  if (fragment.length < 2 || fragment.length > 1500) return;
  const carry = (rd) => (rd.includes("#") ? rd : rd + fragment);
  const field = document.getElementById("rd");
  if (field) field.value = carry(field.value);
  const start = document.getElementById("start");
  if (start) {
    const address = new URL(start.href);
    address.searchParams.set("rd", carry(address.searchParams.get("rd") ?? "/"));
    start.href = address.href;
  }
})();
