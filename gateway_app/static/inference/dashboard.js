"use strict";
// The gateway's page. Everything on it comes from one answer of /stats; the first one is inside the page.

(() => {
  const { NONE, number, decimal, percent, plural, millis, duration, provider } = Live;
  const byId = (id) => document.getElementById(id);
  const table = byId("workers");
  const editUrl = table.dataset.editUrl;
  const rows = new Map();

  const { STATES } = ModelTable;
  const WORST_FIRST = ["OPEN", "HALF_OPEN", "CLOSED"];

  function mode(worker) {
    if (!worker.enabled) return { text: "Disabled", kind: "quiet", icon: "off" };
    if (worker.isolated) return { text: "Isolated", kind: "info", icon: "off" };
    if (worker.draining) return { text: "Draining", kind: "info", icon: "drain" };
    if (!worker.connected) return { text: "Disconnected", kind: "bad", icon: "bad" };
    return { text: "", kind: "", icon: "" };
  }

  // Of a worker's breakers, one per model: the one that matters most, and how many there are.
  function worst(breakers) {
    const [first] = breakers.toSorted((a, b) => WORST_FIRST.indexOf(a.state) - WORST_FIRST.indexOf(b.state));
    return first && { ...first, of: breakers.length };
  }

  function counts(breaker) {
    if (!breaker) return "";
    return breaker.of > 1 ? `${breaker.model}: ${countsOfOne(breaker)}` : countsOfOne(breaker);
  }

  function countsOfOne(breaker) {
    if (breaker.state === "OPEN") return `opened ${plural(breaker.opens, "time", "times")}`;
    if (breaker.state === "HALF_OPEN") return `${breaker.successes} of ${plural(breaker.success_threshold, "success", "successes")} to close`;
    return `${breaker.failures} of ${plural(breaker.failure_threshold, "failure", "failures")} to open`;
  }

  function since(breaker) {
    if (!breaker) return "takes no requests";
    const retry = breaker.retry_after_s == null ? "" : ` · retry in ${Math.ceil(breaker.retry_after_s)} s`;
    return `for ${duration(breaker.since_s)}${retry}`;
  }

  function notes(worker, breaker) {
    const lines = [];
    if (!worker.enabled) lines.push("Disabled in the admin: its keys go to the other workers.");
    else if (worker.isolated) lines.push("Isolated in the admin: it stays connected and gets no requests.");
    else if (worker.draining) lines.push("Draining: it finishes what it has and takes no new requests.");
    else if (!worker.connected) lines.push("Disconnected: the gateway keeps trying to reach it.");
    else if (worker.idle) lines.push("Idle: there is no model to serve.");
    if (worker.silent) lines.push("Silent: it does not even answer a ping.");
    if (breaker && breaker.cause && breaker.state === "OPEN") lines.push(`Cause: ${breaker.cause}.`);
    const errors = new Set([breaker && breaker.last_error, worker.last_error].filter(Boolean));
    for (const error of errors) lines.push(`Last error: ${error}`);
    if (worker.connected && worker.stats_age_s > 3) lines.push(`Its last report is ${duration(worker.stats_age_s)} old.`);
    return lines.join(" ");
  }

  function modelNames({ node }) {
    const others = new Set((node.models || []).map((model) => model.name));
    others.delete(node.model);
    return others.size ? `${node.model} and ${plural(others.size, "other", "others")}` : node.model || "none";
  }

  function newRow() {
    const row = byId("worker-template").content.firstElementChild.cloneNode(true);
    table.append(row);
    return row;
  }

  function paintWorker(worker, breaker, widest) {
    const key = `${worker.name} ${worker.address}`;
    if (!rows.has(key)) rows.set(key, newRow());
    const row = rows.get(key);
    const node = worker.node;
    const batches = node && node.batch_processor;
    const state = breaker ? STATES[breaker.state] : { kind: "", icon: "" };
    const { text, kind, icon } = mode(worker);
    const note = notes(worker, breaker);
    const weight = worker.weight === 1 ? "" : ` · weight ${worker.weight}`;
    row.dataset.worker = worker.name;
    Live.badge(row, "state", state.kind, state.icon);
    Live.badge(row, "mode", kind, icon);
    Live.bar(row, "keys", worker.key_share / widest);
    Live.bar(row, "traffic", worker.traffic_share / widest);
    Live.fill(row, {
      name: worker.name,
      address: worker.address + weight,
      editName: ` ${worker.name} in the admin`,
      state: breaker ? breaker.state : "",
      mode: text,
      since: since(breaker),
      counts: counts(breaker),
      requests: number(worker.requests),
      inFlight: `${number(worker.in_flight)}${worker.limit ? ` of ${number(worker.limit)}` : ""} in flight`,
      hitRate: node ? percent(node.cache_hit_rate) : NONE,
      cacheSize: node ? `${number(node.cache_size)} cached` : "no report yet",
      meanBatch: batches ? decimal(batches.avg_batch_size) : NONE,
      batches: batches ? `${number(batches.full_batches)} full · ${number(batches.timeout_batches)} timeout · ${number(batches.free_batches)} free` : "",
      keys: percent(worker.key_share),
      traffic: percent(worker.traffic_share),
      model: node ? modelNames(worker) : NONE,
      provider: node ? provider(node.provider) : "",
      notes: note,
    });
    row.querySelector("[data-link=page]").href = `http://${worker.address}/`;
    row.querySelector("[data-link=edit]").href = `${editUrl}?name=${encodeURIComponent(worker.name)}`;
    const notesRow = row.querySelector(".notes");
    notesRow.hidden = !note;
    notesRow.classList.toggle("trouble", worker.enabled && !worker.routable && !worker.idle && !worker.draining && !worker.isolated);
    row.classList.toggle("out", !worker.enabled);
    return row;
  }

  function paintWorkers(workers, breakers) {
    const byName = new Map(workers.map(({ name }) => [name, worst(breakers.filter((breaker) => breaker.name === name))]));
    // An even share fills half a bar, so that too much is seen as well as too little; nothing is wider than its track.
    const even = 1 / Math.max(1, workers.filter((worker) => worker.enabled).length);
    const widest = Math.max(...workers.flatMap((worker) => [worker.key_share, worker.traffic_share]), Math.min(1, 2 * even));
    const kept = new Set(workers.map((worker) => paintWorker(worker, byName.get(worker.name), widest)));
    for (const [key, row] of rows) {
      if (!kept.has(row)) {
        row.remove();
        rows.delete(key);
      }
    }
    // Moved only when out of place: moving an element takes the keyboard's focus from it.
    let previous = table.tHead;
    for (const row of kept) {
      if (previous.nextElementSibling !== row) previous.after(row);
      previous = row;
    }
    byId("workers-section").hidden = workers.length === 0;
    byId("empty").hidden = workers.length > 0;
  }

  function paintGateway(gateway, workers) {
    const enabled = workers.filter((worker) => worker.enabled);
    const up = enabled.filter((worker) => worker.routable || worker.idle).length;
    const idle = enabled.filter((worker) => worker.idle).length;
    const nodes = workers.map((worker) => worker.node).filter(Boolean);
    // The gateway's own hits never reach a worker, so they are in neither of the workers' counts.
    const served = nodes.reduce((sum, node) => sum + node.total_requests, gateway.hot_hits);
    const hits = nodes.reduce((sum, node) => sum + node.cache_hits, gateway.hot_hits);
    const disabled = workers.length - enabled.length;
    const isolated = enabled.filter((worker) => worker.isolated).length;
    const draining = enabled.filter((worker) => worker.draining && !worker.isolated && !worker.routable).length;
    const down = enabled.length - up - draining - isolated;
    const upNotes = [idle && "no model to serve", down && `${down} down`, isolated && `${isolated} isolated`, draining && `${draining} draining`, disabled && `${disabled} disabled`];
    Live.fill(byId("gateway"), {
      up: `${up} of ${enabled.length}`,
      upNote: upNotes.filter(Boolean).join(" · ") || (enabled.length ? "all take requests" : "none to ask"),
      rate: Live.rate(gateway.requests_per_s),
      requests: `${number(gateway.requests)} in all`,
      p50: millis(gateway.p50_ms),
      p95: millis(gateway.p95_ms),
      p99: millis(gateway.p99_ms),
      errorShare: Live.errorShare(gateway),
      errors: plural(gateway.errors, "error", "errors"),
      hitRate: served ? percent(hits / served) : NONE,
      hits: `${number(hits)} hits, ${number(gateway.hot_hits)} in the gateway`,
      inFlight: number(gateway.in_flight),
      spills: plural(gateway.spills, "spill", "spills"),
      retries: number(gateway.retries),
      retriesNote: gateway.budget_exhausted ? `${number(gateway.budget_exhausted)} over budget` : "within budget",
      hedges: number(gateway.hedges),
      hedgesNote: `${number(gateway.hedge_wins)} won`,
      refused: number(gateway.shed),
      refusedNote: [
        `${number(gateway.expired)} too late`,
        plural(gateway.cancelled, "client left", "clients left"),
        gateway.suspects_refused && plural(gateway.suspects_refused, "suspect", "suspects"),
      ].filter(Boolean).join(" · "),
      revision: `rev ${gateway.revision}`,
      uptime: `up ${duration(gateway.uptime_s)}`,
    });
    byId("tile-workers").classList.toggle("trouble", up < enabled.length || enabled.length === 0);
    byId("config-error").hidden = !gateway.config_error;
    Live.setText(byId("config-error-text"), `Revision ${gateway.revision} stays in force, newer settings cannot be read: ${gateway.config_error}`);
    byId("draining").hidden = !gateway.draining;
    return { up, total: enabled.length };
  }

  function render(stats) {
    const { gateway, workers, circuit_breakers: breakers } = stats;
    const { up, total } = paintGateway(gateway, workers);
    paintWorkers(workers, breakers);
    ModelTable.paint(stats);
    document.dispatchEvent(new CustomEvent("stats", { detail: stats })); // for every other part of the page
    const trouble = [];
    if (gateway.draining) trouble.push("Draining");
    if (total === 0) trouble.push("No workers");
    else if (up < total) trouble.push(`${up} of ${total} up`);
    if (gateway.config_error) trouble.push("config error");
    return { title: "Inference gateway", trouble: trouble.join(", ") };
  }

  Live.start({ source: "stats", requires: "circuit_breakers", render, initial: JSON.parse(byId("stats").textContent) });
})();
