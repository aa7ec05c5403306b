// "Where it looked": a link's page shows its figure here, in place of the link. Without this script the link opens the page.
import { fetchPage } from "./swap.js";

export function start(link) {
  link.addEventListener("click", async (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    if (link.getAttribute("aria-busy")) return;
    link.setAttribute("aria-busy", "true");
    try {
      const figure = (await fetchPage(link.href)).querySelector("[data-look-figure]");
      if (!figure) throw new Error("gone");
      show(link, figure);
    } catch {
      location.assign(link.href);
    }
  });
}

export function show(where, figure) {
  const shown = document.adoptNode(figure);
  shown.tabIndex = -1;
  where.replaceWith(shown);
  shown.focus({ preventScroll: true });
}

// The button of an answer on the model page: the picture is sent once more, since it is not kept.
export function offer(answer, address, file, path) {
  const button = answer.querySelector("[data-look-again]");
  if (!button) return;
  button.hidden = false;
  button.addEventListener("click", async () => {
    button.disabled = true;
    const body = new FormData();
    body.append("images", file, path);
    try {
      const found = await fetch(address, { method: "POST", body });
      const page = new DOMParser().parseFromString(await found.text(), "text/html");
      const figure = page.querySelector("[data-look-figure]");
      if (!figure) throw new Error(page.querySelector(".lead")?.textContent ?? "");
      show(button, figure);
    } catch {
      button.disabled = false;
      button.textContent = "Try again to see where it looked";
    }
  });
}
