// Changing any setting of the panel chooses "Own settings"; choosing them opens the panel. The preview follows the settings.
import { fetchPage } from "./swap.js";

export function start(form) {
  const panel = form.querySelector("#own-settings");
  const own = form.querySelector("input[name=preset][value=own]");
  panel.addEventListener("input", () => { own.checked = true; });
  own.addEventListener("change", () => { panel.open = true; });
  form.addEventListener("submit", () => { form.querySelector("[type=submit]").setAttribute("aria-busy", "true"); });
  addEventListener("pageshow", () => form.querySelector("[type=submit]").removeAttribute("aria-busy"));
  form.querySelector("[aria-invalid=true]")?.focus();
  startEstimates(form);
  startPreview(form, panel, form.querySelector("[data-preview]"));
}

const wait = (ms) => new Promise((done) => { setTimeout(done, ms); });

// One preset after the other: the first time, each is timed on this machine. The server says it in words, or says nothing.
async function startEstimates(form) {
  const version = form.querySelector("[name=version_id]").value;
  for (const place of form.querySelectorAll("[data-estimate]")) await estimate(place, version).catch(() => { place.textContent = ""; });
  form.dataset.timed = "";
}

async function estimate(place, version) {
  const query = new URLSearchParams({ version_id: version, preset: place.dataset.estimate });
  for (;;) {
    const page = await fetchPage(`/runs/new/estimate?${query}`);
    const said = page.querySelector("[data-status]");
    place.replaceChildren(said);
    if (said.dataset.status !== "measuring" || !place.isConnected) return;
    query.set("asked", said.dataset.asked);
    await wait(1000);
  }
}

const SHOWN = (name) => name.startsWith("augmentation.") || ["resize", "image_size", "seed", "preview_turn"].includes(name);

// Nine variants from the server, 300 ms after the last change of something that they show, and only while the panel is open.
function startPreview(form, panel, box) {
  const pictures = box.querySelector("[data-preview-pictures]"), turn = box.querySelector("[name=preview_turn]");
  let shown = null, waiting = null, asking = null, tries = 0;
  box.hidden = false;

  function look() {
    clearTimeout(waiting);
    tries = 0;
    if (panel.open) waiting = setTimeout(ask, 300);
  }

  async function ask() {
    const body = new FormData(form);
    const wanted = JSON.stringify([...body].filter(([name]) => SHOWN(name)));
    if (wanted === shown || !form.isConnected) return;
    asking?.abort();
    const mine = asking = new AbortController();
    box.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch("/runs/preview", { method: "POST", body, signal: mine.signal });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!answer.ok) throw new Error(page.querySelector(".lead")?.textContent ?? `the server answered ${answer.status}`);
      pictures.replaceChildren(...page.body.children);
      shown = pictures.querySelector("img") ? wanted : null;
      // the worker may still be loading TensorFlow: a few more tries
      tries = shown ? 0 : tries + 1;
      if (!shown && tries < 4) waiting = setTimeout(ask, 4000);
    } catch (error) {
      if (mine.signal.aborted) return;
      pictures.textContent = `No preview now: ${error.message}`;
    }
    box.removeAttribute("aria-busy");
  }

  panel.addEventListener("input", look);
  panel.addEventListener("change", look);
  panel.addEventListener("toggle", look);
  box.querySelector("[data-preview-other]").addEventListener("click", () => { turn.value = Number(turn.value) + 1; look(); });
  look();
}
