"use strict";
// What an operator may do: a menu on each worker's card and each model's row, and a dialog that states the effect.

(() => {
  const { byId } = Panels;
  const user = JSON.parse(byId("user").textContent);
  const ALL = "all";
  const TOLD_MS = 12_000;

  // Those of a kind, as its state leaves something to do. `allowed`: which of the user's permissions it takes.
  const ITEMS = {
    worker: (worker) => [
      { name: "trip", label: "Trip the breaker", icon: "bolt" },
      { name: "reset", label: "Reset the breaker", icon: "ok" },
      worker.isolated ? { name: "unisolate", label: "End the isolation", icon: "ok" } : { name: "isolate", label: "Isolate", icon: "off" },
      worker.draining ? { name: "undrain", label: "End the draining", icon: "ok" } : { name: "drain", label: "Drain", icon: "drain" },
      worker.enabled ? { name: "disable", label: "Disable", icon: "bad" } : { name: "enable", label: "Enable", icon: "ok" },
      { name: "flush", label: "Flush the cache", icon: "flush" },
    ],
    model: (model) => (model.ready ? [{ name: "load", label: "Load again", icon: "cube" }, { name: "unload", label: "Unload", icon: "bad" }] : [{ name: "load", label: "Load", icon: "cube" }]),
    all: () => [{ name: "flush", label: "Flush every cache", icon: "flush" }],
  };
  const MAY = { worker: user.can_operate_workers, model: user.can_operate_models, all: user.can_operate_workers };

  const menu = byId("actions-menu");
  const dialog = byId("action-dialog");
  const form = byId("action-form");
  const confirm = byId("action-confirm");
  let stats = { workers: [], models: [] };
  let opener = null; // the slot whose menu is open, or whose action is in the dialog
  let chosen = null; // {name, label, target}
  let pressed = null; // the button of the menu that was open when the mouse was last pressed on it
  let timer = 0;

  const slotOf = (element) => element.closest("[data-actions]");
  const titleOf = (target) => (target === ALL ? "all workers" : target);

  function stateOf(kind, target) {
    if (kind === "worker") return stats.workers.find((worker) => worker.name === target);
    if (kind === "model") return { ready: stats.models.some((model) => model.name === target && model.state !== "UNAVAILABLE") };
    return {};
  }

  function paintSlots() {
    for (const slot of document.querySelectorAll("[data-actions]")) {
      if (!slot.firstElementChild) slot.append(byId("actions-button-template").content.cloneNode(true));
      Live.setText(slot.querySelector(".visually-hidden"), ` for ${titleOf(slot.dataset.actions)}`);
    }
  }

  function newItem({ name, label, icon }) {
    const item = byId("actions-item-template").content.firstElementChild.cloneNode(true);
    item.dataset.action = name;
    item.querySelector("use").setAttribute("href", `#icon-${icon}`);
    Live.setText(item.querySelector("[data-text]"), label);
    return item;
  }

  function fillMenu(kind, target) {
    const state = stateOf(kind, target);
    const items = MAY[kind] && state ? ITEMS[kind](state).map(newItem) : [];
    menu.querySelector(".items").replaceChildren(...items);
    menu.setAttribute("aria-label", `Actions for ${titleOf(target)}`);
    byId("actions-sign-in").hidden = Boolean(user.name);
    byId("actions-denied").hidden = !user.name || items.length > 0;
    Live.setText(byId("actions-denied"), MAY[kind] ? `${titleOf(target)} is gone.` : `${user.name} may not operate ${kind === "model" ? "models" : "workers"}: an administrator can permit it.`);
  }

  function closeMenu() {
    document.querySelector("[data-actions] > [aria-expanded=true]")?.setAttribute("aria-expanded", "false");
    if (menu.matches(":popover-open")) menu.hidePopover();
  }

  // Below its button, or above where there is no room below; goes where the button goes.
  function placeMenu() {
    if (!menu.matches(":popover-open")) return;
    const at = opener.firstElementChild.getBoundingClientRect();
    const { width, height } = menu.getBoundingClientRect();
    const below = at.bottom + 4 + height <= window.innerHeight || at.top < height + 4;
    menu.style.setProperty("top", `${below ? at.bottom + 4 : at.top - height - 4}px`);
    menu.style.setProperty("left", `${Math.max(8, Math.min(at.right - width, window.innerWidth - width - 8))}px`);
  }

  function openMenu(slot) {
    closeMenu();
    opener = slot;
    fillMenu(slot.dataset.kind, slot.dataset.actions);
    menu.showPopover();
    placeMenu();
    slot.firstElementChild.setAttribute("aria-expanded", "true");
    (menu.querySelector("[role=menuitem]:not([hidden])") || menu).focus();
  }

  function focusOpener() {
    if (!opener) return;
    const { kind, actions } = opener.dataset;
    const slot = opener.isConnected ? opener : document.querySelector(`[data-actions="${CSS.escape(actions)}"][data-kind="${kind}"]`);
    (slot && slot.firstElementChild ? slot.firstElementChild : byId("main")).focus();
  }

  function tell(text, kind) {
    window.clearTimeout(timer);
    const told = byId("action-told");
    told.className = `told ${kind}`;
    told.querySelector("use").setAttribute("href", kind === "good" ? "#icon-ok" : "#icon-warn");
    Live.setText(byId("action-told-text"), text);
    told.hidden = false;
    timer = window.setTimeout(() => (told.hidden = true), TOLD_MS);
  }

  function problem(text, signIn = false) {
    byId("action-problem").hidden = !text;
    Live.setText(byId("action-problem-text"), text);
    byId("action-sign-in").hidden = !signIn;
  }

  function explain(error) {
    if (error.status === 401) problem("You are not signed in any more.", true);
    else if (error.status === 403) problem(`${error.message} If you have signed in elsewhere meanwhile, reload the page.`);
    else problem(error.message);
  }

  // The dialog opens at once; it can be confirmed when the effect is known.
  async function openDialog(name, label, target) {
    const mine = (chosen = { name, label, target });
    form.reset();
    problem("");
    confirm.disabled = true;
    Live.setText(confirm, label);
    Live.setText(byId("action-title"), `${label}: ${titleOf(target)}`);
    Live.setText(byId("action-effect"), "Working out the effect …");
    dialog.showModal();
    byId("action-comment").focus();
    try {
      const { answer } = await Panels.ask(`actions/${name}?${new URLSearchParams({ target })}`);
      if (chosen !== mine) return;
      Live.setText(byId("action-effect"), answer.effect);
      confirm.disabled = !answer.allowed;
      if (!answer.allowed) problem(Panels.sentence(answer.why_not || "You may not do this"));
    } catch (error) {
      if (chosen !== mine) return;
      Live.setText(byId("action-effect"), "");
      explain(error);
    }
  }

  async function perform() {
    const { name, target } = chosen;
    const mine = chosen;
    confirm.disabled = true;
    problem("");
    try {
      const headers = { "Content-Type": "application/json", "X-CSRFToken": user.csrf_token };
      const body = JSON.stringify({ target, comment: form.elements.comment.value.trim() });
      const { answer } = await Panels.ask(`actions/${name}`, { method: "POST", headers, body, signal: AbortSignal.timeout(60_000) });
      if (chosen === mine) dialog.close();
      tell(Panels.sentence(answer.done), "good");
    } catch (error) {
      if (chosen !== mine) return tell(error.message, "bad");
      explain(error);
      confirm.disabled = false;
    }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-actions] > button");
    if (button && !(event.detail && button === pressed)) openMenu(slotOf(button)); // a key's click has no detail
  });
  // A press outside closes the menu before it is a click: on the menu's own button that click must not open it again.
  document.addEventListener("pointerdown", (event) => (pressed = event.target.closest("[data-actions] > [aria-expanded=true]")), true);
  menu.addEventListener("click", (event) => {
    const item = event.target.closest("[data-action]");
    if (!item) return;
    closeMenu();
    openDialog(item.dataset.action, item.textContent.trim(), opener.dataset.actions);
  });
  menu.addEventListener("keydown", (event) => {
    const items = [...menu.querySelectorAll("[role=menuitem]:not([hidden])")];
    const at = items.indexOf(document.activeElement);
    const next = { ArrowDown: (at + 1) % items.length, ArrowUp: (at - 1 + items.length) % items.length, Home: 0, End: items.length - 1 }[event.key];
    if (event.key === "Tab") closeMenu();
    if (next === undefined || !items.length) return;
    event.preventDefault();
    items[next].focus();
  });
  menu.addEventListener("toggle", (event) => {
    if (event.newState !== "closed") return;
    closeMenu();
    if (!dialog.open && (document.activeElement === document.body || menu.contains(document.activeElement))) focusOpener();
  });
  window.addEventListener("scroll", placeMenu, { passive: true });
  window.addEventListener("resize", placeMenu);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!confirm.disabled) perform();
  });
  byId("action-cancel").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    if (dialog.open) return; // opened anew before this was told
    chosen = null;
    focusOpener();
  });
  byId("action-told-close").addEventListener("click", () => (byId("action-told").hidden = true));
  for (const link of document.querySelectorAll("[data-sign-in]")) link.href = user.login_url;
  Panels.onStats((newer) => {
    stats = newer;
    paintSlots();
    if (opener && !opener.isConnected) closeMenu(); // what it was for is gone
  });
})();
