// Parts of a page from a newer copy of the same page: the server renders everything, once.
const listeners = [];
const place = () => location.pathname + location.search;
let shown = place();

export function onSwap(call) {
  listeners.push(call);
}

export async function fetchPage(address, wish = {}) {
  const answer = await fetch(address, { ...wish, headers: { Accept: "text/html" } });
  if (!answer.ok) throw new Error(`${answer.status}`);
  if (answer.redirected && new URL(answer.url).pathname === "/login") location.reload();
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

function put(old, fresh) {
  const imported = document.adoptNode(fresh);
  old.replaceWith(imported);
  for (const call of listeners) call({ querySelectorAll: (what) => [...(imported.matches(what) ? [imported] : []), ...imported.querySelectorAll(what)] });
  return imported;
}

// Replace the element with this id by the one of the page at `address`; false when that page has none.
export async function swap(id, address) {
  const page = await fetchPage(address);
  const fresh = page.getElementById(id), old = document.getElementById(id);
  if (!fresh || !old) return false;
  put(old, fresh);
  return true;
}

// The whole content anew, without losing the place on the page.
export async function swapMain() {
  const page = await fetchPage(location.href);
  const fresh = page.querySelector("main"), old = document.querySelector("main");
  if (!fresh || !old) return location.reload();
  document.title = page.title;
  put(old, fresh);
}

// Links and GET forms with data-swap="id" change that part of the page only.
export function startSwaps() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-swap]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    follow(link.dataset.swap, link.href);
  });
  document.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-swap]");
    if (!form) return;
    event.preventDefault();
    const address = new URL(form.action);
    address.search = new URLSearchParams(new FormData(form)).toString();
    follow(form.dataset.swap, address.href);
  });
  // a jump within the page (#…) is a popstate too, and must stay one
  addEventListener("popstate", () => { if (place() !== shown) location.reload(); });
}

async function follow(id, address) {
  const old = document.getElementById(id);
  old?.setAttribute("aria-busy", "true");
  try {
    if (!(await swap(id, address))) throw new Error("gone");
    history.pushState(null, "", address);
    shown = place();
    const fresh = document.getElementById(id);
    const heading = fresh.querySelector("h2, h3");
    if (heading) {
      heading.tabIndex = -1;
      heading.focus({ preventScroll: true });
    }
    const box = fresh.getBoundingClientRect();
    if (box.top < 0 || box.top > innerHeight * 0.7) fresh.scrollIntoView({ block: "start" });
  } catch {
    location.assign(address);
  }
}

// data-refresh="3000": this part again every 3 s, until the fresh one does not ask for it; then the page is brought up to date.
// data-poll="/address": the same from an address that answers with this part alone; data-then="/address" in it: where it goes on.
export function startRefresh(root) {
  for (const part of root.querySelectorAll("[data-refresh]")) again(part, Number(part.dataset.refresh), location.href);
  for (const part of root.querySelectorAll("[data-poll]")) again(part, 1000, part.dataset.poll);
}

function again(part, wait, address) {
  setTimeout(async () => {
    if (!part.isConnected) return;
    const inside = part.contains(document.activeElement) && document.activeElement !== part;
    if (document.hidden || inside) return again(part, wait, address);
    try {
      const page = await fetchPage(address);
      const fresh = page.getElementById(part.id);
      if (!part.isConnected) return;
      if (fresh?.dataset.then) return location.assign(fresh.dataset.then);
      if (!fresh || !("refresh" in fresh.dataset || "poll" in fresh.dataset)) return swapMain();
      put(part, fresh);
    } catch {
      again(part, Math.min(wait * 2, 15000), address); // the server is away: ask more and more seldom
    }
  }, wait);
}
