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
  startAsking(form, form.querySelector("[data-estimate-form]"), form.querySelector("[data-estimate-said]"));
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
  await follow(place, await fetchPage(`/runs/new/estimate?${query}`), () => place.isConnected);
  if (place.querySelector("[data-status=failed]")) place.replaceChildren(); // a card is whole without it
}

// Show an estimate as it stands until it is ready, or `wanted` says that nobody waits for it any more.
async function follow(place, page, wanted) {
  while (wanted()) {
    const said = page.querySelector("[data-status]"), { status, asked } = said.dataset;
    place.replaceChildren(said);
    if (status !== "measuring") return;
    await wait(1000);
    page = await fetchPage(`/runs/new/estimate?${new URLSearchParams({ asked })}`);
  }
}

// "How long?": whatever is chosen, own settings and recipes too. Asked for, since timing other settings keeps the preview waiting.
function startAsking(form, button, place) {
  let asking = 0;
  button.hidden = false;
  form.addEventListener("input", () => { asking += 1; place.textContent = ""; });
  button.addEventListener("click", async () => {
    const mine = asking += 1;
    try {
      const page = await fetchPage("/runs/new/estimate", { method: "POST", body: new FormData(form) });
      await follow(place, page, () => mine === asking && form.isConnected);
      if (mine === asking && !place.textContent.trim()) place.textContent = "It could not be timed now.";
    } catch (error) {
      if (mine === asking) place.textContent = `Nobody can say now: ${error.message}`;
    }
  });
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
