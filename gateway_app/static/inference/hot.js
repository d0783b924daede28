"use strict";
// The inputs asked most often of late, and who answers them.

(() => {
  const { byId, swatch, repeat } = Panels;
  const { number, percent } = Live;

  function paint({ hottest, workers }) {
    const inputs = hottest || [];
    const most = Math.max(...inputs.map((each) => each.share), 0.0001);
    repeat(byId("hot-inputs"), byId("hot-template"), inputs, (row, each) => {
      Live.fill(row, {
        input: each.input,
        key: each.key,
        model: each.model,
        count: number(each.count),
        share: percent(each.share),
        owner: each.owner || "nobody",
        kept: each.kept ? "yes" : "no",
      });
      row.querySelector("[data-text=input]").title = each.input;
      swatch(row.querySelector(".swatch"), each.owner || "");
      Live.bar(row, "share", each.share / most);
      Live.badge(row, "kept", each.kept ? "info" : "quiet", each.kept ? "ok" : "off");
    });
    byId("hot-section").hidden = workers.length === 0;
    byId("hot-table").hidden = inputs.length === 0;
    byId("hot-empty").hidden = inputs.length > 0;
  }

  Panels.onStats(paint);
})();
