"use strict";
// The last two minutes, a point for each second: from /history, and from each answer of /stats since.

const Points = (() => {
  const SECONDS = 120;
  const MISSED = 3; // seconds without an answer that are no gap
  let points = [];

  function replace(history) {
    points = history.points.slice(-SECONDS);
  }

  // Returns whether it is a new one.
  function add(point) {
    if (!point || (points.length && point.t <= points.at(-1).t)) return false;
    points.push(point);
    const oldest = point.t - SECONDS;
    while (points[0].t <= oldest) points.shift();
    return true;
  }

  // What `value` finds in each second up to the newest. null: nothing was recorded, so that a line ends there; undefined:
  // an answer was missed, and a line goes on.
  function series(value) {
    if (!points.length) return [];
    const first = points[0].t;
    const found = new Array(points.at(-1).t - first + 1).fill(undefined);
    points.forEach((point, place) => {
      const at = point.t - first;
      found[at] = value(point) ?? null;
      const before = place ? points[place - 1].t - first : at;
      if (at - before > MISSED) found.fill(null, before + 1, at);
    });
    return found;
  }

  return { SECONDS, replace, add, series, all: () => points };
})();
