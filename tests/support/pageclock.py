"""A page's clock that stands still until the test lets time pass: no page is old, late or lost because a machine is."""

# Timers below it are not about time: they put off work to the next turn.
LEAST_MS = 100

# Runs in each page before the page's own scripts. `pageClock.pass(ms)` runs what falls due, in its order;
# `pageClock.fetches` names what was asked for, as soon as it is asked.
SCRIPT = """(() => {
  const real = {
    setTimeout: window.setTimeout, setInterval: window.setInterval, clear: window.clearTimeout, fetch: window.fetch,
  };
  let now = performance.now();
  let last = 1e9; // the browser's own ids stay far below
  const held = new Map();
  const fetches = [];

  function hold(work, ms, every) {
    held.set(++last, { work, at: now + ms, every });
    return last;
  }

  function pass(ms) {
    const until = now + ms;
    for (;;) {
      const [first] = [...held].filter(([, each]) => each.at <= until).sort(([, a], [, b]) => a.at - b.at);
      if (!first) break;
      const [id, { work, at, every }] = first;
      now = Math.max(now, at);
      if (every) held.get(id).at += every;
      else held.delete(id);
      work();
    }
    now = until;
  }

  const clear = (id) => held.delete(id) || real.clear.call(window, id);
  performance.now = () => now;
  window.setTimeout = (work, ms = 0, ...rest) =>
    ms < LEAST_MS ? real.setTimeout.call(window, work, ms, ...rest) : hold(() => work(...rest), ms, 0);
  window.setInterval = (work, ms = 0, ...rest) =>
    ms < LEAST_MS ? real.setInterval.call(window, work, ms, ...rest) : hold(() => work(...rest), ms, ms);
  window.clearTimeout = window.clearInterval = clear;
  AbortSignal.timeout = (ms) => {
    const ends = new AbortController();
    hold(() => ends.abort(new DOMException("too late", "TimeoutError")), ms, 0);
    return ends.signal;
  };
  window.fetch = (what, ...rest) => {
    fetches.push(new URL(what.url ?? what, document.baseURI).pathname);
    return real.fetch.call(window, what, ...rest);
  };
  window.pageClock = { pass, fetches };
})();""".replace("LEAST_MS", str(LEAST_MS))
