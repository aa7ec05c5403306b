// Accuracy and loss by epoch, drawn by uPlot from the table under them: one line a phase, the thaw drawn as an edge, the kept epoch ringed.
// Along x a phase has room for its epochs; where one is much longer than another, every phase has the same room.
const NAMES = { accuracy: (value) => value * 100, loss: (value) => value };
const KINDS = { frozen: "frozen", fine_tune: "fine-tune" };
export const LOPSIDED = 3;
export const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

// The rows of the table, in order.
export function readRows(box) {
  return [...box.querySelectorAll("[data-metrics] tbody tr")].map((row) => ({
    phase: row.dataset.phase,
    index: Number(row.dataset.index),
    epoch: Number(row.dataset.epoch),
    value: (split, name) => {
      const text = row.querySelector(`[data-of="${split} ${name}"]`)?.dataset.value;
      return text === undefined ? null : Number(text);
    },
  }));
}

export function start(box) {
  const charts = [...box.querySelectorAll("[data-plot]")].map((place) => new Chart(place));
  const draw = () => {
    const rows = readRows(box);
    box.querySelector("[data-charts]").hidden = !rows.length;
    box.querySelector("[data-metrics]").hidden = !rows.length;
    box.querySelector("[data-no-epochs]").hidden = rows.length > 0;
    if (rows.length && globalThis.uPlot) for (const chart of charts) chart.show(rows);
  };
  box.addEventListener("metrics", draw);
  const themes = new MutationObserver(draw);
  themes.observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  if (!globalThis.uPlot) addEventListener("load", draw);
  draw();
}

// uPlot draws on a canvas, so that it needs colours as text: they are read off an element that has the class.
export function colour(name) {
  const probe = document.createElement("i");
  probe.className = `probe probe--${name}`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

class Chart {
  constructor(place) {
    this.place = place;
    this.name = place.dataset.plot;
    this.said = document.createElement("p");
    this.said.className = "xs muted num plot__says";
    place.after(this.said);
    new ResizeObserver(() => this.plot?.setSize(this.measure())).observe(place);
  }

  measure() {
    return { width: Math.max(200, Math.floor(this.place.clientWidth)), height: innerWidth < 640 ? 210 : 260 };
  }

  show(rows) {
    const key = `${rows.map((row) => row.index).filter((one, i, all) => all.indexOf(one) === i)} ${colour("ink")}`;
    this.rows = rows;
    const told = this.place.closest("[data-curves]")?.dataset ?? {};
    this.phases = phasesOf(rows, told.keep?.split(" ") ?? []);
    this.end = layOut(this.phases, told.going === "" ? told.planned?.split(" ").map(Number) ?? [] : []);
    const data = this.data();
    if (this.key === key) this.plot.setData(data);
    else {
      this.plot?.destroy();
      this.key = key;
      this.plot = this.place.chart = new uPlot(this.options(), data, this.place);
    }
    this.say(rows.length - 1);
    this.place.setAttribute("aria-label", `${this.name} by epoch. ${this.said.textContent}. The same as a table below.`);
  }

  // Every phase begins where the one before it ended, so that the line does not break at the thaw.
  data() {
    const places = this.phases.flatMap((phase) => this.rows.slice(phase.first, phase.last + 1).map((_, i) => phase.at(i)));
    const lines = this.phases.flatMap((phase) => ["train", "validation"].map((split) => this.rows.map((row, i) => {
      if (i < phase.first - (phase.first > 0 ? 1 : 0) || i > phase.last) return null;
      const value = row.value(split, this.name);
      return value === null ? null : NAMES[this.name](value);
    })));
    return [places, ...lines];
  }

  options() {
    const axis = colour("axis"), grid = colour("grid");
    const series = this.phases.flatMap((phase) => {
      const stroke = colour(phase.kind);
      return [
        { stroke, width: 1.5, dash: [5, 4], points: { show: this.rows.length < 3, size: 5 } },
        { stroke, width: 2, points: { show: this.rows.length < 3, size: 6 } },
      ];
    });
    const font = "12px system-ui, sans-serif";
    return {
      ...this.measure(),
      legend: { show: false },
      padding: [18, 10, 0, 0],
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: { x: { time: false, range: () => [0, this.end] }, y: { range: (_, low, high) => this.range(low, high) } },
      axes: [
        { stroke: axis, font, grid: { show: false }, ticks: { show: false }, splits: (plot) => this.ticks(plot).map((one) => one.at), values: (plot) => this.ticks(plot).map((one) => one.epoch), size: 30 },
        { stroke: axis, font, grid: { stroke: grid, width: 1 }, ticks: { show: false }, size: 44 },
      ],
      series: [{}, ...series],
      hooks: {
        drawClear: [(plot) => this.wash(plot)],
        draw: [(plot) => this.mark(plot)],
        setCursor: [(plot) => this.say(plot.cursor.idx ?? this.rows.length - 1)],
      },
    };
  }

  range(low, high) {
    if (low === null || high === null) return [0, 1];
    if (this.name === "loss") return [0, Math.max(high * 1.05, 0.1)];
    return [Math.max(0, Math.floor((low - 1) / 10) * 10), 100];
  }

  // Epochs with a number under them: as many in each phase as have room.
  ticks(plot) {
    const width = plot.bbox.width / (devicePixelRatio || 1) / this.end;
    return this.phases.flatMap((phase) => {
      const step = STEPS.find((one) => one * phase.each * width >= 36) ?? STEPS.at(-1);
      const found = [];
      for (let i = 0; i < phase.span; i += 1) {
        const epoch = phase.from + i;
        const edge = Math.min(i === 0 ? Infinity : i, phase.span - i) * phase.each * width;
        if (step === 1 || i === 0 || (epoch % step === 0 && edge >= 20)) found.push({ at: phase.at(i), epoch });
      }
      return found;
    });
  }

  // Behind the lines: the ground of each phase and the edge between two.
  wash(plot) {
    const { ctx, bbox } = plot, ratio = devicePixelRatio || 1;
    ctx.save();
    ctx.font = `${12 * ratio}px system-ui, sans-serif`;
    ctx.textBaseline = "bottom";
    ctx.textAlign = "left";
    this.phases.forEach((phase, i) => {
      const from = plot.valToPos(phase.start, "x", true);
      const to = i < this.phases.length - 1 ? plot.valToPos(this.phases[i + 1].start, "x", true) : bbox.left + bbox.width;
      ctx.fillStyle = colour(`${phase.kind}-soft`);
      ctx.fillRect(from, bbox.top, to - from, bbox.height);
      if (i) {
        ctx.strokeStyle = colour("axis");
        ctx.setLineDash([3 * ratio, 3 * ratio]);
        ctx.beginPath();
        ctx.moveTo(from, bbox.top);
        ctx.lineTo(from, bbox.top + bbox.height);
        ctx.stroke();
      }
      ctx.fillStyle = colour(`${phase.kind}-ink`);
      // as many words as have room; a narrow phase at the edge has its name to the left of its end
      const last = phase.from + phase.last - phase.first;
      const whole = `${KINDS[phase.kind]}, ${last > phase.from ? `epochs ${phase.from}–${last}` : `epoch ${last}`}`;
      const words = ctx.measureText(whole).width + 12 * ratio <= to - from ? whole : KINDS[phase.kind];
      const wide = ctx.measureText(words).width;
      const at = Math.min(from + 6 * ratio, bbox.left + bbox.width - wide);
      if (i === 0 || at >= from - wide) ctx.fillText(words, at, bbox.top - 3 * ratio);
    });
    ctx.restore();
  }

  // The epoch a phase keeps: that of its lowest validation loss, or its last.
  mark(plot) {
    const { ctx } = plot, ratio = devicePixelRatio || 1;
    ctx.save();
    for (const phase of this.phases) {
      const row = this.rows[phase.best];
      const value = row?.value("validation", this.name);
      if (value === null || value === undefined) continue;
      ctx.beginPath();
      ctx.arc(plot.valToPos(phase.at(phase.best - phase.first), "x", true), plot.valToPos(NAMES[this.name](value), "y", true), 4.5 * ratio, 0, 2 * Math.PI);
      ctx.fillStyle = colour("surface");
      ctx.fill();
      ctx.lineWidth = 2 * ratio;
      ctx.strokeStyle = colour(phase.kind);
      ctx.stroke();
    }
    ctx.restore();
  }

  say(index) {
    const row = this.rows[index];
    if (!row) return;
    const text = (split) => {
      const value = row.value(split, this.name);
      if (value === null) return "none";
      return this.name === "accuracy" ? `${(value * 100).toFixed(1)} %` : value.toFixed(3);
    };
    this.said.textContent = `Epoch ${row.epoch}: validation ${text("validation")}, train ${text("train")}`;
  }
}

function phasesOf(rows, keeps) {
  const phases = [];
  rows.forEach((row, i) => {
    let phase = phases.at(-1);
    if (phase?.index !== row.index) phases.push((phase = { index: row.index, kind: row.phase === "frozen" ? "frozen" : "fine_tune", first: i, last: i, from: row.epoch, best: -1, loss: Infinity }));
    phase.last = i;
    const loss = row.value("validation", "loss");
    if (keeps[row.index] === "last") phase.best = i;
    else if (loss !== null && loss < phase.loss) {
      phase.loss = loss;
      phase.best = i;
    }
  });
  return phases;
}

// Gives every phase its place along x and returns where the last one ends. The one at work has room for what it may still learn.
function layOut(phases, planned) {
  phases.forEach((phase, i) => {
    const known = phase.last - phase.first + 1;
    phase.span = Math.max(known, i === phases.length - 1 ? planned[phase.index] ?? 0 : 0);
  });
  const spans = phases.map((phase) => phase.span);
  const equal = Math.max(...spans) > LOPSIDED * Math.min(...spans);
  let start = 0;
  for (const phase of phases) {
    const each = phase.each = equal ? 1 / phase.span : 1, left = phase.start = start;
    phase.at = (i) => left + (i + 0.5) * each;
    start += phase.span * each;
  }
  return start;
}
