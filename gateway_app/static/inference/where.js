"use strict";
// Where an input goes: asks POST /where, marks the slot on the ring and tells who would get it, and why.

(() => {
  const { byId, swatch, repeat } = Panels;
  const { number, plural } = Live;
  const SHOWN = 6; // of the workers in line

  const form = byId("where");
  const input = byId("where-input");
  const button = form.querySelector("[type=submit]");
  const run = byId("where-run");
  const answer = byId("where-answer");
  let found = null; // the last answer, with the body that it is of
  let asked = 0;

  function failed(text) {
    byId("where-error").hidden = !text;
    Live.setText(byId("where-error").querySelector("span"), text);
    input.toggleAttribute("aria-invalid", Boolean(text));
  }

  function forget() {
    found = null;
    answer.hidden = true;
    byId("where-trace").hidden = true;
    RingPanel.mark(null);
  }

  function show({ model, version, key, slot, owner, successors, now, why, kept }) {
    const line = [owner, ...successors];
    swatch(byId("where-swatch"), now || "");
    Live.fill(answer, {
      now: now || "Nobody",
      why,
      key,
      slot: `slot ${number(slot)} of 65,536, marked on the ring`,
      model: version ? `${model}, version ${version}` : model,
      kept: kept ? "keeps its result: no worker is asked" : "does not keep its result",
    });
    const shown = line.length > SHOWN + 1 ? line.slice(0, SHOWN) : line;
    repeat(byId("where-line"), byId("where-worker-template"), [...shown, ...(shown.length < line.length ? [null] : [])], (item, name) => {
      swatch(item.querySelector(".swatch"), name || "");
      Live.fill(item, { name: name === null ? `and ${plural(line.length - shown.length, "other", "others")}` : name === owner ? `${name} (owner)` : name });
    });
    answer.hidden = false;
    RingPanel.mark(slot);
  }

  async function ask(body) {
    const mine = ++asked;
    button.disabled = true;
    try {
      const answered = (await Panels.ask("where", { method: "POST", headers: { "Content-Type": "application/json" }, body })).answer;
      if (mine !== asked) return;
      found = { body, answered };
      failed("");
      show(answered);
    } catch (error) {
      if (mine !== asked) return;
      forget();
      failed(error.message);
    } finally {
      if (mine === asked) button.disabled = false;
    }
  }

  // The text as it is, for its key depends on each character of the input; only what a request has to have is added.
  function requestOf(text) {
    const fields = JSON.parse(text);
    return "request_id" in fields ? text : text.replace("{", '{"request_id": "dashboard", ');
  }

  // A real request, which asks for its explanation in the answer's head.
  async function explain(text) {
    const body = requestOf(text);
    run.disabled = true;
    const headers = { "Content-Type": "application/json", "X-Explain": "1" };
    const [response, problem] = await Panels.ask("infer", { method: "POST", headers, body, signal: AbortSignal.timeout(60_000) })
      .then((done) => [done.response, ""])
      .catch((error) => [error.response, error.message]);
    run.disabled = false;
    if (found?.body !== text) return; // another text is shown by now
    const header = response && response.headers.get("X-Explain");
    byId("where-trace").hidden = !header;
    if (header) byId("where-trace").replaceChildren(TracePanel.details(JSON.parse(header)));
    if (header) byId("where-trace").scrollIntoView({ block: "nearest" });
    failed(problem);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    byId("where-trace").hidden = true;
    ask(input.value);
  });
  run.addEventListener("click", async () => {
    await ask(input.value);
    if (found) await explain(found.body);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  // What is shown is of the text that is shown: an answer that is under way is of another.
  input.addEventListener("input", () => {
    asked += 1;
    button.disabled = false;
    if (found) forget();
  });
  document.addEventListener("ring", () => found && ask(found.body)); // the ring has changed, and so may the owner
})();
