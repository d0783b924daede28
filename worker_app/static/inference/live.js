"use strict";
// What both pages share: number formats, and filling in elements.

const Live = (() => {
  const NONE = "–";
  const integers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
  const number = (value) => (value == null ? NONE : integers.format(value));
  const decimal = (value, digits = 1) => (value == null ? NONE : value.toFixed(digits));
  const percent = (part) => (part == null ? NONE : `${(part * 100).toFixed(1)} %`);
  const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;

  function millis(value) {
    if (value == null) return NONE;
    if (value < 0.01) return "< 0.01 ms"; // what the gateway's own cache answers
    if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
    return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ms`;
  }

  function duration(seconds) {
    if (seconds == null) return NONE;
    const whole = Math.floor(seconds);
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
    if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
    return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
  }

  function bytes(value) {
    if (value == null) return NONE;
    if (value < 1024) return `${value} B`;
    const units = ["KiB", "MiB", "GiB", "TiB"];
    let scaled = value / 1024;
    while (scaled >= 1024 && units.length > 1) {
      scaled /= 1024;
      units.shift();
    }
    return `${scaled.toFixed(scaled < 10 ? 1 : 0)} ${units[0]}`;
  }

  const rate = (perSecond) => (perSecond && perSecond < 10 ? decimal(perSecond) : number(perSecond));

  function errorShare({ errors, requests }) {
    if (!requests) return NONE;
    const share = (errors / requests) * 100;
    return errors && share < 0.01 ? "< 0.01 %" : `${share.toFixed(2)} %`; // 37 errors are never shown as none
  }

  const provider = (name) => (name ? name.replace(/ExecutionProvider$/, "") : NONE);

  // Writes only what changed: a selection or a screen reader's place in the page survives the next poll.
  function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function fill(root, values) {
    for (const element of root.querySelectorAll("[data-text]")) {
      const text = values[element.dataset.text];
      if (text !== undefined) setText(element, text);
    }
  }

  function badge(root, name, kind, icon) {
    const element = root.querySelector(`[data-badge="${name}"]`);
    element.hidden = !kind;
    if (!kind) return;
    element.className = `badge ${kind}`;
    element.querySelector("use").setAttribute("href", `#icon-${icon}`);
  }

  // part: 0 to 1. Set through the CSSOM, which a strict content security policy allows, unlike style attributes.
  function bar(root, name, part) {
    const width = `${(Math.min(1, Math.max(0, part || 0)) * 100).toFixed(1)}%`;
    root.querySelector(`[data-bar="${name}"]`).style.setProperty("width", width);
  }

  return { NONE, number, decimal, percent, plural, millis, duration, bytes, rate, errorShare, provider, setText, fill, badge, bar };
})();
