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
  const GUARDS = {
    watching: { kind: "info", icon: "half" },
    kept: { kind: "good", icon: "ok", word: "is kept" },
    reverted: { kind: "warn", icon: "warn", word: "was taken back" },
    superseded: { kind: "info", icon: "off", word: "is watched no more" },
  };
  const STATES = {
    "in force": { kind: "info", icon: "half", word: "Tried now" },
    idle: { kind: "warn", icon: "warn", word: "Idle" },
  };

  function clock(seconds) {
    const whole = Math.max(0, Math.ceil(seconds));
    return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
  }

  const points = (value) => (value == null ? "not known" : `${decimal(value, 2)} %`);

  function guardText(guard) {
    if (guard.state !== "watching") {
      const { word } = GUARDS[guard.state] || { word: guard.state };
      return `Revision ${guard.revision} ${word}${guard.outcome ? `: ${guard.outcome}` : ""}`;
    }
    const errors = `errors rise by ${decimal(guard.error_points)} points (${points(guard.base_error_percent)} before, ${points(guard.error_percent)} now)`;
    const p99 = guard.p99_factor && guard.base_p99_ms != null ? ` or p99 gets ${decimal(guard.p99_factor)} times as long (${millis(guard.base_p99_ms)} before, ${millis(guard.p99_ms)} now)` : "";
    return `Revision ${guard.revision} reverts to ${guard.back_to} by itself if ${errors}${p99} in the next ${clock(guard.left_s)}`;
  }

  function paintGuard(guard) {
    const banner = byId("guard");
    banner.hidden = !guard;
    if (!guard) return;
    const { kind, icon } = GUARDS[guard.state] || GUARDS.superseded;
    banner.className = `banner ${kind}`;
    banner.querySelector("use").setAttribute("href", `#icon-${icon}`);
    Live.setText(byId("guard-text"), Panels.sentence(guardText(guard)));
    byId("guard-link").href = `${banner.dataset.historyUrl}${guard.revision}/change/`;
    Live.setText(byId("guard-link"), guard.state === "watching" ? "Keep it, or take it back" : "In the history");
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

  const signed = (value, digits) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(digits)}`;

  function difference({ canary, others, unit }) {
    if (canary == null || others == null) return NONE;
    if (unit === "%") return `${signed(canary - others, 1)} points`;
    return others ? `${signed((canary / others - 1) * 100, 0)} %` : NONE;
  }

  function paintCanary(canary) {
    const section = byId("canary-section");
    section.hidden = !canary;
    if (!canary) return;
    swatch(section.querySelector(".swatch"), canary.worker);
    const state = STATES[canary.state] || { kind: "", icon: "", word: "" };
    Live.badge(section, "state", state.kind, state.icon);
    Live.fill(section, {
      worker: canary.worker,
      trial: trial(canary),
      since: `for ${duration(canary.age_s)}${canary.author ? `, by ${canary.author}` : ""}`,
      state: state.word,
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
