// The label desk by keys: a key presses the button that carries it (`data-key`). Every button works without this script.
export function start(desk) {
  if ("sharp" in desk.dataset) sharpen(desk.querySelector("[data-view]"));
  document.addEventListener("keydown", (event) => {
    if (!desk.isConnected || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("input, select, textarea") || document.querySelector("dialog[open]")) return;
    const wanted = desk.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
    if (!wanted) return;
    event.preventDefault();
    wanted.click();
  });
}

// The thumbnail stands there until the large picture has come; where it does not come, it stays. Without a prediction
// worker nobody asks for it (`data-sharp`).
async function sharpen(link) {
  const large = Object.assign(new Image(), { src: link.dataset.view });
  try {
    await large.decode();
  } catch {
    return;
  }
  const small = link.querySelector("img");
  large.alt = small.alt;
  for (const side of ["width", "height"]) large.setAttribute(side, small.getAttribute(side));
  small.replaceWith(large);
}
