"use strict";
// The models' part of the gateway's page: a row per model and version, and what each worker's breaker says of it.

const ModelTable = (() => {
  const { NONE, number, decimal, percent, plural, millis, provider } = Live;
  const rows = new Map();

  const STATES = {
    CLOSED: { kind: "good", icon: "ok" },
    HALF_OPEN: { kind: "warn", icon: "half" },
    OPEN: { kind: "bad", icon: "bad" },
  };
  const MODEL_STATES = {
    READY: { kind: "good", icon: "ok" },
    LOADING: { kind: "info", icon: "half" },
    UNAVAILABLE: { kind: "bad", icon: "bad" },
  };

  // Why a model is not served that an operator has unloaded: nothing is wrong with it.
  const UNLOADED = "unloaded";

  function stateOf({ state, reason }) {
    if (reason === UNLOADED) return { kind: "quiet", icon: "off", text: "UNLOADED" };
    return { ...(MODEL_STATES[state] || { kind: "quiet", icon: "off" }), text: state };
  }

  // What the workers report of this version, added up.
  function totals(model, workers) {
    const reports = workers
      .flatMap((worker) => (worker.node && worker.node.models) || [])
      .filter((report) => report.name === model.name && report.version === model.version);
    const sum = (value) => reports.reduce((total, report) => total + value(report), 0);
    const batches = sum((report) => report.batch_processor.total_batches);
    const rows = sum((report) => report.batch_processor.total_batches * report.batch_processor.avg_batch_size);
    return {
      // The gateway's own hits never reach a worker, so they are in neither of the workers' counts.
      asked: sum((report) => report.total_requests) + model.hot_hits,
      hits: sum((report) => report.cache_hits) + model.hot_hits,
      queue: sum((report) => report.queue),
      meanBatch: batches ? rows / batches : null,
    };
  }

  function notes(model) {
    const reasons = new Map();
    for (const { name, reason } of model.workers) {
      if (reason && reason !== UNLOADED) reasons.set(reason, [...(reasons.get(reason) || []), name]);
    }
    if (model.reason && model.reason !== UNLOADED && !reasons.has(model.reason)) reasons.set(model.reason, []);
    return [...reasons].map(([reason, names]) => (names.length ? `${names.join(", ")}: ${reason}` : reason)).join(" ");
  }

  function havingIt(model, workers) {
    const connected = workers.filter((worker) => worker.connected).length;
    const ready = model.workers.filter((worker) => worker.state === "READY").length;
    const loading = model.workers.filter((worker) => worker.state === "LOADING").length;
    return [`${ready} of ${plural(Math.max(connected, ready), "worker", "workers")}`, loading && `${loading} loading`].filter(Boolean).join(" · ");
  }

  function paintBreakers(list, breakers) {
    const template = document.getElementById("breaker-template");
    while (list.children.length > breakers.length) list.lastElementChild.remove();
    while (list.children.length < breakers.length) list.append(template.content.cloneNode(true));
    breakers.forEach((breaker, place) => {
      const { kind, icon } = STATES[breaker.state];
      Live.badge(list.children[place], "state", kind, icon);
      Live.fill(list.children[place], { worker: breaker.name, state: breaker.state });
    });
  }

  function paintModel(row, model, workers, breakers) {
    const { asked, hits, queue, meanBatch } = totals(model, workers);
    const { kind, icon, text } = stateOf(model);
    const note = notes(model);
    row.dataset.model = `${model.name}/${model.version}`;
    row.querySelector("[data-actions]").dataset.actions = model.name;
    Live.badge(row, "state", kind, icon);
    Live.fill(row, {
      name: model.name,
      version: [model.version && `version ${model.version}`, model.default && "answers /infer", model.provider && provider(model.provider)].filter(Boolean).join(" · "),
      state: text,
      workers: havingIt(model, workers),
      rate: `${Live.rate(model.requests_per_s)}/s`,
      requests: `${number(model.requests)} in all · ${number(model.in_flight)} in flight`,
      p50: millis(model.p50_ms),
      p99: `p99 ${millis(model.p99_ms)}`,
      hitRate: model.cached && asked ? percent(hits / asked) : NONE,
      hits: model.cached ? `${number(hits)} hits` : "results are not kept",
      meanBatch: decimal(meanBatch),
      queue: `${model.batches ? `of up to ${number(model.max_batch_size)}` : "one by one"} · ${number(queue)} waiting`,
      errorShare: Live.errorShare(model),
      errors: plural(model.errors, "error", "errors"),
      notes: note,
    });
    row.querySelector("[data-link=edit]").href = `${document.getElementById("models").dataset.editUrl}?name=${encodeURIComponent(model.name)}`;
    row.querySelector(".notes").hidden = !note;
    row.querySelector(".notes").classList.toggle("trouble", kind === "bad");
    paintBreakers(row.querySelector(".breakers ul"), breakers);
  }

  // A breaker's `model` is the name, with the version only where several are served.
  const isOf = (breaker, model) => breaker.model === model.name || breaker.model === `${model.name}/${model.version}`;

  // Each name's first row can be linked to.
  function label(rowsInOrder, models) {
    const named = new Set();
    rowsInOrder.forEach((row, place) => {
      const { name } = models[place];
      if (named.has(name)) row.removeAttribute("id");
      else row.id = `model-${name}`;
      named.add(name);
    });
  }

  function paint({ models, workers, circuit_breakers: breakers }) {
    const table = document.getElementById("models");
    let previous = table.tHead;
    const kept = new Set();
    for (const model of models) {
      const key = `${model.name}/${model.version}`;
      if (!rows.has(key)) rows.set(key, document.getElementById("served-template").content.firstElementChild.cloneNode(true));
      const row = rows.get(key);
      kept.add(key);
      paintModel(row, model, workers, breakers.filter((breaker) => isOf(breaker, model)));
      // Moved only when out of place: moving an element takes the keyboard's focus from it.
      if (previous.nextElementSibling !== row) previous.after(row);
      previous = row;
    }
    for (const [key, row] of rows) {
      if (!kept.has(key)) {
        row.remove();
        rows.delete(key);
      }
    }
    label([...table.tBodies], models);
    table.classList.toggle("one", models.length < 2);
    document.getElementById("models-section").hidden = models.length === 0;
    document.getElementById("no-models").hidden = models.length > 0 || !workers.some((worker) => worker.connected);
  }

  return { STATES, paint };
})();
