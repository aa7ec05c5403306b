// Validation accuracy and loss of two or three runs over each other, drawn by uPlot from the table under them. A run is a letter, then a
// line style, then a colour; a ring marks the last frozen epoch. Along x the thaws of all runs stand at one place, before it the frozen
// epochs by number, after it +1, +2, ...; where one side is much longer than the other, both have the same room.
import { colour, LOPSIDED, STEPS } from "./curves.js";

const LETTERS = ["a", "b", "c"];
const DASHES = [[], [7, 4], [2, 4]];
const SCALE = { accuracy: 100, loss: 1 };

export function start(box) {
  const table = box.querySelector("[data-metrics] table");
  if (!table) return;
  const draw = () => {
    if (!globalThis.uPlot) return;
    const thaws = [...table.querySelectorAll("th[data-thaw]")].map((one) => Number(one.dataset.thaw) || null);
    box.querySelector("[data-charts]").hidden = false;
    for (const place of box.querySelectorAll("[data-plot]")) plot(place, laidOut(values(table, place.dataset.plot), thaws));
  };
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  if (!globalThis.uPlot) addEventListener("load", draw);
  draw();
}

// A list for every run: its value after each epoch, null where it has none.
function values(table, name) {
  const rows = [...table.querySelectorAll("tbody tr")].map((row) => [...row.querySelectorAll(`[data-of="${name}"]`)]
    .map((cell) => (cell.dataset.value === undefined ? null : Number(cell.dataset.value) * SCALE[name])));
  return rows[0].map((_, run) => rows.map((row) => row[run]));
}

// `data` for uPlot (places along x, then a list for every run), `end` of x, `ticks(pixels)`, `words(index)`, and the places of the thaws.
function laidOut(lines, thaws) {
  const ends = lines.map((line) => line.findLastIndex((one) => one !== null) + 1);
  const cuts = ends.map((end, run) => Math.min(thaws[run] ?? end, end));
  const frozen = Math.max(...cuts), tuned = Math.max(...ends.map((end, run) => end - cuts[run]));
  const equal = tuned > 0 && Math.max(frozen, tuned) > LOPSIDED * Math.min(frozen, tuned);
  const before = equal ? 1 / frozen : 1, after = equal ? 1 / tuned : 1, thaw = frozen * before;
  const at = (run, epoch) => (epoch <= cuts[run] ? (epoch - 0.5) * before : thaw + (epoch - cuts[run] - 0.5) * after);
  const points = lines.map((line, run) => line.map((value, i) => [at(run, i + 1), value]).filter(([, value]) => value !== null));
  const xs = [...new Set(points.flat().map(([x]) => Math.round(x * 1e6) / 1e6))].sort((one, two) => one - two);
  const data = [xs, ...points.map((line) => {
    const known = new Map(line.map(([x, value]) => [Math.round(x * 1e6) / 1e6, value]));
    return xs.map((x) => known.get(x) ?? null);
  })];
  const number = (x) => (x < thaw ? `${Math.round(x / before + 0.5)}` : `+${Math.round((x - thaw) / after + 0.5)}`);
  const side = (start, count, each, width) => {
    const step = STEPS.find((one) => one * each * width >= 36) ?? STEPS.at(-1);
    return Array.from({ length: count }, (_, i) => i + 1).filter((i) => i === 1 || (i % step === 0 && i * each * width >= 36)).map((i) => start + (i - 0.5) * each);
  };
  return {
    data,
    end: Math.max(thaw + tuned * after, equal ? 0 : 4),
    thaw: tuned > 0 ? thaw : null,
    rings: lines.map((_, run) => (thaws[run] === null ? null : Math.round(at(run, cuts[run]) * 1e6) / 1e6)),
    ticks: (width) => [...side(0, frozen, before, width), ...side(thaw, tuned, after, width)],
    number,
  };
}

function plot(place, laid) {
  const { data } = laid;
  place.chart?.destroy();
  const size = () => ({ width: Math.max(200, Math.floor(place.clientWidth)), height: innerWidth < 640 ? 200 : 230 });
  const name = place.dataset.plot, axis = colour("axis"), font = "12px system-ui, sans-serif";
  const numbers = data.slice(1).flat().filter((one) => one !== null);
  const low = Math.min(...numbers), high = Math.max(...numbers);
  const range = name === "accuracy" ? [Math.max(0, Math.floor((low - 1) / 5) * 5), 100] : [0, high * 1.05];
  place.chart = new uPlot({
    ...size(),
    legend: { show: false },
    padding: [10, 22, 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
    scales: { x: { time: false, range: () => [0, laid.end] }, y: { range: () => range } },
    axes: [
      { stroke: axis, font, grid: { show: false }, ticks: { show: false }, splits: (chart) => laid.ticks(chart.bbox.width / (devicePixelRatio || 1) / laid.end), values: (_, places) => places.map(laid.number), size: 30 },
      { stroke: axis, font, grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false }, size: 44 },
    ],
    series: [{}, ...data.slice(1).map((_, i) => ({ stroke: colour(`run-${LETTERS[i]}`), width: 2, dash: DASHES[i], spanGaps: true, points: { show: data[0].length < 3, size: 6 } }))],
    hooks: { drawClear: [(chart) => edge(chart, laid.thaw)], draw: [(chart) => mark(chart, laid)], setCursor: [(chart) => say(place, laid, name, chart.cursor.idx)] },
  }, data, place);
  place.said ??= place.parentNode.appendChild(Object.assign(document.createElement("p"), { className: "xs muted num plot__says" }));
  place.watch ??= new ResizeObserver(() => place.chart.setSize(size()));
  place.watch.observe(place);
  say(place, laid, name, null);
}

// The place of the thaw, as on a run's own page.
function edge(chart, thaw) {
  if (thaw === null) return;
  const { ctx, bbox } = chart, ratio = devicePixelRatio || 1, x = chart.valToPos(thaw, "x", true);
  ctx.save();
  ctx.strokeStyle = colour("axis");
  ctx.setLineDash([3 * ratio, 3 * ratio]);
  ctx.beginPath();
  ctx.moveTo(x, bbox.top);
  ctx.lineTo(x, bbox.top + bbox.height);
  ctx.stroke();
  ctx.restore();
}

// The letter at the end of each line, moved apart where ends meet; a ring at the thaw.
function mark(chart, { data, rings }) {
  const { ctx } = chart, ratio = devicePixelRatio || 1, ends = [];
  ctx.save();
  ctx.font = `600 ${12 * ratio}px system-ui, sans-serif`;
  ctx.textBaseline = "middle";
  ctx.textAlign = "left";
  data.slice(1).forEach((line, i) => {
    const stroke = colour(`run-${LETTERS[i]}`);
    const last = line.findLastIndex((one) => one !== null);
    if (last < 0) return;
    ends.push({ letter: LETTERS[i].toUpperCase(), stroke, x: chart.valToPos(data[0][last], "x", true) + 8 * ratio, y: chart.valToPos(line[last], "y", true) });
    const thaw = rings[i] === null ? -1 : data[0].indexOf(rings[i]);
    if (thaw < 0 || line[thaw] === null) return;
    ctx.beginPath();
    ctx.arc(chart.valToPos(data[0][thaw], "x", true), chart.valToPos(line[thaw], "y", true), 4 * ratio, 0, 2 * Math.PI);
    ctx.fillStyle = colour("surface");
    ctx.fill();
    ctx.strokeStyle = stroke;
    ctx.setLineDash([]);
    ctx.lineWidth = 1.5 * ratio;
    ctx.stroke();
  });
  ends.sort((one, two) => one.y - two.y);
  ends.forEach((end, i) => {
    const above = ends[i - 1];
    if (above && Math.abs(above.x - end.x) < 20 * ratio && end.y - above.y < 14 * ratio) end.y = above.y + 14 * ratio;
    ctx.fillStyle = end.stroke;
    ctx.fillText(end.letter, end.x, end.y);
  });
  ctx.restore();
}

// What every run had at a place; one that has no epoch just there, its last one before.
function say(place, { data, number }, name, index) {
  const at = index ?? data[0].length - 1;
  const value = (line) => (at > line.findLastIndex((one) => one !== null) ? null : line.slice(0, at + 1).findLast((one) => one !== null) ?? null);
  const text = (found) => (found === null ? "–" : name === "accuracy" ? `${found.toFixed(1)} %` : found.toFixed(3));
  place.said.textContent = `Epoch ${number(data[0][at])}: ${data.slice(1).map((line, i) => `${LETTERS[i].toUpperCase()} ${text(value(line))}`).join(", ")}`;
}
