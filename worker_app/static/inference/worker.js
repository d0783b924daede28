"use strict";
// A worker's own page. Everything on it comes from one answer of the worker's /health.

(() => {
  const { number, decimal, percent, plural, duration, bytes, provider } = Live;
  const byId = (id) => document.getElementById(id);
  const page = byId("worker");

  const shape = (dimensions) => `[${dimensions.map((size) => (size == null || size < 0 ? "N" : size)).join(", ")}]`;

  function state(health) {
    if (health.draining) return { text: "Draining", kind: "info", icon: "drain" };
    if (!health.ready) return { text: "Starting", kind: "warn", icon: "half" };
    if (!health.healthy) return { text: "Unhealthy", kind: "bad", icon: "bad" };
    return { text: "Ready", kind: "good", icon: "ok" };
  }

  function banner(id, text) {
    byId(id).hidden = !text;
    Live.fill(byId(id), { text });
  }

  function notReady(health) {
    if (health.draining) return "Draining: this worker finishes what it has and stops once its gateways have left.";
    if (!health.ready) return "Starting: the model is being loaded and warmed up.";
    if (!health.model.name) {
      if (!health.models.length) return "No model: put one into the repository, then load it.";
      const serves = health.models.some((model) => model.state === "READY" && model.current);
      return serves ? "No model of a plain /infer: requests must name one, or set one in the admin." : "No model is served; what each of them waits for is below.";
    }
    return health.healthy ? "" : "Unhealthy: the engine does not run the model. The worker's log says why.";
  }

  function stateOf(model) {
    if (model.state === "LOADING") return { text: "Loading", kind: "info", icon: "half" };
    if (model.reason === "unloaded") return { text: "Unloaded", kind: "quiet", icon: "drain" };
    if (model.state !== "READY") return { text: "Not loaded", kind: "bad", icon: "bad" };
    return model.current ? { text: "Ready", kind: "good", icon: "ok" } : { text: "Leaving", kind: "info", icon: "drain" };
  }

  // One row for each version, loaded or not; a single model that serves is told in full below.
  function paintModels(models) {
    const table = byId("models");
    const worth = models.length > 1 || models.some((model) => model.state !== "READY");
    table.hidden = !worth;
    const rows = [...table.querySelectorAll("tbody")];
    const shown = worth ? models : [];
    for (const row of rows.slice(shown.length)) row.remove();
    for (const [place, model] of shown.entries()) {
      const row = rows[place] || table.appendChild(byId("model-row").content.firstElementChild.cloneNode(true));
      const { text, kind, icon } = stateOf(model);
      const batches = model.batch_processor;
      Live.badge(row, "state", kind, icon);
      Live.fill(row, {
        name: model.name,
        version: `${model.version ? `version ${model.version}` : ""}${model.default ? ", default" : ""}`,
        state: text,
        provider: provider(model.provider),
        requests: number(model.total_requests),
        hitRate: model.total_requests ? percent(model.cache_hit_rate) : Live.NONE,
        batches: number(batches && batches.total_batches),
        meanBatch: decimal(batches && batches.avg_batch_size),
        reason: text === "Not loaded" ? model.reason : "",
      });
      row.querySelector(".notes").hidden = text !== "Not loaded";
    }
  }

  function aboutModel(model, health) {
    if (!model.name) return {};
    const onCpu = provider(health.provider) === "CPU";
    const padded = model.pad_with_zeros ? ", short inputs are padded with zeros" : "";
    const others = model.inputs && model.inputs.length > 1 ? ` and ${model.inputs.length - 1} more` : "";
    return {
      modelHeading: (health.models || []).length > 1 ? "Default model" : "Model",
      model: model.name,
      provider: onCpu && health.fallback_reason ? "CPU (fallback)" : provider(health.provider),
      input: `${model.input} · ${model.input_type} ${shape(model.input_shape)}${others}${padded}`,
      output: `${model.output} · ${shape(model.output_shape)}`,
      batching: model.batches ? "in batches" : "one by one",
      file: model.file,
      digest: model.digest,
    };
  }

  function released(batches, name) {
    const count = batches[`${name}_batches`];
    const part = batches.total_batches ? count / batches.total_batches : 0;
    Live.bar(page, name, part);
    return `${number(count)} · ${percent(part)}`;
  }

  function render(health) {
    const { model, settings, batch_processor: batches } = health;
    const { text, kind, icon } = state(health);
    Live.badge(page, "state", kind, icon);
    Live.bar(page, "entries", health.cache_capacity ? health.cache_size / health.cache_capacity : 0);
    Live.bar(page, "memory", settings.cache_bytes ? health.cache_bytes / settings.cache_bytes : 0);
    Live.fill(page, {
      state: text,
      uptime: `up ${duration(health.uptime_s)}`,
      requests: number(health.total_requests),
      errors: plural(health.errors, "error", "errors"),
      hitRate: health.total_requests ? percent(health.cache_hit_rate) : Live.NONE,
      hits: `${number(health.cache_hits)} hits`,
      meanBatch: decimal(batches.avg_batch_size),
      batches: plural(batches.total_batches, "batch", "batches"),
      queue: number(health.queue),
      gateways: number(health.gateways),
      ...aboutModel(model, health),
      entries: `${number(health.cache_size)} of ${number(health.cache_capacity)}`,
      memory: `${bytes(health.cache_bytes)} of ${bytes(settings.cache_bytes)}`,
      free: released(batches, "free"),
      full: released(batches, "full"),
      timeout: released(batches, "timeout"),
      revision: number(settings.revision),
      cacheLimit: `${number(settings.cache_entries)} entries, ${bytes(settings.cache_bytes)}`,
      batchSize: plural(settings.batch_size, "request", "requests"),
      batchWait: `${settings.batch_wait_ms} ms`,
      queueLimit: `${number(settings.queue_ms)} ms of work`,
      dispatch: settings.batch_eager ? "at once when the engine is free" : "when full, or after the longest wait",
    });
    Live.setText(byId("node-id"), health.node_id);
    paintModels(health.models || []);
    byId("model").hidden = !model.name;
    banner("fallback", health.fallback_reason ? `Running on the CPU, not on a GPU: ${health.fallback_reason}` : "");
    banner("not-ready", notReady(health));
    page.hidden = false;
    return { title: `${health.node_id} — Inference worker`, trouble: text === "Ready" ? "" : text, level: kind };
  }

  const freshness = Freshness.keep(render);
  let stop = null;

  // A tab that nobody sees asks for nothing.
  function turn() {
    if (stop) stop();
    freshness.resume();
    stop = document.hidden ? null : Freshness.poll({ source: "health", requires: "batch_processor", ...freshness });
  }

  document.addEventListener("visibilitychange", turn);
  turn();
})();
