"use strict";
// The ring: who owns which inputs, drawn from GET /ring; the list beside it tells the same in words and figures.

const RingPanel = (() => {
  const { byId, swatch, repeat } = Panels;
  const { percent, plural, number } = Live;
  const SVG = "http://www.w3.org/2000/svg";
  const RETRY_MS = 5000;
  const LISTED = 12; // workers listed before "show all"
  const BANDS = 131; // radius of the ring's slots, and of the arcs of shares
  const ARCS = 97;
  const DRAWN = 512; // slots drawn: more would be thinner than a pixel

  const drawing = byId("ring-drawing");
  const bands = byId("ring-bands");
  const arcs = byId("ring-arcs");
  const list = byId("ring-workers");
  const more = byId("ring-more");
  let ring = null;
  let workers = [];
  let drawn = ""; // what the drawing was made for
  let asking = false;
  let askedAt = -RETRY_MS;
  let pinned = "";
  let lit = ""; // shown alone now: pinned, pointed at or focused
  let showAll = false;

  function circle(parent, radius, className) {
    const found = document.createElementNS(SVG, "circle");
    const length = ring.owners.length;
    const attributes = { cx: 0, cy: 0, r: radius, pathLength: length, class: className, transform: "rotate(-90)" }; // from the top on
    for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
    parent.append(found);
    return found;
  }

  // The slots that `owns` as dashes of a circle: lengths of the part owned, the gap, the part owned and so on.
  function dashes(owns) {
    const lengths = [];
    let own = true;
    let run = 0;
    for (const owner of ring.owners) {
      if (owns(owner) !== own) {
        lengths.push(run);
        own = !own;
        run = 0;
      }
      run += 1;
    }
    lengths.push(run);
    if (lengths.length % 2) lengths.push(0);
    return lengths.join(" ");
  }

  function band(owns, colour, name) {
    const found = circle(bands, BANDS, "band");
    found.setAttribute("stroke-dasharray", dashes(owns));
    found.style.setProperty("stroke", colour);
    found.dataset.owner = name;
    return found;
  }

  // Inside the band, where each worker's slots lie scattered, an arc for each of as much as it owns in all.
  function arc(from, share, colour, name, label) {
    const length = ring.owners.length;
    const found = circle(arcs, ARCS, "arc");
    const visible = Math.max(0, share * length - (share < 1 ? 3 : 0));
    found.setAttribute("stroke-dasharray", `0 ${from * length} ${visible} ${length}`);
    found.style.setProperty("stroke", colour);
    found.dataset.owner = name;
    if (share < 0.03) return;
    const angle = (from + share / 2) * 2 * Math.PI;
    const text = document.createElementNS(SVG, "text");
    text.setAttribute("x", (ARCS * Math.sin(angle)).toFixed(1));
    text.setAttribute("y", (-ARCS * Math.cos(angle)).toFixed(1));
    text.textContent = label;
    arcs.append(text);
  }

  function draw() {
    const own = ring.workers.filter(Panels.hasColour);
    const others = new Set(ring.workers.filter((name) => !Panels.hasColour(name)));
    bands.replaceChildren();
    arcs.replaceChildren();
    let from = 0;
    for (const name of own.toSorted(Panels.natural)) {
      band((owner) => ring.workers[owner] === name, Panels.colourOf(name), name);
      arc(from, ring.shares[name], Panels.colourOf(name), name, Panels.numberOf(name));
      from += ring.shares[name];
    }
    if (others.size) {
      band((owner) => others.has(ring.workers[owner]), Panels.OTHERS, "");
      arc(from, 1 - from, Panels.OTHERS, "", `+${others.size}`);
    }
    highlight(lit); // a ring that is drawn anew shows the same
  }

  // Shows one worker's slots alone, those of a worker without a colour of its own too; "" shows all again.
  function highlight(name) {
    lit = name;
    const known = ring && ring.workers.includes(name);
    drawing.classList.toggle("chosen", Boolean(known));
    for (const found of drawing.querySelectorAll("[data-owner]")) found.classList.toggle("chosen", known && found.dataset.owner === name);
    bands.querySelector(".alone")?.remove();
    if (known && !Panels.hasColour(name)) {
      const alone = band((owner) => ring.workers[owner] === name, "var(--link)", name);
      alone.classList.add("chosen", "alone");
    }
    Live.setText(byId("ring-centre"), known ? percent(ring.shares[name]) : ring ? plural(ring.workers.length, "worker", "workers") : "");
    Live.setText(byId("ring-centre-note"), known ? `of the inputs: ${name.length > 14 ? `${name.slice(0, 13)}…` : name}` : ring ? `${number(ring.virtual_nodes)} points each` : "");
  }

  // Marks the place of a slot, 0 to 65535, until it is called with null.
  function mark(slot) {
    const marker = byId("ring-mark");
    marker.toggleAttribute("hidden", slot == null);
    if (slot != null) marker.setAttribute("transform", `rotate(${((slot + 0.5) / 65536) * 360})`);
  }

  function loadOf({ key_share: keys, traffic_share: traffic }) {
    if (!keys || !traffic) return "";
    const factor = traffic / keys;
    return factor >= 1.25 || factor <= 0.75 ? `${factor.toFixed(1)} × of inputs` : "";
  }

  function paintList() {
    const shown = ring ? workers.filter((worker) => worker.enabled || worker.key_share) : workers;
    const sorted = shown.toSorted((a, b) => Panels.natural(a.name, b.name));
    const large = sorted.toSorted((a, b) => b.key_share - a.key_share).slice(0, LISTED - 1);
    const listed = showAll || sorted.length <= LISTED ? sorted : sorted.filter((worker) => large.includes(worker));
    const widest = Math.max(...shown.flatMap((worker) => [worker.key_share, worker.traffic_share]), Math.min(1, 2 / Math.max(1, shown.length)));
    repeat(list, byId("ring-worker-template"), listed, (row, worker) => {
      swatch(row.querySelector(".swatch"), worker.name);
      Live.bar(row, "keys", worker.key_share / widest);
      Live.bar(row, "traffic", worker.traffic_share / widest);
      Live.fill(row, { name: worker.name, keys: percent(worker.key_share), traffic: percent(worker.traffic_share), load: loadOf(worker) });
      const button = row.querySelector("button");
      button.title = worker.name;
      button.dataset.owner = worker.name;
      button.setAttribute("aria-pressed", String(pinned === worker.name));
    });
    more.hidden = sorted.length <= LISTED;
    Live.setText(more, showAll ? "Show the largest only" : `Show all ${sorted.length} workers`);
    more.setAttribute("aria-expanded", String(showAll));
  }

  function failed(text) {
    byId("ring-error").hidden = !text;
    Live.setText(byId("ring-error-text"), text);
  }

  async function load(wanted) {
    asking = true;
    askedAt = performance.now();
    try {
      const { answer } = await Panels.ask("ring");
      const step = Math.ceil(answer.owners.length / DRAWN);
      ring = { ...answer, owners: answer.owners.filter((_, place) => place % step === 0) };
      drawn = wanted;
      failed("");
      Panels.setWorkers(ring.shares);
      const empty = ring.workers.length === 0;
      byId("ring-empty").hidden = !empty;
      byId("ring-body").hidden = empty;
      draw();
      paintList();
      document.dispatchEvent(new CustomEvent("ring"));
    } catch (error) {
      failed(`The ring can't be shown: ${error.message} Trying again.`);
    }
    asking = false;
  }

  function paint(stats) {
    workers = stats.workers;
    if (workers.length && !Panels.numberOf(workers[0].name)) Panels.setWorkers(Object.fromEntries(workers.map((worker) => [worker.name, worker.key_share])));
    const wanted = JSON.stringify([stats.gateway.revision, workers.map((worker) => [worker.name, worker.key_share])]);
    byId("ring-section").hidden = workers.length === 0;
    if (wanted !== drawn && !asking && performance.now() - askedAt >= (drawn ? 500 : RETRY_MS)) load(wanted);
    paintList();
  }

  function namedBy(event) {
    const row = event.target.closest("tr");
    const button = row && row.querySelector("button[data-owner]");
    return button ? button.dataset.owner : "";
  }

  list.addEventListener("pointerover", (event) => highlight(namedBy(event) || pinned));
  list.addEventListener("pointerleave", () => highlight(pinned));
  list.addEventListener("focusin", (event) => highlight(namedBy(event) || pinned));
  list.addEventListener("focusout", () => highlight(pinned));
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-owner]");
    if (!button) return;
    pinned = pinned === button.dataset.owner ? "" : button.dataset.owner;
    highlight(pinned || button.dataset.owner);
    paintList();
  });
  more.addEventListener("click", () => {
    showAll = !showAll;
    paintList();
  });
  Panels.onStats(paint);

  return { mark, highlight: (name) => highlight(name || pinned) };
})();
