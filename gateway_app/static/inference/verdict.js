"use strict";
// What is wrong, in words, the worst first; each leads to where it is shown.

const Verdict = (() => {
  const { number, plural, percent, duration } = Live;
  const LEVELS = ["bad", "warn", "info"];
  const WORDS = {
    bad: { word: "Trouble", icon: "bad" },
    warn: { word: "Attention", icon: "warn" },
    info: { word: "All well", icon: "ok" },
    good: { word: "All well", icon: "ok" },
  };
  const NAMED = 3; // of those that have the same trouble
  const SHOWN = 6;
  const RECENT_S = 10;
  const BAD_ERRORS_PERCENT = 1;
  const REMEMBERED_S = 300; // for whoever looks when a worker that was lost is back already
  const refusals = []; // [when in s, refused for lack of room so far, retries over budget so far]

  const section = document.getElementById("verdict");
  const list = section.querySelector(".findings");

  function inTime(seconds, elapsed) {
    const left = Math.ceil(seconds - elapsed);
    return left > 0 ? `in ${left} s` : "due";
  }

  // One finding for a worker: the gravest thing about it, and what explains it.
  function ofWorker(worker, breakers, elapsed) {
    if (!worker.enabled) return null;
    const found = (level, what, more = "") => ({ level, what, more, who: worker.name, target: `worker-${worker.name}` });
    const gone = worker.connected ? "" : "disconnected";
    if (worker.isolated) return found("info", "isolated by hand", gone);
    if (worker.draining) return found("info", "draining", gone);
    if (Standing.isReturning(worker, elapsed)) return found("info", "stopped in order", "its next process is awaited");
    if (worker.leaving && !worker.connected) return found("bad", "stopped in order, and not back", `for ${duration(worker.connection_s + elapsed)}`);
    const open = breakers.filter((breaker) => breaker.state === "OPEN");
    const half = breakers.filter((breaker) => breaker.state === "HALF_OPEN");
    const [first] = open.length ? open : half;
    const of = first && breakers.length > 1 ? ` of ${first.model}` : "";
    if (open.length) {
      const probe = first.retry_after_s == null ? "" : `next probe ${inTime(first.retry_after_s, elapsed)}`;
      return found("bad", `breaker${of} OPEN`, [!worker.connected && "disconnected", worker.silent && "silent", probe].filter(Boolean).join(", "));
    }
    if (!worker.connected) return found("bad", "disconnected", worker.last_error);
    if (worker.silent) return found("bad", "silent: it does not answer a ping");
    if (half.length) return found("warn", `breaker${of} HALF_OPEN`, `${first.successes} of ${plural(first.success_threshold, "success", "successes")} to close`);
    if (!worker.routable && !worker.idle) return found("warn", "takes no requests");
    if (worker.stats_age_s > 3) return found("warn", "sends no figures", `for ${duration(worker.stats_age_s + elapsed)}`);
    return null;
  }

  // What clients get while no worker is as it should be.
  function ofAll(workers) {
    const enabled = workers.filter((worker) => worker.enabled);
    if (!workers.length) return { level: "bad", text: "There is no worker: clients get 503", target: "empty" };
    if (!enabled.length) return { level: "bad", text: "Every worker is disabled: clients get 503", target: "workers-section" };
    if (enabled.some(Standing.isUp)) return null;
    const left = enabled.some((worker) => worker.draining && worker.connected && !worker.isolated);
    if (left) return { level: "warn", text: "Nobody but draining workers is left: they go on answering", target: "workers-section" };
    const all = enabled.every((worker) => worker.isolated) ? "Every worker is isolated" : "No worker can answer";
    return { level: "bad", text: `${all}: clients get 503`, target: "workers-section" };
  }

  // More of a kind than can be named are one finding.
  function grouped(findings) {
    const kinds = new Map();
    for (const finding of findings) kinds.set(finding.what, [...(kinds.get(finding.what) || []), finding]);
    return [...kinds.values()].flatMap((kind) => {
      if (kind.length <= NAMED) return kind.map((each) => ({ ...each, text: `${each.who}: ${each.what}${each.more ? `, ${each.more}` : ""}` }));
      const names = kind.slice(0, NAMED).map((each) => each.who).join(", ");
      return [{ ...kind[0], text: `${kind.length} workers: ${kind[0].what}: ${names} and ${kind.length - NAMED} more` }];
    });
  }

  function ofModel({ name, version, state, reason }) {
    const label = version ? `${name}/${version}` : name;
    const target = `model-${name}`;
    if (state === "LOADING") return { level: "info", text: `${label} is being loaded`, target };
    if (state === "READY" || reason === "unloaded") return null;
    return { level: "bad", text: `${label} is not served${reason ? `: ${reason}` : ""}`, short: `${label} not served`, target };
  }

  // By hand: nothing is wrong, but who does not know of it would look for a fault.
  function ofUnloaded(models) {
    const there = new Set(models.filter((model) => model.reason !== "unloaded").map((model) => model.name));
    const names = [...new Set(models.map((model) => model.name))].filter((name) => !there.has(name));
    if (!names.length) return null;
    const which = names.length > NAMED ? `${names.length} models are` : `${names.join(", ")} ${names.length > 1 ? "are" : "is"}`;
    return { level: "info", text: `${which} unloaded: who asks gets 404`, target: `model-${names[0]}` };
  }

  function ofConfig({ config_error: error, revision, processes, processes_current: current }, workers) {
    if (error) return { level: "bad", text: `Revision ${revision} stays in force, newer settings cannot be read: ${error}` };
    if (current >= processes) return null;
    const behind = workers.filter((worker) => worker.revision != null && worker.revision !== revision).map((worker) => worker.name);
    const which = behind.length ? `: not yet in ${behind.slice(0, NAMED).join(", ")}${behind.length > NAMED ? ` and ${behind.length - NAMED} more` : ""}` : "";
    return { level: "warn", text: `Revision ${revision} is in force in ${current} of ${processes} processes${which}`, target: "workers-section" };
  }

  function note(gateway) {
    const now = performance.now() / 1000;
    const last = refusals.at(-1);
    if (last && gateway.shed < last[1]) refusals.length = 0; // the gateway has been started anew
    refusals.push([now, gateway.shed, gateway.budget_exhausted]);
    while (refusals.length > 1 && now - refusals[0][0] > RECENT_S) refusals.shift();
  }

  function ofTraffic(gateway) {
    const [, shed, exhausted] = refusals[0];
    const refused = gateway.shed - shed;
    const unretried = gateway.budget_exhausted - exhausted;
    const failed = gateway.error_percent;
    const part = failed < 0.01 ? "< 0.01 %" : percent(failed / 100);
    return [
      refused > 0 && { level: "bad", text: `${plural(refused, "request", "requests")} refused in the last ${RECENT_S} s: every worker is full`, short: "refusing requests", target: "workers-section" },
      failed > 0 && {
        level: failed >= BAD_ERRORS_PERCENT ? "bad" : "warn",
        text: `${part} of the requests of the last ${RECENT_S} s failed`,
        short: `${part} errors`,
        target: "chart-traffic",
      },
      unretried > 0 && { level: "warn", text: `${plural(unretried, "retry", "retries")} not made: over the budget`, target: "gateway" },
    ];
  }

  function findings({ gateway, workers, circuit_breakers: breakers, models }, elapsed) {
    const own = workers.map((worker) => ofWorker(worker, breakers.filter((each) => each.name === worker.name), elapsed));
    const found = [
      gateway.draining && { level: "warn", text: "Draining: this gateway finishes what is in flight, soon takes no new requests, and then stops" },
      ofAll(workers),
      ...grouped(own.filter(Boolean)),
      ofConfig(gateway, workers),
      ...models.map(ofModel),
      ofUnloaded(models),
      ...ofTraffic(gateway),
    ].filter(Boolean);
    return found.sort((a, b) => LEVELS.indexOf(a.level) - LEVELS.indexOf(b.level));
  }

  // Whose connection was lost or whose breaker opened of late: it may be over before anybody looks.
  function recentTrouble({ events, workers, circuit_breakers: breakers }, elapsed) {
    const recent = events.filter((each) => each.age_s + elapsed < REMEMBERED_S);
    const troubled = recent.filter(({ kind, after }) => (kind === "worker" && after === "lost") || (kind === "breaker" && after === "OPEN"));
    const sick = new Set(breakers.filter((breaker) => breaker.state !== "CLOSED").map((breaker) => breaker.name));
    const well = workers.filter((worker) => Standing.isUp(worker) && !sick.has(worker.name)).map((worker) => worker.name);
    const names = well.filter((name) => troubled.some((each) => each.worker === name));
    if (!names.length) return null;
    const more = names.length > NAMED ? ` and ${names.length - NAMED} more` : "";
    return { level: "info", text: `Lost, or its breaker OPEN, in the last 5 minutes, and well again: ${names.slice(0, NAMED).join(", ")}${more}`, target: "events-section" };
  }

  // For whoever finds counts that begin anew.
  function recentStart({ uptime_s: uptime }, elapsed) {
    const age = uptime + elapsed;
    return age < REMEMBERED_S ? { level: "info", text: `This gateway was started ${duration(age)} ago`, target: "gateway" } : null;
  }

  function well({ gateway, workers }) {
    const enabled = workers.filter((worker) => worker.enabled);
    const up = enabled.filter(Standing.isUp).length;
    const idle = enabled.length > 0 && enabled.every((worker) => worker.idle);
    const errors = gateway.error_percent == null ? "no requests of late" : "no failed request of late";
    return `${number(up)} of ${plural(enabled.length, "worker", "workers")} ${idle ? "wait for a model" : "up"}, ${errors}`;
  }

  function line(place) {
    const item = list.children[place] || list.appendChild(document.createElement("li"));
    if (!item.firstChild) item.append(document.createElement("a"));
    return item;
  }

  function paintList(found) {
    const shown = found.length > SHOWN ? [...found.slice(0, SHOWN - 1), { level: "info", text: `and ${found.length - SHOWN + 1} more` }] : found;
    while (list.children.length > shown.length) list.lastElementChild.remove();
    shown.forEach(({ text, target, level }, place) => {
      const item = line(place);
      const link = item.firstChild;
      item.className = level;
      if (target) link.setAttribute("href", `#${encodeURIComponent(target)}`);
      else link.removeAttribute("href");
      Live.setText(link, text);
    });
  }

  // Paints what is wrong with `stats`, which are so many seconds old. Returns how bad it is, and the worst in a few words.
  function paint(stats, elapsed = 0) {
    const found = findings(stats, elapsed);
    const level = found.length ? found[0].level : "good";
    const { word, icon } = WORDS[level];
    section.className = `verdict live ${level}`;
    section.querySelector("use").setAttribute("href", `#icon-${icon}`);
    Live.fill(section, { word });
    const now = found.length ? found : [{ level, text: well(stats) }];
    const before = level === "good" || level === "info" ? [recentTrouble(stats, elapsed), recentStart(stats.gateway, elapsed)] : [];
    paintList([...now, ...before.filter(Boolean)]);
    return { level, short: found.length ? found[0].short || "" : "" };
  }

  return { note, paint };
})();
