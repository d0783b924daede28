"use strict";
// How old what the page shows is: greyed and told once nothing new comes. And asking once a second for something new.

const Freshness = (() => {
  const STALE_MS = 3000; // one late answer is no news, three missing ones are
  const POLL_MS = 1000;
  const TIMEOUT_MS = 5000;

  // render(data) paints the page and returns {title, trouble, level}: the page's name, what is wrong in a few words or
  // "", and how bad that is. how() says in a word how new data comes, if it is not as usual.
  function keep(render, how = () => "") {
    const icon = document.querySelector("link[rel=icon]");
    const calm = icon.href;
    let shown = null;
    let shownAt = performance.now();
    let resumedAt = shownAt;
    let failure = "";
    let stale = false;

    function show(data) {
      shown = render(data);
      shownAt = performance.now();
      failure = "";
      Live.setText(document.getElementById("announce"), shown.trouble);
      refresh();
    }

    function fail(reason) {
      failure = reason;
      refresh();
    }

    // The page was not looked at, so it was not kept new either.
    function resume() {
      resumedAt = performance.now();
    }

    function refresh() {
      const now = performance.now();
      stale = Boolean(failure) || now - Math.max(shownAt, resumedAt) > STALE_MS;
      const age = `${Live.duration((now - shownAt) / 1000)} old`;
      const what = shown ? `The data is ${age}` : "No data yet";
      const live = how() ? `live, ${how()}` : "live";
      document.body.classList.toggle("stale", stale);
      document.getElementById("stale").hidden = !stale;
      if (stale) Live.setText(document.getElementById("stale-text"), `${what}: ${failure || "waiting for an answer"}. Trying again every second.`);
      Live.setText(document.getElementById("freshness-text"), stale ? (shown ? `data is ${age}` : "no data") : shown ? live : "loading");
      tell();
    }

    function tell() {
      const title = shown ? shown.title : document.title.replace(/^.* — /, "");
      const bad = stale || (shown && shown.level === "bad");
      const trouble = stale ? "No data" : shown ? shown.trouble : "";
      const full = trouble ? `${bad ? "(!) " : ""}${trouble} — ${title}` : title;
      if (document.title !== full) document.title = full;
      const href = bad ? icon.dataset.trouble : calm;
      if (icon.href !== href) icon.href = href;
    }

    window.setInterval(() => document.hidden || refresh(), 500);
    refresh();
    // age_s(): of what is shown, null once it is stale.
    return { show, fail, resume, age_s: () => (stale || !shown ? null : (performance.now() - shownAt) / 1000) };
  }

  // Asks `source` once a second until stopped. requires: a key that tells data from an error's JSON; a worker that is
  // not ready answers 503 with its data.
  function poll({ source, requires, show, fail }) {
    let timer = 0;
    let stopped = false;

    async function ask() {
      let failure = "";
      let data = {};
      try {
        const response = await fetch(source, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
        data = await response.json().catch(() => ({}));
        if (!(requires in data)) failure = `status ${response.status} from ${source}`;
      } catch (error) {
        failure = error.name === "TimeoutError" ? `no answer within ${TIMEOUT_MS / 1000} s` : "no connection";
      }
      if (stopped) return;
      if (failure) fail(failure);
      else show(data);
      timer = window.setTimeout(ask, POLL_MS);
    }

    ask();
    return () => {
      stopped = true;
      window.clearTimeout(timer);
    };
  }

  return { keep, poll };
})();
