"use strict";
// A card for each worker: its breaker, its load and its share. Of many workers only the worst are shown at first.

const Cards = (() => {
  const { NONE, number, decimal, percent, plural, millis, duration, provider } = Live;
  const { STATES } = ModelTable;
  const REPORTS_S = 3; // a report comes twice a second; what is older than this is grey
  const MANY = 12; // with more the cards are small, and in order of trouble
  const byId = (id) => document.getElementById(id);
  const list = byId("workers");
  const more = byId("workers-more");
  const cards = new Map(); // by worker's key: {card, worker, breaker}
  const WORST_FIRST = ["OPEN", "HALF_OPEN", "CLOSED"];
  let all = false;
  let latest = null;

  function mode(worker) {
    if (!worker.enabled) return { text: "Disabled", kind: "quiet", icon: "off" };
    const gone = worker.connected ? "" : ", disconnected";
    if (worker.isolated) return { text: `Isolated${gone}`, kind: "info", icon: "off" };
    if (worker.draining) return { text: `Draining${gone}`, kind: "info", icon: "drain" };
    if (Standing.isReturning(worker)) return { text: "Stopped", kind: "info", icon: "off" };
    if (!worker.connected) return { text: "Disconnected", kind: "bad", icon: "bad" };
    if (worker.silent) return { text: "Silent", kind: "bad", icon: "warn" };
    return { text: "", kind: "", icon: "" };
  }

  // Of a worker's breakers, one per model: the one that matters most, and how many there are.
  function worst(breakers) {
    const [first] = breakers.toSorted((a, b) => WORST_FIRST.indexOf(a.state) - WORST_FIRST.indexOf(b.state));
    return first && { ...first, of: breakers.length };
  }

  // The smaller, the more an operator wants to see it.
  function rank({ worker, breaker }) {
    if (!worker.enabled) return 6;
    if (worker.isolated || worker.draining) return 4;
    if (Standing.isDown(worker) || (breaker && breaker.state === "OPEN")) return 1;
    if (worker.silent) return 2;
    if (breaker && breaker.state === "HALF_OPEN") return 3;
    return worker.stats_age_s > REPORTS_S ? 4 : 5;
  }

  // What its next change waits for.
  function counts(breaker, elapsed) {
    if (!breaker) return "";
    const text = countsOfOne(breaker, elapsed);
    return breaker.of > 1 ? `${breaker.model}: ${text}` : text;
  }

  function countsOfOne(breaker, elapsed) {
    if (breaker.state === "HALF_OPEN") return `${breaker.successes} of ${plural(breaker.success_threshold, "success", "successes")} to close`;
    if (breaker.state === "CLOSED") return `${breaker.failures} of ${plural(breaker.failure_threshold, "failure", "failures")} to open`;
    if (breaker.retry_after_s == null) return "held open: no probes";
    const left = Math.ceil(breaker.retry_after_s - elapsed);
    return left > 0 ? `next probe in ${left} s` : "next probe is due";
  }

  // Of what is told beside it: that there is no connection, or the breaker's state.
  function since(worker, breaker, elapsed) {
    if (worker.enabled && !worker.connected) return worker.connection_s == null ? "" : `for ${duration(worker.connection_s + elapsed)}`;
    if (!breaker) return "takes no requests";
    return `for ${duration(breaker.since_s + elapsed)}`;
  }

  // How far it is from its next change: towards opening, through the time that it is open, towards closing.
  function gauge(breaker, elapsed) {
    if (!breaker) return 0;
    if (breaker.state === "HALF_OPEN") return breaker.successes / breaker.success_threshold;
    if (breaker.state === "CLOSED") return breaker.failures / breaker.failure_threshold;
    const whole = breaker.since_s + (breaker.retry_after_s ?? 0);
    return whole ? (breaker.since_s + elapsed) / whole : 0;
  }

  function notes(worker, breaker, { workers, gateway: { revision } }) {
    const alone = !workers.some((other) => other.enabled && other.routable);
    const lines = [];
    if (!worker.enabled) lines.push("Disabled: gateways are not connected to it, and its keys are the other workers'.");
    else if (worker.isolated && !worker.connected) lines.push("Isolated by hand, and disconnected: once it is back it still gets no requests.");
    else if (worker.isolated) lines.push("Isolated by hand: it stays connected and gets no requests, not even if nobody else is left.");
    else if (worker.draining && !worker.connected) lines.push("Draining, and disconnected: once it is back it still takes no new requests.");
    else if (worker.draining) lines.push(alone ? "Draining, but nobody else is left: it goes on getting requests." : "Draining: it finishes what it has and takes no new requests.");
    else if (worker.leaving && !worker.connected) lines.push("Its process was stopped in order. The next one is connected as soon as it is there.");
    else if (!worker.connected) lines.push("Disconnected: the gateway keeps trying to reach it.");
    else if (worker.idle) lines.push("Idle: there is no model to serve.");
    if (worker.silent) lines.push("Silent: it does not even answer a ping.");
    const why = (breaker && worker.enabled && !worker.isolated && breaker.state !== "CLOSED" && breaker.reason) || "";
    if (why) lines.push(`${breaker.state} because: ${Panels.sentence(why)}`);
    if (worker.last_error && !why.includes(worker.last_error)) lines.push(`Last error: ${Panels.sentence(worker.last_error)}`);
    const error = (breaker && breaker.last_error) || "";
    if (error && error !== worker.last_error && !why.includes(error)) lines.push(`Last error of a request, ${duration(breaker.last_error_age_s)} ago: ${Panels.sentence(error)}`);
    if (worker.enabled && worker.stats_age_s > REPORTS_S) lines.push(`Its last report is ${duration(worker.stats_age_s)} old.`);
    if (worker.connected && worker.revision != null && worker.revision !== revision) lines.push(`Has revision ${worker.revision} of the settings, not ${revision}.`);
    return lines.join(" ");
  }

  function modelNames({ node, revision }) {
    const others = new Set((node.models || []).map((model) => model.name));
    others.delete(node.model);
    const names = others.size ? `${node.model} and ${plural(others.size, "other", "others")}` : node.model || "no model";
    return [names, provider(node.provider), revision == null ? "" : `rev ${revision}`].filter(Boolean).join(" · ");
  }

  // How many batches there were of each size, as columns.
  function paintSizes(element, batches) {
    const counts = batches.map(({ full, timeout, free }) => full + timeout + free);
    const highest = Math.max(1, ...counts);
    while (element.children.length > counts.length) element.lastElementChild.remove();
    while (element.children.length < counts.length) element.append(document.createElement("span"));
    counts.forEach((count, place) => element.children[place].style.setProperty("height", `${Math.max(count ? 8 : 0, (count / highest) * 100).toFixed(0)}%`));
  }

  function newCard(worker) {
    const card = byId("card-template").content.firstElementChild.cloneNode(true);
    card.id = `worker-${worker.name}`;
    card.dataset.worker = worker.name;
    card.querySelector("[data-actions]").dataset.actions = worker.name;
    return card;
  }

  function figures(worker, breaker) {
    const { node, split_ms: split } = worker;
    const batches = node && node.batch_processor;
    return {
      inFlight: number(worker.in_flight),
      limit: worker.limit ? `of ${number(worker.limit)}` : "no limit",
      queue: node ? number(node.queue) : NONE,
      queueTime: node && node.queue_ms != null ? millis(node.queue_ms) : "",
      recentHitRate: percent(worker.recent_hit_rate),
      hitRate: node && node.total_requests ? `${percent(node.cache_hit_rate)} in all` : "",
      meanBatch: batches ? decimal(batches.avg_batch_size) : NONE,
      split: split ? `queue ${millis(split.queue)} · compute ${millis(split.compute)} · network ${millis(split.network)}` : "nothing computed of late",
      batches: batches ? `${plural(batches.total_batches, "batch", "batches")}: ${number(batches.full_batches)} full · ${number(batches.timeout_batches)} timeout · ${number(batches.free_batches)} free` : "",
      totals: [
        `${plural(worker.requests, "request", "requests")} in all`,
        node ? `${number(node.cache_size)} cached` : "no report yet",
        breaker && breaker.opens && `opened ${plural(breaker.opens, "time", "times")}`,
      ].filter(Boolean).join(" · "),
      model: node ? modelNames(worker) : NONE,
    };
  }

  function paintCard({ card, worker, breaker }, stats, widest, scales) {
    const state = breaker ? STATES[breaker.state] : { kind: "", icon: "" };
    const { text, kind, icon } = mode(worker);
    const note = notes(worker, breaker, stats);
    const weight = worker.weight === 1 ? "" : ` · weight ${worker.weight}`;
    const rates = Points.series((point) => point.workers[worker.name]?.rate);
    const p99s = Points.series((point) => point.workers[worker.name]?.p99);
    Live.badge(card, "state", state.kind, state.icon);
    Live.badge(card, "mode", kind, icon);
    Live.bar(card, "keys", worker.key_share / widest);
    Live.bar(card, "traffic", worker.traffic_share / widest);
    Live.fill(card, {
      name: worker.name,
      address: worker.address + weight,
      editName: ` ${worker.name} in the admin`,
      state: breaker ? breaker.state : "",
      mode: text,
      notes: note,
      rate: Live.rate(worker.requests_per_s),
      p99: millis(p99s.at(-1)),
      keys: percent(worker.key_share),
      traffic: percent(worker.traffic_share),
      ...figures(worker, breaker),
    });
    const [rate, p99] = card.querySelectorAll(".spark svg");
    Sparkline.paint(rate, rates, scales.rate);
    Sparkline.paint(p99, p99s, scales.p99);
    paintSizes(card.querySelector(".sizes"), worker.batches || []);
    card.querySelector("[data-link=page]").href = `http://${worker.address}/`;
    card.querySelector("[data-link=edit]").href = `${list.dataset.editUrl}?name=${encodeURIComponent(worker.name)}`;
    card.querySelector(".notes").hidden = !note;
    card.querySelector(".gauge").hidden = !breaker;
    card.classList.toggle("trouble", Standing.isDown(worker));
    card.classList.toggle("watch", Boolean(breaker) && breaker.state === "HALF_OPEN");
    card.classList.toggle("out", !worker.enabled);
    card.classList.toggle("old", Boolean(worker.node) && (!worker.connected || worker.stats_age_s > REPORTS_S));
  }

  function paintCounting({ card, worker, breaker }, elapsed) {
    Live.fill(card, { since: since(worker, breaker, elapsed), counts: counts(breaker, elapsed) });
    Live.bar(card, "gauge", gauge(breaker, elapsed));
    card.querySelector("[data-bar=gauge]").className = breaker ? STATES[breaker.state].kind : "";
  }

  // One scale for all cards, so that a quiet worker looks quiet beside a busy one.
  function highest() {
    const scales = { rate: 0, p99: 0 };
    for (const point of Points.all()) {
      for (const { rate, p99 } of Object.values(point.workers)) {
        scales.rate = Math.max(scales.rate, rate || 0);
        scales.p99 = Math.max(scales.p99, p99 || 0);
      }
    }
    return scales;
  }

  // Those that are shown, in their order. It stays as it is while the keyboard is inside.
  function chosen(found) {
    if (found.length <= MANY) return found;
    const held = list.contains(document.activeElement) && document.activeElement !== document.body;
    const places = new Map([...list.children].map((card, place) => [card.id, place]));
    const place = ({ worker }) => places.get(`worker-${worker.name}`) ?? Infinity;
    const sorted = found.toSorted((a, b) => (held && place(a) - place(b)) || rank(a) - rank(b));
    const worst = sorted.filter((entry) => rank(entry) < 5).length;
    return all ? sorted : sorted.slice(0, Math.max(MANY, Math.min(worst, 2 * MANY)));
  }

  function arrange(shown) {
    const kept = new Set(shown.map(({ card }) => card));
    for (const [key, { card }] of cards) {
      if (!kept.has(card)) {
        card.remove();
        cards.delete(key);
      }
    }
    // Moved only when out of place: moving an element takes the keyboard's focus from it.
    shown.forEach(({ card }, place) => {
      if (list.children[place] !== card) list.insertBefore(card, list.children[place] || null);
    });
  }

  function paint(stats) {
    latest = stats;
    const { workers, circuit_breakers: breakers } = stats;
    // An even share fills half a bar, so that too much is seen as well as too little; nothing is wider than its track.
    const even = 1 / Math.max(1, workers.filter((worker) => worker.enabled).length);
    const widest = Math.max(...workers.flatMap((worker) => [worker.key_share, worker.traffic_share]), Math.min(1, 2 * even));
    const found = workers.map((worker) => ({ worker, breaker: worst(breakers.filter((breaker) => breaker.name === worker.name)) }));
    const scales = highest();
    const shown = chosen(found).map((entry) => {
      const key = `${entry.worker.name} ${entry.worker.address}`;
      const made = { ...entry, card: cards.get(key)?.card || newCard(entry.worker) };
      cards.set(key, made);
      return made;
    });
    for (const entry of shown) {
      paintCard(entry, stats, widest, scales);
      paintCounting(entry, 0);
    }
    arrange(shown);
    frame(workers.length, shown.length);
  }

  function frame(total, shown) {
    list.classList.toggle("dense", total > MANY);
    more.hidden = total <= MANY;
    Live.setText(more, all ? "Show the worst only" : `Show all ${number(total)} workers`);
    Live.setText(byId("workers-note"), shown < total ? `the ${number(shown)} worst of ${number(total)}` : "");
    byId("workers-section").hidden = total === 0;
    byId("empty").hidden = total > 0;
  }

  // The last answer is so many seconds old: what counts seconds goes on.
  function tick(elapsed) {
    for (const entry of cards.values()) paintCounting(entry, elapsed);
  }

  more.addEventListener("click", () => {
    all = !all;
    paint(latest);
  });

  return { paint, tick };
})();
