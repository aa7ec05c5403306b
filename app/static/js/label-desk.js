// The label desk by keys: a key presses the button that carries it (`data-key`). Every button works without this script.
export function start(desk) {
  document.addEventListener("keydown", (event) => {
    if (!desk.isConnected || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("input, select, textarea") || document.querySelector("dialog[open]")) return;
    const wanted = desk.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
    if (!wanted) return;
    event.preventDefault();
    wanted.click();
  });
}
