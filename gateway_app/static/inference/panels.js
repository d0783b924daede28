"use strict";
// What the panels of the gateway's page share: workers' colours and numbers, filters kept in the address, requests.

const Panels = (() => {
  const TIMEOUT_MS = 5000;
  const COLOURS = 12; // more can't be told apart; --worker-1 to --worker-12 in panels.css
  const OTHERS = "var(--worker-others)";

  const byId = (id) => document.getElementById(id);
  const natural = new Intl.Collator("en", { numeric: true }).compare;

  let places = new Map();
  let numbers = new Map();

  // Gives each worker a colour by its place among all, in the order of their names, and a number that is in its name
  // if every name ends in another one. Beyond twelve workers the smallest shares are "others" and have one colour.
  function setWorkers(shares) {
    const names = Object.keys(shares).sort(natural);
    const large = names.length > COLOURS ? names.toSorted((a, b) => shares[b] - shares[a]).slice(0, COLOURS - 1) : names;
    const kept = new Set(large);
    places = new Map(names.filter((name) => kept.has(name)).map((name, place) => [name, place + 1]));
    const ends = names.map((name) => (/\d{1,4}$/.exec(name) || [""])[0]);
    const named = new Set(ends).size === names.length && !ends.includes("");
    numbers = new Map(names.map((name, place) => [name, named ? String(Number(ends[place])) : String(place + 1)]));
  }

  const hasColour = (name) => places.has(name);
  const colourOf = (name) => (places.has(name) ? `var(--worker-${places.get(name)})` : OTHERS);
  const numberOf = (name) => numbers.get(name) || "";

  // A worker's number on its colour: what stands for it in the ring, the tables and the answers.
  function swatch(element, name) {
    Live.setText(element, numberOf(name));
    element.style.setProperty("--worker", colourOf(name));
    element.hidden = !numberOf(name);
  }

  // Filters are kept in the address as #kind=breaker&requests=slow, so that a reload or a link shows the same.
  function filters() {
    const hash = window.location.hash.slice(1);
    return new URLSearchParams(hash.includes("=") ? hash : "");
  }

  function setFilters(values) {
    const all = filters();
    for (const [name, value] of Object.entries(values)) {
      if (value) all.set(name, value);
      else all.delete(name);
    }
    const { pathname, search } = window.location;
    window.history.replaceState(null, "", all.size ? `#${all}` : pathname + search);
  }

  // Calls once at the start and whenever the address is changed from outside, as by the back button or a link.
  function onFilters(apply) {
    window.addEventListener("hashchange", () => (window.location.hash.includes("=") || !window.location.hash) && apply(filters()));
    apply(filters());
  }

  // A request's JSON; an answer that is no success throws an Error with the answer's sentence, `status` and `code`.
  async function ask(url, options = {}) {
    let response;
    try {
      response = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS), ...options });
    } catch (error) {
      throw new Error(error.name === "TimeoutError" ? `The gateway did not answer within ${TIMEOUT_MS / 1000} s.` : "The gateway can't be reached.");
    }
    const answer = await response.json().catch(() => null);
    if (response.ok && answer) return { answer, response };
    const text = (answer && (answer.error || answer.detail)) || `The gateway answered with status ${response.status}.`;
    throw Object.assign(new Error(sentence(text)), { status: response.status, code: answer && answer.code, response, answer });
  }

  // The API's errors have no full stop. They begin small, often with a name, and stay as they are.
  function sentence(text) {
    const whole = String(text).trim();
    return whole + (/[.!?…]$/.test(whole) ? "" : ".");
  }

  // Makes `list` have one child per item, cloned from the template; repaint(child, item, place) fills each one in.
  function repeat(list, template, items, repaint) {
    while (list.children.length > items.length) list.lastElementChild.remove();
    while (list.children.length < items.length) list.append(template.content.cloneNode(true));
    items.forEach((item, place) => repaint(list.children[place], item, place));
  }

  // Calls `work` at once and every so often while the element is on the screen and the page is not hidden.
  function whileSeen(element, everyMs, work) {
    let seen = false;
    let timer = 0;
    async function run() {
      window.clearTimeout(timer);
      if (!seen || document.hidden) return;
      await work();
      window.clearTimeout(timer);
      timer = window.setTimeout(run, everyMs);
    }
    new IntersectionObserver((entries) => {
      seen = entries.at(-1).isIntersecting;
      run();
    }).observe(element);
    document.addEventListener("visibilitychange", run);
    return run;
  }

  // Minutes to the east of UTC, as UTC+05:30: whoever compares with a log must know what the page's times are of.
  function zone(at = new Date()) {
    const east = -at.getTimezoneOffset();
    const parts = [Math.trunc(Math.abs(east) / 60), Math.abs(east) % 60].map((part) => String(part).padStart(2, "0"));
    return east ? `UTC${east > 0 ? "+" : "−"}${parts.join(":")}` : "UTC";
  }

  // When something happened: the time of day, the date before it if that is not today's; in full to be pointed at.
  function writeTime(element, iso, place = element) {
    const at = new Date(iso);
    const date = at.toLocaleDateString("sv"); // 2026-11-23
    const time = at.toLocaleTimeString("en-GB");
    Live.setText(place, date === new Date().toLocaleDateString("sv") ? time : `${date} ${time}`);
    element.dateTime = iso;
    element.title = `${date} ${time} ${zone(at)}`;
  }

  const onStats = (paint) => document.addEventListener("stats", (event) => paint(event.detail));

  return { byId, natural, setWorkers, hasColour, colourOf, numberOf, swatch, OTHERS, filters, setFilters, onFilters, ask, sentence, repeat, whileSeen, zone, writeTime, onStats };
})();
