"use strict";
// The gateway's last two minutes: requests and errors, latency, and where the time of computed requests goes.

const Charts = (() => {
  const { millis } = Live;
  const HEIGHT = 150;
  const TABLE_STEP_S = 10;
  const THIN = "24"; // a hexadecimal part of a colour: how little of the ground it hides
  const THICK = "80";
  const LEAST_MS = 0.01; // a logarithm has no zero
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const time = (t) => clock.format(t * 1000);
  const perSecond = (value) => (value == null ? Live.NONE : Live.rate(value));
  const section = document.getElementById("charts-section");

  // Series that are stacked come from the bottom up.
  const CHARTS = [
    {
      id: "chart-traffic",
      title: "Requests/s",
      show: perSecond,
      series: [
        { label: "answered", colour: "--chart-strong", fill: "--chart-strong", value: (point) => point.rate },
        { label: "errors", colour: "--bad", dash: [4, 3], value: (point) => point.errors },
      ],
    },
    {
      id: "chart-latency",
      title: "Latency",
      show: millis,
      scales: true,
      series: [
        { label: "p99", colour: "--chart-strong", value: (point) => point.p99 },
        { label: "p95", colour: "--chart-middle", dash: [6, 3], value: (point) => point.p95 },
        { label: "p50", colour: "--chart-light", dash: [2, 3], value: (point) => point.p50 },
      ],
    },
    {
      id: "chart-split",
      title: "Where the time goes",
      show: millis,
      stacked: true,
      series: [
        { label: "compute", colour: "--part-compute", fill: "--part-compute", value: (point) => point.compute },
        { label: "queue", colour: "--part-queue", dash: [6, 3], fill: "--part-queue", value: (point) => point.queue },
        { label: "network", colour: "--part-network", dash: [2, 3], fill: "--part-network", value: (point) => point.network },
      ],
    },
  ];
  const sync = uPlot.sync("two minutes");
  const charts = CHARTS.map(build);

  function build(spec) {
    const figure = document.getElementById("chart-template").content.firstElementChild.cloneNode(true);
    document.getElementById("charts").insertBefore(figure, document.getElementById("chart-batches"));
    figure.id = spec.id;
    Live.fill(figure, { title: spec.title });
    const legend = figure.querySelector(".legend");
    for (const { label } of spec.series) legend.append(legendItem(label, figure.querySelector(".points tr")));
    figure.querySelector(".scroll").setAttribute("aria-label", `${spec.title} as a table`);
    const chart = { ...spec, figure, plot: null, raw: spec.series.map(() => []), times: [], log: false, width: 0 };
    const button = figure.querySelector("button");
    button.hidden = !spec.scales;
    button.addEventListener("click", () => {
      chart.log = !chart.log;
      button.setAttribute("aria-pressed", String(chart.log));
      draw(chart, true);
    });
    figure.querySelector("details").addEventListener("toggle", () => paintTable(chart));
    new ResizeObserver(([entry]) => {
      chart.width = Math.floor(entry.contentRect.width);
      if (chart.plot) chart.plot.setSize({ width: chart.width, height: HEIGHT });
      else draw(chart);
    }).observe(figure.querySelector(".plot"));
    return chart;
  }

  function legendItem(label, head) {
    const item = document.createElement("li");
    item.innerHTML = '<span class="key" aria-hidden="true"></span><span></span> <strong></strong>';
    item.children[0].classList.add(label);
    item.children[1].textContent = label;
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.className = "number";
    cell.textContent = label;
    head.append(cell);
    return item;
  }

  // What uPlot draws: the highest of a stack first.
  function columns({ raw, times, stacked, log }) {
    if (log) return [times, ...raw.map((values) => values.map((value) => value && Math.max(value, LEAST_MS)))];
    if (!stacked) return [times, ...raw];
    let below = [];
    const stack = raw.map((values) => (below = values.map((value, place) => (value == null ? value : value + (below[place] || 0)))));
    return [times, ...stack.reverse()];
  }

  function options(chart) {
    const series = chart.stacked ? chart.series.toReversed() : chart.series;
    const axis = { stroke: () => css("--quiet"), font: "11px system-ui, sans-serif", ticks: { show: false } };
    const grid = { stroke: () => css("--line"), width: 1 };
    return {
      width: chart.width,
      height: HEIGHT,
      padding: [8, 20, 0, 0], // the newest time's label is half outside
      legend: { show: false },
      cursor: { sync: { key: sync.key }, drag: { x: false, y: false }, points: { size: 6 }, y: false },
      scales: {
        x: { range: (_, _least, newest) => [newest - Points.SECONDS + 1, newest] },
        y: chart.log ? { distr: 3 } : { range: (_, _least, most) => [0, most > 0 ? most * 1.1 : 1] },
      },
      axes: [
        { ...axis, size: 24, grid: { show: false }, space: 70, values: (_, splits) => splits.map(time) },
        { ...axis, size: 58, grid, space: 30, values: (_, splits) => splits.map((value) => (value == null ? "" : label(chart, value))) },
      ],
      series: [{}, ...series.map((each) => ({
        label: each.label,
        stroke: () => css(each.colour),
        fill: each.fill && (() => `${css(each.fill)}${chart.stacked ? THICK : THIN}`),
        dash: each.dash,
        width: 1.5,
        points: { show: false },
      }))],
      // Each of a stack is filled down to the one below it.
      bands: chart.stacked ? series.slice(1).map((_, place) => ({ series: [place + 1, place + 2] })) : [],
      hooks: { setCursor: [() => paintLegend(chart)] },
    };
  }

  // On an axis, where the digits need to tell no more than the lines do.
  function label({ show }, value) {
    if (show !== millis) return value > 0 && value < 1 ? String(value) : Live.number(value);
    return value >= 1000 ? `${Number((value / 1000).toPrecision(3))} s` : `${Number(value.toPrecision(3))} ms`;
  }

  function draw(chart, anew = false) {
    if (anew && chart.plot) {
      chart.plot.destroy();
      chart.plot = null;
    }
    if (!chart.width || !chart.times.length) return;
    if (chart.plot) chart.plot.setData(columns(chart));
    else chart.plot = new uPlot(options(chart), columns(chart), chart.figure.querySelector(".plot"));
    paintLegend(chart);
  }

  // The values under the cursor, or else the newest.
  function paintLegend({ plot, figure, raw, times, show }) {
    const place = plot && plot.cursor.idx != null ? plot.cursor.idx : times.length - 1;
    raw.forEach((values, number) => Live.setText(figure.querySelector(".legend").children[number].lastElementChild, show(values[place])));
  }

  function describe({ figure, title, series, raw, show }) {
    const parts = series.map(({ label: name }, number) => {
      const values = raw[number].filter((value) => value != null);
      if (!values.length) return `${name}: nothing yet`;
      return `${name}: ${show(values.at(-1))} now, ${show(Math.min(...values))} to ${show(Math.max(...values))}`;
    });
    figure.querySelector(".plot").setAttribute("aria-label", `${title} in the last two minutes. ${parts.join("; ")}.`);
  }

  function paintTable({ figure, times, raw, show }) {
    if (!figure.querySelector("details").open) return;
    const places = times.map((_, place) => times.length - 1 - place).filter((_, back) => back % TABLE_STEP_S === 0);
    const rows = places.map((place) => {
      const row = document.createElement("tr");
      const cells = [time(times[place]), ...raw.map((values) => show(values[place]))];
      row.append(...cells.map((text, number) => {
        const cell = document.createElement(number ? "td" : "th");
        if (number) cell.className = "number";
        else cell.scope = "row";
        cell.textContent = text;
        return cell;
      }));
      return row;
    });
    figure.querySelector("tbody").replaceChildren(...rows);
  }

  function paint() {
    const points = Points.all();
    section.hidden = points.length === 0;
    if (!points.length) return;
    for (const chart of charts) {
      chart.raw = chart.series.map(({ value }) => Points.series(value));
      chart.times = chart.raw[0].map((_, place) => points[0].t + place);
      draw(chart);
      describe(chart);
      paintTable(chart);
    }
  }

  // Colours come from the style sheet, which has two sets of them.
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((chart) => chart.plot && chart.plot.redraw()));

  return { paint };
})();
