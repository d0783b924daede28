"use strict";
// What happened of late, the newest first: a log with filters, which are kept in the page's address.

(() => {
  const { byId, repeat } = Panels;
  const KINDS = {
    breaker: { word: "Breaker", icon: "bolt" },
    worker: { word: "Worker", icon: "server" },
    model: { word: "Model", icon: "cube" },
    config: { word: "Config", icon: "sliders" },
    action: { word: "Action", icon: "hand" },
  };
  const OTHER = { word: "Event", icon: "bolt" };
  const QUIET_MS = 10_000; // news are told at most this often

  const section = byId("events-section");
  const form = byId("events-filter");
  const choice = byId("events-worker");
  const admin = byId("events-admin");
  let events = [];
  let newest = null; // of those seen, by its time
  let untold = [];
  let toldAt = -QUIET_MS;

  const wanted = () => ({ kind: form.elements.kind.value, worker: choice.value, text: form.elements.text.value.trim() });

  function matches(event, { kind, worker, text }) {
    if (kind && event.kind !== kind) return false;
    if (worker && event.worker !== worker) return false;
    const all = [event.worker, event.model, event.before, event.after, event.reason, event.author].join(" ").toLowerCase();
    return all.includes(text.toLowerCase());
  }

  function paintEvent(item, event) {
    const { word, icon } = KINDS[event.kind] || OTHER;
    const state = event.kind === "breaker" && ModelTable.STATES[event.after];
    item.dataset.kind = event.kind;
    item.querySelector(".kind use").setAttribute("href", `#icon-${icon}`);
    Live.badge(item, "after", state ? state.kind : "", state ? state.icon : "");
    const named = [event.worker, event.model].filter(Boolean).join(" · ");
    const plain = !state && event.after ? (event.before ? `${event.before} → ${event.after}` : event.after) : "";
    Live.fill(item, {
      age: `${Live.duration(event.age_s)} ago`,
      kind: word,
      subject: named,
      before: state && event.before ? `${event.before} →` : plain,
      after: state ? event.after : "",
      reason: event.reason,
      author: event.author ? `by ${event.author}` : "",
    });
    Panels.writeTime(item.querySelector("time"), event.at, item.querySelector(".clock"));
  }

  function paintList() {
    const filter = wanted();
    const shown = events.filter((event) => matches(event, filter)).reverse();
    const filtered = Boolean(filter.kind || filter.worker || filter.text);
    repeat(byId("events"), byId("event-template"), shown, paintEvent);
    byId("events-box").hidden = shown.length === 0;
    byId("events-none").hidden = shown.length > 0;
    byId("events-clear").hidden = !filtered;
    const none = filtered && events.length ? `None of the newest ${events.length} events is like that.` : "Nothing has happened yet: changes of breakers, workers, models and settings will be listed here.";
    Live.setText(byId("events-none"), none);
    const count = filtered ? `${shown.length} of the newest ${events.length}` : events.length ? `The newest ${events.length}` : "";
    Live.setText(byId("events-count"), count && `${count}; times in ${Panels.zone()}.`);
    const query = new URLSearchParams();
    if (filter.kind) query.set("kind__exact", filter.kind);
    if (filter.worker) query.set("worker", filter.worker);
    if (filter.text) query.set("q", filter.text);
    admin.search = query.toString();
  }

  function paintChoice(workers) {
    const chosen = choice.value || Panels.filters().get("worker") || "";
    const names = [...new Set([...workers.map((worker) => worker.name), ...events.map((event) => event.worker), chosen])].filter(Boolean).sort(Panels.natural);
    const values = ["", ...names];
    if (values.join("\n") === [...choice.options].map((option) => option.value).join("\n")) return;
    choice.replaceChildren(...values.map((name) => new Option(name || "All workers", name)));
    choice.value = chosen;
  }

  // Told to screen readers when they have nothing else to say; many at once as their number.
  function tell() {
    const latest = events.length ? Math.max(...events.map((event) => Date.parse(event.at))) : 0;
    if (newest !== null) untold.push(...events.filter((event) => Date.parse(event.at) > newest));
    newest = Math.max(newest || 0, latest);
    if (!untold.length || performance.now() - toldAt < QUIET_MS) return;
    const [event] = untold;
    const one = `${event.worker || event.model} ${event.after}: ${event.reason}`.trim();
    Live.setText(byId("events-news"), untold.length === 1 ? one : `${untold.length} new events`);
    untold = [];
    toldAt = performance.now();
  }

  function paint(stats) {
    events = stats.events;
    paintChoice(stats.workers);
    paintList();
    tell();
  }

  function changed() {
    Panels.setFilters(wanted());
    paintList();
  }

  function apply(filters) {
    const kind = filters.get("kind") || "";
    form.elements.kind.value = kind in KINDS ? kind : "";
    const worker = filters.get("worker") || "";
    if (![...choice.options].some((option) => option.value === worker)) choice.append(new Option(worker, worker));
    choice.value = worker;
    form.elements.text.value = filters.get("text") || "";
    paintList();
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", changed);
  choice.addEventListener("change", changed);
  byId("events-clear").addEventListener("click", () => {
    form.reset();
    choice.value = "";
    changed();
    form.elements.text.focus();
  });
  Panels.onFilters(apply);
  Panels.onStats(paint);
  section.hidden = false;
})();
