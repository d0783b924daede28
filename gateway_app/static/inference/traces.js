"use strict";
// Requests explained: a sample of all, from GET /traces, each with where its time went, who answered it and why.

const TracePanel = (() => {
  const { byId, swatch, repeat } = Panels;
  const { number, millis, percent, plural } = Live;
  const EVERY_MS = 3000;
  const FAILED = 400; // and every status above
  const PARTS = {
    gateway: "in the gateway",
    waiting: "waiting for earlier attempts",
    network: "on the network",
    worker: "in the worker",
    queue: "waiting for a batch",
    compute: "in the model",
  };
  const CACHE = {
    gateway: "kept by the gateway: no worker was asked",
    hit: "in the worker's cache",
    joined: "the same input was being computed already: it waited for that",
    miss: "nowhere: the model ran",
  };
  const RELEASES = { full: "it was full", timeout: "the longest wait was over", free: "the model was free", first: "its input is watched, and runs alone" };
  const KEPT = { explained: "its explanation was asked for", sampled: "one of a sample of all", failed: "it failed", slow: "it was very slow" };
  const OUTCOMES = { answered: ["good", "ok"], hedged: ["info", "half"], "under way": ["info", "half"], busy: ["warn", "warn"], gone: ["warn", "off"] };

  const list = byId("traces");
  const form = byId("traces-filter");
  const rows = new Map();
  let traces = [];
  let sampled = null;
  let slowMs = Infinity;
  let problem = "";

  const isFailed = (trace) => trace.status >= FAILED;
  const isSlow = (trace) => trace.kept === "slow" || trace.total_ms > slowMs;

  function statusOf(trace) {
    if (trace.status < FAILED) return ["good", "ok"];
    return trace.status < 500 ? ["warn", "warn"] : ["bad", "bad"];
  }

  // The parts in the order in which a request goes through them; rounding must not make a bar wider than its track.
  function partsOf(trace) {
    const parts = Object.keys(PARTS).map((name) => ({ name, ms: trace.parts_ms[name] || 0 }));
    const whole = Math.max(trace.total_ms, parts.reduce((sum, part) => sum + part.ms, 0)) || 1;
    return parts.map((part) => ({ ...part, share: part.ms / whole }));
  }

  function paintBar(bar, trace) {
    for (const { name, share } of partsOf(trace)) bar.querySelector(`[data-part=${name}]`).style.setProperty("width", `${(share * 100).toFixed(2)}%`);
  }

  function batchText({ batch }) {
    if (!batch) return "";
    const session = batch.session == null ? "" : `, in session ${number(batch.session)}`;
    return `number ${number(batch.id)}, ${plural(batch.rows, "row", "rows")} of ${plural(batch.requests, "request", "requests")}, started because ${RELEASES[batch.release] || batch.release}${session}`;
  }

  // All that is known of a trace, as an element of its own.
  function details(trace) {
    const root = byId("trace-details-template").content.cloneNode(true);
    Live.fill(root, {
      answered: `${trace.answered_by || "nobody"}, ${isFailed(trace) ? `status ${trace.status}` : `in ${millis(trace.total_ms)}`}`,
      owner: trace.owner || "none",
      why: trace.why || "",
      cache: CACHE[trace.cache] || trace.cache || "",
      batch: batchText(trace),
      model: trace.version ? `${trace.model}, version ${trace.version}` : trace.model,
      key: trace.key || "",
      kept: KEPT[trace.kept] || trace.kept || "",
      id: trace.id,
      total: millis(trace.total_ms),
    });
    for (const row of root.querySelectorAll("dl > div")) row.hidden = ![...row.querySelectorAll("[data-text]")].some((element) => element.textContent);
    swatch(root.querySelector(".swatch"), trace.owner || "");
    const parts = partsOf(trace).filter((part) => part.ms > 0);
    repeat(root.querySelector(".parts tbody"), byId("trace-part-template"), parts, (row, { name, ms, share }) => {
      row.querySelector(".part").dataset.part = name;
      Live.fill(row, { name: PARTS[name], ms: millis(ms), share: percent(share) });
    });
    const attempts = trace.attempts || [];
    root.querySelector(".attempts").hidden = attempts.length === 0;
    repeat(root.querySelector(".attempts tbody"), byId("trace-attempt-template"), attempts, (row, attempt) => {
      const [kind, icon] = OUTCOMES[attempt.outcome] || ["bad", "bad"];
      Live.badge(row, "outcome", kind, icon);
      Live.fill(row, { worker: attempt.worker, began: attempt.began_ms == null ? Live.NONE : `after ${millis(attempt.began_ms)}`, took: millis(attempt.took_ms), outcome: attempt.outcome, reason: attempt.reason || "" });
    });
    return root;
  }

  function newRow(trace) {
    const row = byId("trace-template").content.firstElementChild.cloneNode(true);
    const [kind, icon] = statusOf(trace);
    Live.badge(row, "status", kind, icon);
    Live.fill(row, {
      status: String(trace.status),
      model: trace.model,
      by: [trace.answered_by, trace.cache !== "gateway" && trace.cache].filter(Boolean).join(" · "),
      tries: trace.attempts && trace.attempts.length > 1 ? plural(trace.attempts.length, "attempt", "attempts") : "",
      total: millis(trace.total_ms),
    });
    Panels.writeTime(row.querySelector("time"), trace.at);
    paintBar(row.querySelector(".stack"), trace);
    const opened = row.querySelector("details");
    opened.addEventListener("toggle", () => {
      if (opened.open && !opened.querySelector(".details").hasChildNodes()) opened.querySelector(".details").append(details(trace));
    });
    return row;
  }

  function emptyText(filter) {
    if (problem) return "";
    if (sampled == null) return "Asking the gateway for them.";
    if (filter && traces.length) return `None of the ${plural(traces.length, "request", "requests")} kept is ${filter === "slow" ? `slower than ${millis(slowMs)}` : "a failed one"}.`;
    return "No request has been sampled yet. Send one and it is here: about one in each second is kept, and every one that fails or is very slow.";
  }

  // Rows are kept while their trace is: what is open stays open, and what is focused stays focused.
  function paint() {
    const filter = form.elements.requests.value;
    const shown = traces.filter((trace) => (filter === "failed" ? isFailed(trace) : filter === "slow" ? isSlow(trace) : true));
    const kept = new Set(shown.map((trace) => trace.id));
    for (const [id, row] of rows) {
      if (kept.has(id)) continue;
      row.remove();
      rows.delete(id);
    }
    let previous = null;
    for (const trace of shown) {
      if (!rows.has(trace.id)) rows.set(trace.id, newRow(trace));
      const row = rows.get(trace.id);
      const place = previous ? previous.nextElementSibling : list.firstElementChild;
      if (place !== row) list.insertBefore(row, place);
      previous = row;
    }
    byId("traces-box").hidden = shown.length === 0;
    byId("traces-none").hidden = shown.length > 0 || Boolean(problem);
    Live.setText(byId("traces-none"), emptyText(filter));
    Live.setText(byId("traces-slow"), Number.isFinite(slowMs) ? `Slow: over ${millis(slowMs)}` : "Slow");
    Live.setText(byId("traces-count"), sampled == null ? "" : `${plural(shown.length, "request", "requests")}, the newest first; ${sampled.toFixed(1)} kept per second.`);
    byId("traces-error").hidden = !problem;
    Live.setText(byId("traces-error-text"), problem && `Requests can't be shown: ${problem} Trying again.`);
  }

  const isPaused = () => byId("traces-pause").getAttribute("aria-pressed") === "true";

  async function load() {
    if (isPaused()) return;
    const found = await Panels.ask("traces").catch((error) => ({ error }));
    if (isPaused()) return; // meanwhile
    problem = found.error ? found.error.message : "";
    if (found.answer) {
      traces = found.answer.traces;
      sampled = found.answer.sampled_per_s;
    }
    paint();
  }

  Panels.onStats((stats) => {
    byId("traces-section").hidden = stats.workers.length === 0;
    slowMs = stats.gateway.p95_ms ?? Infinity;
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    Panels.setFilters({ requests: form.elements.requests.value });
    paint();
  });
  byId("traces-pause").addEventListener("click", ({ currentTarget: pause }) => {
    const paused = pause.getAttribute("aria-pressed") !== "true";
    pause.setAttribute("aria-pressed", String(paused));
    if (!paused) load();
  });
  Panels.onFilters((filters) => {
    const requests = filters.get("requests");
    form.elements.requests.value = ["slow", "failed"].includes(requests) ? requests : "";
    paint();
  });
  const example = `curl -si ${new URL("infer", document.baseURI).href} -H 'X-Explain: 1' -d '{"request_id": "why", "input_data": [0.1, 0.2]}'`;
  Live.setText(byId("traces-example"), example);
  Panels.whileSeen(byId("traces-section"), EVERY_MS, load);

  return { details };
})();
