"use strict";
// What both pages share: number formats, filling in elements, and polling that says when its data grows old.

const Live = (() => {
  const POLL_MS = 1000;
  const TIMEOUT_MS = 5000;
  const STALE_MS = 3000; // one late answer is no news, three missing ones are

  const NONE = "–";
  const integers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
  const number = (value) => (value == null ? NONE : integers.format(value));
  const decimal = (value, digits = 1) => (value == null ? NONE : value.toFixed(digits));
  const percent = (part) => (part == null ? NONE : `${(part * 100).toFixed(1)} %`);
  const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;

  function millis(value) {
    if (value == null) return NONE;
    if (value < 0.01) return "< 0.01 ms"; // what the gateway's own cache answers
    if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
    return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ms`;
  }

  function duration(seconds) {
    if (seconds == null) return NONE;
    const whole = Math.floor(seconds);
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
    if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
    return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
  }

  function bytes(value) {
    if (value == null) return NONE;
    if (value < 1024) return `${value} B`;
    const units = ["KiB", "MiB", "GiB", "TiB"];
    let scaled = value / 1024;
    while (scaled >= 1024 && units.length > 1) {
      scaled /= 1024;
      units.shift();
    }
    return `${scaled.toFixed(scaled < 10 ? 1 : 0)} ${units[0]}`;
  }

  const rate = (perSecond) => (perSecond < 10 ? decimal(perSecond) : number(perSecond));

  function errorShare({ errors, requests }) {
    if (!requests) return NONE;
    const share = (errors / requests) * 100;
    return errors && share < 0.01 ? "< 0.01 %" : `${share.toFixed(2)} %`; // 37 errors are never shown as none
  }

  const provider = (name) => (name ? name.replace(/ExecutionProvider$/, "") : NONE);

  // Writes only what changed: a selection or a screen reader's place in the page survives the next poll.
  function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function fill(root, values) {
    for (const element of root.querySelectorAll("[data-text]")) {
      const text = values[element.dataset.text];
      if (text !== undefined) setText(element, text);
    }
  }

  function badge(root, name, kind, icon) {
    const element = root.querySelector(`[data-badge="${name}"]`);
    element.hidden = !kind;
    if (!kind) return;
    element.className = `badge ${kind}`;
    element.querySelector("use").setAttribute("href", `#icon-${icon}`);
  }

  // part: 0 to 1. Set through the CSSOM, which a strict content security policy allows, unlike style attributes.
  function bar(root, name, part) {
    const width = `${(Math.min(1, Math.max(0, part || 0)) * 100).toFixed(1)}%`;
    root.querySelector(`[data-bar="${name}"]`).style.setProperty("width", width);
  }

  // render(data) paints the page and returns {title, trouble}: the page's name, and what is wrong in a few words or "".
  // requires: a key that tells data from an error's JSON; a worker that is not ready answers 503 with its data.
  function start({ source, requires, render, initial }) {
    const freshness = document.getElementById("freshness-text");
    const banner = document.getElementById("stale");
    let shown = null;
    let shownAt = performance.now();
    let resumedAt = shownAt;
    let failure = "";
    let polling = false;
    let timer = 0;

    function show(data) {
      shown = render(data);
      shownAt = performance.now();
      failure = "";
      setText(document.getElementById("announce"), shown.trouble);
    }

    async function poll() {
      window.clearTimeout(timer);
      if (polling || document.hidden) return;
      polling = true;
      try {
        const response = await fetch(source, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
        const data = await response.json().catch(() => ({}));
        if (requires in data) show(data);
        else failure = `status ${response.status} from ${source}`;
      } catch (error) {
        failure = error.name === "TimeoutError" ? `no answer within ${TIMEOUT_MS / 1000} s` : "no connection";
      }
      polling = false;
      refresh();
      timer = window.setTimeout(poll, POLL_MS);
    }

    function refresh() {
      const now = performance.now();
      const stale = Boolean(failure) || now - Math.max(shownAt, resumedAt) > STALE_MS;
      const age = `${Math.floor((now - shownAt) / 1000)} s old`;
      const reason = failure || "waiting for an answer";
      document.body.classList.toggle("stale", stale);
      banner.hidden = !stale;
      const what = shown ? `The data is ${age}` : "No data yet";
      if (stale) setText(document.getElementById("stale-text"), `${what}: ${reason}. Trying again every second.`);
      setText(freshness, stale ? (shown ? `data is ${age}` : "no data") : shown ? "live" : "loading");
      const title = shown ? shown.title : document.title.replace(/^No data — /, "");
      const prefix = stale ? "No data" : shown ? shown.trouble : "";
      const full = prefix ? `${prefix} — ${title}` : title;
      if (document.title !== full) document.title = full;
    }

    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return;
      resumedAt = performance.now();
      poll();
    });
    if (initial) show(initial);
    refresh();
    window.setInterval(() => document.hidden || refresh(), 500);
    poll();
  }

  return { NONE, number, decimal, percent, plural, millis, duration, bytes, rate, errorShare, provider, setText, fill, badge, bar, start };
})();
