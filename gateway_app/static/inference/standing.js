"use strict";
// How a worker stands. The strip, the cards and the verdict ask here, so that they never contradict each other.

const Standing = (() => {
  const RETURNS_S = 30; // whose process ended as it had said is missed only after this time

  const isUp = (worker) => worker.enabled && (worker.routable || worker.idle);

  // Its process has ended in order, and the next one may be starting.
  const isReturning = (worker, elapsed = 0) => worker.leaving && !worker.connected && worker.connection_s + elapsed < RETURNS_S;

  // Not up, and nobody wanted that.
  const isDown = (worker, elapsed = 0) =>
    worker.enabled && !isUp(worker) && !worker.isolated && !worker.draining && !isReturning(worker, elapsed);

  return { isUp, isReturning, isDown };
})();
