"use strict";
// Shows the contents anew with each event. The page is complete without it.
(() => {
  const live = document.getElementById("live");
  const link = document.getElementById("link");
  let latest = null;
  const show = () => {
    // Who selects something wants to copy it.
    if (latest === null || document.hidden || !getSelection().isCollapsed) return;
    live.innerHTML = latest;
    latest = null;
    document.title = live.querySelector("header").dataset.title;
  };
  const state = (name, text) => {
    document.body.dataset.link = name;
    link.textContent = text;
  };
  const source = new EventSource("events");
  source.addEventListener("status", (event) => {
    latest = event.data;
    state("live", "live");
    show();
  });
  source.onerror = () => state("lost", "not connected");
  document.addEventListener("visibilitychange", show);
})();
