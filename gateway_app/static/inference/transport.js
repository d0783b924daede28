"use strict";
// How the gateway's page gets its figures: pushed by the WebSocket, or asked for once a second while there is none.

const Transport = (() => {
  const OPEN_MS = 2000; // without a first message by then the page asks by itself, and waits on
  const CONNECT_MS = 10000;
  const SILENT_MS = 5000; // the gateway sends once a second: a socket that says nothing is lost
  const RETRY_MS = [1000, 30000];

  // show(stats) and showHistory(history) take what came, fail(reason) what went wrong, resume() that the page is seen
  // again. Returns how(): "polling" while the socket is away.
  function start({ show, showHistory, fail, resume }) {
    let socket = null;
    let stopPolling = null;
    let watch = 0;
    let retry = 0;
    let retryMs = RETRY_MS[0];

    function poll() {
      if (stopPolling) return;
      stopPolling = Freshness.poll({ source: "stats", requires: "circuit_breakers", show, fail });
      fetch("history", { cache: "no-store" })
        .then((response) => (response.ok ? response.json() : null))
        .then((history) => history && stopPolling && showHistory(history))
        .catch(() => {}); // the figures themselves tell that nobody answers
    }

    function listen() {
      if (stopPolling) stopPolling();
      stopPolling = null;
      retryMs = RETRY_MS[0];
    }

    function expect(ms, late = lose) {
      window.clearTimeout(watch);
      watch = window.setTimeout(late, ms);
    }

    function hurry() {
      poll();
      expect(CONNECT_MS - OPEN_MS);
    }

    function connect() {
      const url = new URL("live", document.baseURI);
      url.protocol = url.protocol.replace("http", "ws");
      const mine = (socket = new WebSocket(url));
      mine.onmessage = ({ data }) => mine === socket && take(JSON.parse(data));
      mine.onclose = () => mine === socket && lose();
      expect(OPEN_MS, hurry);
    }

    function take({ stats, history }) {
      listen();
      expect(SILENT_MS);
      if (history) showHistory(history);
      show(stats);
    }

    function drop() {
      const old = socket;
      socket = null; // first: what it still says is not listened to
      window.clearTimeout(watch);
      if (old) old.close();
    }

    function lose() {
      drop();
      if (document.hidden) return;
      poll();
      retry = window.setTimeout(connect, retryMs * (0.8 + 0.4 * Math.random())); // not all pages at once
      retryMs = Math.min(2 * retryMs, RETRY_MS[1]);
    }

    // A tab that nobody sees listens to nothing.
    function turn() {
      drop();
      window.clearTimeout(retry);
      if (stopPolling) stopPolling();
      stopPolling = null;
      if (document.hidden) return;
      retryMs = RETRY_MS[0];
      resume();
      connect();
    }

    document.addEventListener("visibilitychange", turn);
    turn();
    return { how: () => (stopPolling ? "polling" : "") };
  }

  return { start };
})();
