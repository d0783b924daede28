"use strict";
// The gateway's page: hands each new answer of /stats to its parts. The first one is inside the page.

(() => {
  const HALF_MS = 500;
  let latest = null;

  function title({ up, down, total }, { draining, config_error: error }) {
    const trouble = [];
    if (draining) trouble.push("Draining");
    if (total === 0) trouble.push("No workers");
    else if (down || !up) trouble.push(`${up} of ${total} up`);
    if (error) trouble.push("config error");
    return trouble.join(", ");
  }

  function render(stats) {
    latest = stats;
    const ups = Strip.paint(stats);
    const newer = Points.add(stats.point);
    Cards.paint(stats);
    if (newer) Charts.paint();
    Histogram.paint(stats);
    ModelTable.paint(stats);
    Verdict.note(stats.gateway);
    const { level, short } = Verdict.paint(stats);
    document.dispatchEvent(new CustomEvent("stats", { detail: stats })); // for every other part of the page
    const trouble = title(ups, stats.gateway) || (level === "bad" ? short : "");
    return { title: "Inference gateway", trouble, level };
  }

  function showHistory(history) {
    Points.replace(history);
    Charts.paint();
  }

  let transport = null;
  const freshness = Freshness.keep(render, () => (transport ? transport.how() : ""));

  // What counts seconds goes on between two answers, and stops with what is stale.
  window.setInterval(() => {
    const age = document.hidden ? null : freshness.age_s();
    if (age == null) return;
    Cards.tick(age);
    Verdict.paint(latest, age);
  }, HALF_MS);

  freshness.show(JSON.parse(document.getElementById("stats").textContent));
  transport = Transport.start({ ...freshness, showHistory });
})();
