"use strict";
// Batches by their size, and by what released each: of one worker or of all.

const Histogram = (() => {
  const { number } = Live;
  const REASONS = ["free", "full", "timeout"];
  const byId = (id) => document.getElementById(id);
  const choice = byId("batches-of");
  let latest = null;

  function paintChoice(names) {
    const wanted = ["", ...names];
    if ([...choice.options].map((option) => option.value).join("\n") === wanted.join("\n")) return;
    const { value } = choice;
    choice.replaceChildren(...wanted.map((name) => new Option(name || "all workers", name)));
    choice.value = wanted.includes(value) ? value : "";
  }

  // The same sizes of several workers together, up to the largest of any.
  function summed(workers) {
    const sizes = new Map();
    for (const batch of workers.flatMap((worker) => worker.batches || [])) {
      const sum = sizes.get(batch.size) || { size: batch.size, free: 0, full: 0, timeout: 0 };
      for (const reason of REASONS) sum[reason] += batch[reason];
      sizes.set(batch.size, sum);
    }
    return [...sizes.values()].sort((a, b) => a.size - b.size);
  }

  function range(size) {
    return size < 3 ? `${size}` : `${size / 2 + 1}–${size}`;
  }

  function paint(stats) {
    latest = stats;
    const reporting = stats.workers.filter((worker) => worker.batches);
    paintChoice(reporting.map((worker) => worker.name));
    const batches = summed(choice.value ? reporting.filter((worker) => worker.name === choice.value) : reporting);
    const highest = Math.max(1, ...batches.map(({ free, full, timeout }) => free + full + timeout));
    const body = byId("batches");
    while (body.children.length > batches.length) body.lastElementChild.remove();
    while (body.children.length < batches.length) body.append(byId("size-template").content.cloneNode(true));
    batches.forEach((batch, place) => {
      const row = body.children[place];
      for (const reason of REASONS) Live.bar(row, reason, batch[reason] / highest);
      Live.fill(row, {
        size: range(batch.size),
        why: `${number(batch.free)} as the engine was free, ${number(batch.full)} full, ${number(batch.timeout)} at the time limit`,
        count: number(batch.free + batch.full + batch.timeout),
      });
      row.title = `${number(batch.free)} free · ${number(batch.full)} full · ${number(batch.timeout)} time limit`;
    });
    byId("chart-batches").hidden = stats.workers.length === 0;
    byId("no-batches").hidden = batches.length > 0;
  }

  choice.addEventListener("change", () => paint(latest));

  return { paint };
})();
