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
    return health.healthy ? "" : "Unhealthy: the engine does not run the model. The worker's log says why.";
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
    const onCpu = provider(health.provider) === "CPU";
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
      model: model.name,
      provider: onCpu && health.fallback_reason ? "CPU (fallback)" : provider(health.provider),
      input: `${model.input} · ${model.input_type} ${shape(model.input_shape)}${model.pad_with_zeros ? ", short inputs are padded with zeros" : ""}`,
      output: `${model.output} · ${shape(model.output_shape)}`,
      batching: model.batches ? "in batches" : "one by one",
      file: model.file,
      digest: model.digest,
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
    banner("fallback", health.fallback_reason ? `Running on the CPU, not on a GPU: ${health.fallback_reason}` : "");
    banner("not-ready", notReady(health));
    page.hidden = false;
    return { title: `${health.node_id} — Inference worker`, trouble: text === "Ready" ? "" : text };
  }

  Live.start({ source: "health", requires: "batch_processor", render });
})();
