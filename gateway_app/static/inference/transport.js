"use strict";
// The gateway's figures for every part of its page: who asks to be told gets each new answer.

const Dashboard = (() => {
  const painters = [];

  // paint(stats) is called with each answer of /stats, the one inside the page first.
  const onStats = (paint) => painters.push(paint);

  function paint(stats) {
    for (const each of painters) each(stats);
  }

  return { onStats, paint };
})();
