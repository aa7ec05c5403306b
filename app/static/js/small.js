// Small helps that need no module of their own.

// Times: the server writes them relative and in UTC; here the local time is added, or shown where a clock is wanted.
export function startTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const when = new Date(time.dateTime);
    if ("clock" in time.dataset) time.textContent = when.toLocaleTimeString([], { hour12: false });
    time.title = when.toLocaleString();
  }
}

export function startCopy(root) {
  if (!navigator.clipboard) return;
  for (const button of root.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.dataset.copy);
      toast("Copied.");
    });
  }
}

export function startAutosubmit(root) {
  for (const form of root.querySelectorAll("[data-autosubmit]")) form.addEventListener("change", () => form.requestSubmit());
}

export function toast(sentence) {
  const box = document.createElement("div");
  box.className = "toast toast--good";
  box.append(icon("check"), Object.assign(document.createElement("span"), { textContent: sentence }));
  document.querySelector("#toasts").append(box);
  setTimeout(() => box.remove(), 4000);
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `/static/icons.svg#${name}`);
  svg.append(use);
  return svg;
}

// 75 -> 1:15
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

// 13_900_000 -> 13.9 MB
export function size(bytes) {
  let value = bytes;
  for (const unit of ["bytes", "kB", "MB", "GB"]) {
    if (value < 999.5 || unit === "GB") return `${value >= 100 || unit === "bytes" ? Math.round(value) : value.toFixed(1)} ${unit}`;
    value /= 1000;
  }
}
