// Validation accuracy and loss of two or three runs over each other, drawn by uPlot from the table under them. A run is a letter, then a
// line style, then a colour; a ring marks the last frozen epoch.
import { colour } from "./curves.js";

const LETTERS = ["a", "b", "c"];
const DASHES = [[], [7, 4], [2, 4]];
const SCALE = { accuracy: 100, loss: 1 };

export function start(box) {
  const table = box.querySelector("[data-metrics] table");
  if (!table) return;
  const thaws = [...table.querySelectorAll("th[data-thaw]")].map((one) => Number(one.dataset.thaw) || null);
  const draw = () => {
    if (!globalThis.uPlot) return;
    box.querySelector("[data-charts]").hidden = false;
    for (const place of box.querySelectorAll("[data-plot]")) plot(place, values(table, place.dataset.plot), thaws);
  };
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  if (!globalThis.uPlot) addEventListener("load", draw);
  draw();
}

// uPlot's data: the epochs, then a list for every run.
function values(table, name) {
  const rows = [...table.querySelectorAll("tbody tr")].map((row) => [...row.querySelectorAll(`[data-of="${name}"]`)]
    .map((cell) => (cell.dataset.value === undefined ? null : Number(cell.dataset.value) * SCALE[name])));
  return [rows.map((_, i) => i + 1), ...rows[0].map((_, run) => rows.map((row) => row[run]))];
}

function plot(place, data, thaws) {
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
    scales: { x: { time: false, range: (_, from, to) => [Math.min(from, 1) - 0.5, Math.max(to, 4) + 0.5] }, y: { range: () => range } },
    axes: [
      { stroke: axis, font, grid: { show: false }, ticks: { show: false }, incrs: [1, 2, 5, 10, 20, 50, 100], size: 30 },
      { stroke: axis, font, grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false }, size: 44 },
    ],
    series: [{}, ...data.slice(1).map((_, i) => ({ stroke: colour(`run-${LETTERS[i]}`), width: 2, dash: DASHES[i], points: { show: data[0].length < 3, size: 6 } }))],
    hooks: { draw: [(chart) => mark(chart, data, thaws)], setCursor: [(chart) => say(place, data, name, chart.cursor.idx)] },
  }, data, place);
  place.said ??= place.parentNode.appendChild(Object.assign(document.createElement("p"), { className: "xs muted num plot__says" }));
  place.watch ??= new ResizeObserver(() => place.chart.setSize(size()));
  place.watch.observe(place);
  say(place, data, name, null);
}

// The letter at the end of each line, moved apart where ends meet; a ring at the thaw.
function mark(chart, data, thaws) {
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
    const thaw = thaws[i] === null ? -1 : data[0].indexOf(thaws[i]);
    if (thaw < 0 || line[thaw] === null) return;
    ctx.beginPath();
    ctx.arc(chart.valToPos(data[0][thaw], "x", true), chart.valToPos(line[thaw], "y", true), 4 * ratio, 0, 2 * Math.PI);
    ctx.fillStyle = colour("surface");
    ctx.fill();
    ctx.strokeStyle = stroke;
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

function say(place, data, name, index) {
  const at = index ?? data[0].length - 1;
  const text = (value) => (value === null ? "–" : name === "accuracy" ? `${value.toFixed(1)} %` : value.toFixed(3));
  place.said.textContent = `Epoch ${data[0][at]}: ${data.slice(1).map((line, i) => `${LETTERS[i].toUpperCase()} ${text(line[at])}`).join(", ")}`;
}
