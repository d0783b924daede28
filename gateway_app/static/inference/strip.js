"use strict";
// The gateway's own figures, in one strip.

const Strip = (() => {
  const { NONE, number, percent, plural, millis, duration } = Live;
  const strip = document.getElementById("gateway");

  // Those that are not up, by why; how many are, and how many should be.
  function count(workers) {
    const enabled = workers.filter((worker) => worker.enabled);
    const up = enabled.filter(Standing.isUp).length;
    const down = enabled.filter((worker) => Standing.isDown(worker)).length;
    const idle = enabled.filter((worker) => worker.idle).length;
    const disabled = workers.length - enabled.length;
    const isolated = enabled.filter((worker) => worker.isolated).length;
    const draining = enabled.filter((worker) => worker.draining && !worker.isolated && !worker.routable).length;
    const stopped = enabled.length - up - down - isolated - draining;
    const notes = [
      idle && "no model to serve",
      down && `${down} down`,
      stopped && `${stopped} stopped`,
      isolated && `${isolated} isolated`,
      draining && `${draining} draining`,
      disabled && `${disabled} disabled`,
    ];
    return { up, down, total: enabled.length, note: notes.filter(Boolean).join(" · ") || (enabled.length ? "all take requests" : "none to ask") };
  }

  // Since the start. The gateway's own hits never reach a worker, so they are in neither of the workers' counts.
  function hitsInAll(gateway, workers) {
    const nodes = workers.map((worker) => worker.node).filter(Boolean);
    const served = nodes.reduce((sum, node) => sum + node.total_requests, gateway.hot_hits);
    const hits = nodes.reduce((sum, node) => sum + node.cache_hits, gateway.hot_hits);
    return served ? percent(hits / served) : NONE;
  }

  function errorPercent(value) {
    if (value == null) return NONE;
    return value && value < 0.01 ? "< 0.01 %" : `${value.toFixed(2)} %`; // one error is never shown as none
  }

  // Returns how many workers are up and down, and of how many.
  function paint({ gateway, workers }) {
    const { up, down, total, note } = count(workers);
    Live.fill(strip, {
      rate: Live.rate(gateway.requests_per_s),
      requests: `${number(gateway.requests)} in ${duration(gateway.uptime_s)}`,
      p50: millis(gateway.p50_ms),
      p95: millis(gateway.p95_ms),
      p99: millis(gateway.p99_ms),
      errorPercent: errorPercent(gateway.error_percent),
      errors: `${number(gateway.errors)} in all, ${Live.errorShare(gateway)}`,
      hitRate: percent(gateway.hit_rate),
      hits: `${hitsInAll(gateway, workers)} in all`,
      up: `${up} of ${total}`,
      upNote: note,
      revision: `rev ${gateway.revision}`,
      processes: `in ${gateway.processes_current} of ${plural(gateway.processes, "process", "processes")}`,
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
    });
    document.getElementById("tile-workers").classList.toggle("trouble", down > 0 || up === 0);
    document.getElementById("tile-errors").classList.toggle("trouble", gateway.error_percent > 0);
    document.getElementById("tile-config").classList.toggle("trouble", Boolean(gateway.config_error) || gateway.processes_current < gateway.processes);
    return { up, down, total };
  }

  return { paint };
})();
