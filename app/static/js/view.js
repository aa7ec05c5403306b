// A picture, large, in a dialog: links with data-view open here, and the other links of the same [data-views] are its neighbours. Until
// the large picture has come (the prediction worker makes it) its thumbnail stands there. Without this script the link downloads the original.
import { icon } from "./small.js";

const PAUSE = 150; // ms on a picture before it is asked for: who runs through a list asks for nothing on the way
const PATIENCE = 400; // ms before a word about waiting

export function start(dialog) {
  if (!dialog) return;
  const part = (name) => dialog.querySelector(`[data-view-${name}]`);
  const stage = part("stage"), says = part("says"), again = part("again");
  let links = [], at = 0, opener = null, leave = () => {};

  // The thumbnail at once, the large picture in its place when it is there.
  function show(index, pause) {
    leave();
    at = index;
    const link = links[at], small = link.querySelector("img");
    part("caption").textContent = link.dataset.caption;
    part("file").textContent = link.dataset.file ?? "";
    part("place").textContent = `${at + 1} of ${links.length}`;
    part("back").setAttribute("aria-disabled", String(at === 0));
    part("on").setAttribute("aria-disabled", String(at === links.length - 1));
    part("original").href = link.href;
    const shown = picture(small.src, small.alt);
    shown.addEventListener("error", () => shown.remove()); // it has no thumbnail
    stage.replaceChildren(shown);
    ask(link.dataset.view, small.alt, pause);
  }

  function ask(address, alt, pause) {
    const stopping = new AbortController();
    let kept = "";
    const wait = setTimeout(() => fetched(address, stopping.signal).then(put, fail), pause);
    const word = setTimeout(() => say("Loading the large picture …", "busy"), pause + PATIENCE);
    stage.setAttribute("aria-busy", "true");
    say("");
    leave = () => {
      clearTimeout(wait);
      stopping.abort();
      done();
      URL.revokeObjectURL(kept);
    };

    async function put(bytes) {
      kept = URL.createObjectURL(bytes);
      const large = picture(kept, alt);
      await large.decode().catch(() => {});
      if (stopping.signal.aborted) return URL.revokeObjectURL(kept);
      done();
      say("");
      stage.replaceChildren(large);
    }

    function fail(error) {
      if (stopping.signal.aborted) return;
      done();
      const sentence = error instanceof TypeError ? "Thaw cannot be reached now." : error.message;
      say(stage.firstChild ? `${sentence} This is the small picture.` : sentence, "error");
    }

    function done() {
      clearTimeout(word);
      stage.removeAttribute("aria-busy");
    }
  }

  function say(sentence, kind = "") {
    says.replaceChildren(...(kind === "error" ? [icon("alert")] : []), ...(sentence ? [sentence] : []));
    says.dataset.kind = kind;
    again.hidden = kind !== "error";
  }

  function move(index) {
    if (index >= 0 && index < links.length && index !== at) show(index, PAUSE);
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-view]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.button) return;
    event.preventDefault();
    const list = link.closest("[data-views]");
    links = list ? [...list.querySelectorAll("a[data-view]")].filter((one) => one.closest("[data-views]") === list) : [link];
    opener = link;
    part("steps").hidden = links.length === 1;
    show(links.indexOf(link), 0);
    dialog.showModal();
  });

  // on the document: also what is pressed while nothing in the dialog has the focus
  document.addEventListener("keydown", (event) => {
    if (!dialog.open || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: links.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    move(next);
  });
  part("back").addEventListener("click", () => move(at - 1));
  part("on").addEventListener("click", () => move(at + 1));
  part("close").addEventListener("click", () => dialog.close());
  again.addEventListener("click", () => {
    part("close").focus(); // the button goes away
    show(at, 0);
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); }); // beside it
  dialog.addEventListener("close", () => {
    leave();
    stage.replaceChildren();
    // the part of the page may have been brought up to date meanwhile
    const fresh = opener.isConnected ? opener : document.querySelector(`a[data-view="${CSS.escape(opener.dataset.view)}"]`);
    fresh?.focus();
  });
}

function picture(address, alt) {
  const made = new Image();
  made.alt = alt;
  made.src = address;
  return made;
}

// The bytes of the large picture; what is wrong otherwise is the sentence of the problem.
async function fetched(address, signal) {
  const answer = await fetch(address, { signal });
  if (answer.ok) return answer.blob();
  const problem = await answer.json().catch(() => ({}));
  throw new Error(problem.detail ?? "The large picture cannot be shown now.");
}
