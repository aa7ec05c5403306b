// A run while it goes on: events say what is new; the status line is fetched as the server renders it, metrics and log lines are appended.
// The browser reconnects by itself; after a sleep, or when it has given up, we do.
import { startTimes } from "./small.js";
import { fetchPage, swapMain } from "./swap.js";

const ENDED = new Set(["succeeded", "failed", "cancelled"]);
const AT_MOST_EVERY = 1000;

export function start(box) {
  const id = box.dataset.run;
  const offline = box.querySelector("[data-offline]");
  const status = box.querySelector("[data-status]");
  let source = null, ended = false, asked = 0, waiting = null, beat = Date.now();

  function open() {
    source?.close();
    if (ended || !box.isConnected) return;
    source = new EventSource(`/api/v1/runs/${id}/events`);
    source.addEventListener("open", () => { offline.hidden = true; });
    source.addEventListener("error", broken);
    source.addEventListener("progress", refresh);
    source.addEventListener("metric", (event) => { addMetric(box, JSON.parse(event.data)); });
    source.addEventListener("log", (event) => { addLine(box, JSON.parse(event.data)); });
    source.addEventListener("status", (event) => {
      if (ENDED.has(JSON.parse(event.data).status)) end();
      else refresh();
    });
  }

  function broken() {
    setTimeout(() => { if (source?.readyState !== EventSource.OPEN && !ended) offline.hidden = false; }, 2500);
    // CLOSED: the browser does not come again, either because the run has ended or because the server refused
    if (source?.readyState === EventSource.CLOSED) setTimeout(() => { refresh(); open(); }, 3000);
  }

  async function end() {
    if (ended) return;
    ended = true;
    source?.close();
    await swapMain().catch(() => location.reload());
  }

  function refresh() {
    if (waiting || ended) return;
    waiting = setTimeout(async () => {
      asked = Date.now();
      try {
        const page = await fetchPage(`/runs/${id}/progress`);
        show(page);
      } catch { /* the notice about the connection says it */ }
      waiting = null;
    }, Math.max(0, asked + AT_MOST_EVERY - Date.now()));
  }

  function show(page) {
    const fresh = page.querySelector("#run-progress"), old = document.querySelector("#run-progress");
    if (!fresh || !old || ended) return;
    if (ENDED.has(fresh.dataset.runStatus)) return end();
    const badge = fresh.querySelector("[data-badge]");
    const words = badge.textContent.trim();
    const shown = document.querySelector("#run-badge");
    if (shown.textContent.trim() !== words) shown.replaceChildren(...document.adoptNode(badge).childNodes);
    if (status.textContent !== words) status.textContent = words;
    update(old, document.adoptNode(fresh));
  }

  // A laptop that slept misses ticks of the clock; its connection is dead without knowing it.
  const clock = setInterval(() => {
    if (!box.isConnected) {
      clearInterval(clock);
      source?.close();
    } else if (Date.now() - beat > 20000) open();
    beat = Date.now();
  }, 5000);
  addEventListener("online", open);
  addEventListener("pageshow", (event) => { if (event.persisted) open(); });
  open();
}

// Bars move rather than jump: a progress element stays and takes the new value.
function update(old, fresh) {
  const before = [...old.querySelectorAll("progress")], after = [...fresh.querySelectorAll("progress")];
  if (before.length !== after.length) return old.replaceWith(fresh);
  after.forEach((bar, i) => {
    before[i].max = bar.max;
    before[i].value = bar.value;
    before[i].textContent = bar.textContent;
    bar.replaceWith(before[i]);
  });
  old.replaceChildren(...fresh.childNodes);
  old.dataset.runStatus = fresh.dataset.runStatus;
}

const COLUMNS = ["train loss", "train accuracy", "validation loss", "validation accuracy"];

export function addMetric(box, metric) {
  const body = box.querySelector("[data-metrics] tbody");
  let row = body.querySelector(`tr[data-index="${metric.phase_index}"][data-epoch="${metric.epoch}"]`);
  if (!row) {
    row = document.createElement("tr");
    Object.assign(row.dataset, { phase: metric.phase, index: metric.phase_index, epoch: metric.epoch });
    const badge = Object.assign(document.createElement("span"), { className: `badge badge--${metric.phase === "frozen" ? "frozen" : "tune"}`, textContent: metric.phase === "frozen" ? "frozen" : "fine-tune" });
    const first = document.createElement("td");
    first.append(badge);
    row.append(first, cell(metric.epoch), ...COLUMNS.map(() => cell("–")));
    [...row.children].slice(2).forEach((one, i) => { one.dataset.of = COLUMNS[i]; });
    body.append(row);
  }
  const place = row.querySelector(`[data-of="${metric.split} ${metric.name}"]`);
  if (!place) return;
  place.dataset.value = metric.value;
  place.textContent = metric.name === "loss" ? metric.value.toFixed(3) : (metric.value * 100).toFixed(1);
  clearTimeout(box.drawing);
  box.drawing = setTimeout(() => box.querySelector("[data-curves]").dispatchEvent(new Event("metrics")), 50);
}

function cell(text) {
  return Object.assign(document.createElement("td"), { className: "n", textContent: text });
}

export function addLine(box, line) {
  const log = box.querySelector("[data-log]");
  const list = log.querySelector("ol");
  if (Number(list.lastElementChild?.dataset.number ?? 0) >= line.number) return;
  log.querySelector("[data-log-empty]")?.remove();
  const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  const item = document.createElement("li");
  item.dataset.number = line.number;
  const time = Object.assign(document.createElement("time"), { dateTime: line.created_at });
  time.dataset.clock = "";
  item.append(time, Object.assign(document.createElement("span"), { textContent: line.message }));
  list.append(item);
  startTimes(item);
  if (atEnd) log.scrollTop = log.scrollHeight;
}
