// Threshold slider: reads the table the server rendered and writes one sentence; the table stays for those without it.
export function start(slider) {
  const rows = [...document.querySelectorAll("#threshold-table tbody tr")].map((row) => row.dataset);
  const says = document.querySelector("#threshold-says");
  const mark = document.querySelector("#threshold-mark"), dot = document.querySelector("#threshold-dot");
  slider.closest("[hidden]")?.removeAttribute("hidden");
  slider.addEventListener("input", () => {
    const row = rows[Number(slider.value)];
    slider.setAttribute("aria-valuetext", `answer at ${row.at} or more`);
    for (const name of ["at", "answered", "asked", "right", "precision", "interval"]) says.querySelector(`[data-${name}]`).textContent = row[name];
    mark.setAttribute("x1", row.x);
    mark.setAttribute("x2", row.x);
    dot.setAttribute("cx", row.x);
    dot.setAttribute("cy", row.y);
  });
}
