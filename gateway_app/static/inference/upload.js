"use strict";
// Sends a model in parts, each small enough for one request; a part that fails on its way is sent again.

(() => {
  const form = document.getElementById("upload");
  if (!form) return;
  const partBytes = Number(form.dataset.partBytes);
  const progress = document.getElementById("upload-progress");
  const error = document.getElementById("upload-error");
  const button = form.querySelector("[type=submit]");
  const ATTEMPTS = 5;
  const RETRY_MS = 1000;

  async function post(url, body, headers = {}) {
    const token = form.querySelector("[name=csrfmiddlewaretoken]").value;
    const response = await fetch(url, { method: "POST", body, headers: { "X-CSRFToken": token, ...headers } });
    const answer = await response.json().catch(() => ({}));
    return { ...answer, status: response.status, ok: response.ok };
  }

  function show(sent, size) {
    progress.hidden = false;
    progress.querySelector("progress").value = sent / size;
    progress.querySelector("[role=status]").textContent = `${Math.floor((100 * sent) / size)} % of ${(size / 2 ** 20).toFixed(1)} MiB`;
  }

  // Sends the part at `offset`; what the server says it has by now.
  async function sendPart(url, file, offset) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        const part = file.slice(offset, offset + partBytes);
        const answer = await post(`${url}?offset=${offset}`, part, { "Content-Type": "application/octet-stream" });
        // It may have come although its answer did not: then the server names another place to go on from.
        if (answer.ok || (answer.status === 409 && answer.received > offset)) return answer;
        throw new Error(answer.error || `status ${answer.status}`);
      } catch (reason) {
        if (!(reason instanceof TypeError) || attempt === ATTEMPTS) throw reason; // only what never came is sent again
        await new Promise((resolve) => { window.setTimeout(resolve, RETRY_MS * attempt); });
      }
    }
  }

  async function send(file) {
    const about = new FormData(form);
    about.delete("file");
    about.set("size", file.size);
    const begun = await post(form.action, about);
    if (!begun.ok) throw new Error(begun.error || `status ${begun.status}`);
    let answer = { received: 0 };
    while (answer.received < file.size) {
      show(answer.received, file.size);
      answer = await sendPart(begun.part_url, file, answer.received);
    }
    show(file.size, file.size);
    window.location.assign(answer.url || begun.part_url.replace(/part\/$/, ""));
  }

  form.addEventListener("submit", (event) => {
    const file = form.querySelector("[type=file]").files[0];
    if (!file || !file.size) return; // the server says what is missing
    event.preventDefault();
    error.hidden = true;
    button.disabled = true;
    send(file).catch((reason) => {
      error.textContent = `The upload has failed: ${reason.message}`;
      error.hidden = false;
      progress.hidden = true;
      button.disabled = false;
    });
  });
})();
