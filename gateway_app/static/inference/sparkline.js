"use strict";
// The last two minutes of each worker, small.

const Sparkline = (() => {
  const { SECONDS } = Points;
  const HEIGHT = 30;
  const TOP = 2; // the line's own width stays inside

  // Of values a second apart as Points.series has them, the newest last. The newest is at the right edge.
  function paint(svg, values, highest) {
    const scale = highest > 0 ? (HEIGHT - 2 * TOP) / highest : 0;
    let line = "";
    let area = "";
    let from = null; // where the piece under way began
    values.forEach((value, place) => {
      if (value === undefined) return;
      const x = SECONDS - values.length + 1 + place;
      const y = (HEIGHT - TOP - value * scale).toFixed(1);
      if (value == null) {
        if (from != null) area += `L${x - 1} ${HEIGHT}L${from} ${HEIGHT}Z`;
        from = null;
        return;
      }
      line += `${from == null ? "M" : "L"}${x} ${y}`;
      area += `${from == null ? "M" : "L"}${x} ${y}`;
      from ??= x;
    });
    if (from != null) area += `L${SECONDS} ${HEIGHT}L${from} ${HEIGHT}Z`;
    svg.querySelector(".line").setAttribute("d", line);
    svg.querySelector(".area").setAttribute("d", area);
  }

  return { paint };
})();
