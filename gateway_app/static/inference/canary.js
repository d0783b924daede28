"use strict";
// What is being tried: a revision that may revert by itself, and a worker that tries a change before the others.

(() => {
  const { byId, repeat, swatch } = Panels;
  const { duration, decimal, NONE, millis } = Live;
  const NAMES = {
    batch_size: "requests per batch",
    batch_wait_ms: "longest wait (ms)",
    batch_eager: "start at once",
    cache_entries: "cache entries",
    cache_mib: "cache MiB",
  };
  const IN_FORCE = "in force"; // any other state says why the trial rests
  const STATES = {
    watching: { kind: "info", icon: "half" },
    kept: { kind: "good", icon: "ok" },
    reverted: { kind: "warn", icon: "warn" },
  };

  function clock(seconds) {
    const whole = Math.max(0, Math.ceil(seconds));
    return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
  }

  const points = (value) => (value == null ? "not known" : `${decimal(value, 2)} %`);

  function guardText(guard) {
    if (guard.state !== "watching") return `Revision ${guard.revision} ${guard.outcome || guard.state}`;
    const errors = `errors rise by ${decimal(guard.error_points)} points (${points(guard.base_error_percent)} before, ${points(guard.error_percent)} now)`;
    const p99 = guard.p99_factor && guard.base_p99_ms != null ? ` or p99 gets ${decimal(guard.p99_factor)} times as long (${millis(guard.base_p99_ms)} before, ${millis(guard.p99_ms)} now)` : "";
    return `Revision ${guard.revision} reverts to ${guard.back_to} by itself if ${errors}${p99} in the next ${clock(guard.left_s)}`;
  }

  function paintGuard(guard) {
    const banner = byId("guard");
    banner.hidden = !guard;
    if (!guard) return;
    const { kind, icon } = STATES[guard.state] || STATES.reverted;
    banner.className = `banner ${kind}`;
    banner.querySelector("use").setAttribute("href", `#icon-${icon}`);
    Live.setText(byId("guard-text"), Panels.sentence(guardText(guard)));
  }

  function trial(canary) {
    const tuning = Object.entries(canary.tuning || {}).map(([name, value]) => `${NAMES[name] || name} ${value === true ? "on" : value === false ? "off" : value}`);
    const model = canary.model ? [`${canary.model} version ${canary.version}`] : [];
    return [...model, ...tuning].join(", ");
  }

  const figure = (value, unit) => {
    if (value == null) return NONE;
    if (unit === "ms") return millis(value);
    return `${Number.isInteger(value) ? Live.number(value) : decimal(value)}${unit ? ` ${unit}` : ""}`;
  };

  function difference({ canary, others }) {
    if (canary == null || others == null || !others) return NONE;
    const percent = (canary / others - 1) * 100;
    return `${percent > 0 ? "+" : percent < 0 ? "−" : ""}${Math.abs(percent).toFixed(0)} %`;
  }

  function paintCanary(canary) {
    const section = byId("canary-section");
    section.hidden = !canary;
    if (!canary) return;
    swatch(section.querySelector(".swatch"), canary.worker);
    Live.fill(section, {
      worker: canary.worker,
      trial: trial(canary),
      since: `for ${duration(canary.age_s)}${canary.author ? `, by ${canary.author}` : ""}`,
      state: canary.state && canary.state !== IN_FORCE ? Panels.sentence(canary.state) : "",
      verdict: canary.verdict ? Panels.sentence(canary.verdict) : "",
    });
    const compare = canary.compare || [];
    byId("canary-table").hidden = compare.length === 0;
    repeat(byId("canary-compare"), byId("canary-template"), compare, (row, each) => {
      Live.fill(row, { what: each.what, canary: figure(each.canary, each.unit), others: figure(each.others, each.unit), difference: difference(each) });
    });
  }

  Panels.onStats(({ guard, canary }) => {
    paintGuard(guard);
    paintCanary(canary);
  });
})();
