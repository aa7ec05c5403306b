// Try a model: choose, drop or paste pictures; the server answers with the same partial that the page has.
import { fromInput, startDrop } from "./files.js";
import { offer } from "./look.js";

export function start(form) {
  const most = Number(form.dataset.predict);
  const answers = document.querySelector("#answers");

  async function look(files) {
    for (let first = 0; first < files.length; first += most) await ask(files.slice(first, first + most));
  }

  async function ask(files) {
    answers.querySelector("[data-no-answers]")?.remove();
    const waiting = files.map(({ file, path }) => placeholder(file, path));
    answers.prepend(...waiting.map((one) => one.box));
    const body = new FormData();
    for (const { file, path } of files) body.append("images", file, path);
    try {
      const answer = await fetch(form.action, { method: "POST", body, headers: { "Thaw-Partial": "1" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const found = [...page.querySelectorAll("[data-answer]")];
      const sentence = page.querySelector(".lead")?.textContent ?? `The server answered ${answer.status}.`;
      waiting.forEach((one, i) => (found[i] ? one.show(document.adoptNode(found[i]), form.dataset.lookAddress) : one.fail(sentence)));
    } catch {
      for (const one of waiting) one.fail("There is no connection to the server. Try again in a moment.");
    }
  }

  for (const input of form.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => { look(fromInput(input)); form.reset(); });
  }
  startDrop(form, look);
  document.addEventListener("paste", (event) => {
    if (!form.isConnected || !event.clipboardData?.files.length) return;
    look([...event.clipboardData.files].map((file) => ({ file, path: file.name || "pasted.png" })));
  });
}

function placeholder(file, path) {
  const box = document.createElement("article");
  box.className = "answer";
  box.setAttribute("aria-busy", "true");
  const picture = document.createElement("img");
  picture.className = "pic";
  picture.alt = `Your picture ${path}`;
  picture.src = URL.createObjectURL(file);
  picture.addEventListener("load", () => URL.revokeObjectURL(picture.src));
  picture.addEventListener("error", () => picture.replaceWith(Object.assign(document.createElement("div"), { className: "pic" })));
  const rest = document.createElement("div");
  rest.className = "stack stack--tight";
  for (const kind of ["skeleton--third", "", "skeleton--half"]) rest.append(Object.assign(document.createElement("div"), { className: `skeleton ${kind}` }));
  box.append(picture, rest);
  return {
    box,
    show(answer, address) {
      offer(answer, address, file, path);
      const shown = box.querySelector(".pic");
      answer.querySelector("[data-answer-pic]").replaceWith(shown);
      box.replaceWith(answer);
    },
    fail(sentence) {
      box.removeAttribute("aria-busy");
      const error = Object.assign(document.createElement("p"), { className: "error", textContent: sentence });
      rest.replaceChildren(Object.assign(document.createElement("h3"), { textContent: path }), error);
    },
  };
}
