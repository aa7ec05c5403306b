// The drop zone: choose or drop, see how far it is, pause, stop, try again; then on to the dataset's page.
import { fromInput, startDrop } from "./files.js";
import { forget, newest } from "./interrupted.js";
import { duration, size } from "./small.js";
import { Stopped, Upload } from "./upload.js";

export function start(form) {
  const part = (name) => form.querySelector(`[data-sending${name}]`);
  const earlierBox = form.querySelector("[data-earlier]");
  const controls = form.querySelectorAll(":scope > :not([data-sending], [data-earlier])");
  const sending = part("");
  let upload = null;
  let failed = false;

  const leave = (event) => event.preventDefault();

  function show(busy) {
    sending.hidden = !busy;
    for (const one of controls) one.hidden = busy;
    part("-again").hidden = true;
    part("-error").hidden = true;
    part("-pause").hidden = !busy;
    earlierBox.hidden = true;
    failed = false;
    if (busy) addEventListener("beforeunload", leave);
    else removeEventListener("beforeunload", leave);
    if (!busy) showEarlier();
  }

  // What this browser had begun and not ended.
  function showEarlier() {
    const earlier = newest(form.dataset.upload);
    earlierBox.hidden = !earlier;
    if (!earlier) return;
    const words = `“${earlier.name}” was interrupted at ${size(earlier.sent)} of ${size(earlier.total)}. Choose the same files again, and it goes on from there.`;
    earlierBox.querySelector("span").textContent = words;
    earlierBox.querySelector("button").onclick = () => {
      forget(earlier.key);
      showEarlier();
    };
  }

  function take(files) {
    if (upload) return;
    show(true);
    if (!files.length) return fail("Nothing was chosen: this folder holds no files.", false);
    upload = new Upload(files, form.dataset.upload, progress());
    go();
  }

  async function go() {
    show(true);
    try {
      const datasetId = await upload.run();
      removeEventListener("beforeunload", leave);
      location.assign(`/datasets/${datasetId}`);
    } catch (error) {
      if (!(error instanceof Stopped) && !upload?.stopped) fail(error.message, true);
    }
  }

  function fail(words, again) {
    removeEventListener("beforeunload", leave);
    failed = again;
    part("-words").textContent = "Not sent";
    part("-error").hidden = false;
    part("-error").querySelector("span").textContent = words;
    part("-again").hidden = !again;
    part("-pause").hidden = true;
  }

  // Speed over the last seconds, so that the time left does not jump.
  function progress() {
    let seen = [];
    return (now) => {
      const time = performance.now() / 1000;
      if (now.paused) seen = [];
      seen.push([time, now.sent]);
      while (seen.length > 2 && time - seen[0][0] > 5) seen.shift();
      const speed = (now.sent - seen[0][1]) / Math.max(0.25, time - seen[0][0]);
      const done = now.sent >= now.total;
      const count = now.files.length;
      sending.querySelector("progress").value = now.total ? now.sent / now.total : 1;
      part("-pause").textContent = now.paused ? "Go on" : "Pause";
      part("-words").textContent = done ? "Sent; the server is storing it" : now.paused ? "Paused" : `Sending ${count.toLocaleString("en")} ${count === 1 ? "file" : "files"}`;
      part("-rest").textContent = `${size(now.sent)} of ${size(now.total)}` + (speed > 0 && !done && !now.paused ? `, ${size(speed)}/s, ${duration((now.total - now.sent) / speed)} left` : "");
      showSources(now);
    };
  }

  // A bar for each archive, where there are several.
  function showSources(now) {
    const list = part("-files");
    list.hidden = !now.pieces;
    if (!now.pieces) return;
    while (list.children.length < now.sources.length) {
      const line = document.createElement("li");
      const bar = Object.assign(document.createElement("progress"), { className: "progress", max: 1 });
      const name = now.sources[list.children.length].name;
      bar.setAttribute("aria-label", name);
      line.append(Object.assign(document.createElement("span"), { textContent: name }), bar);
      list.append(line);
    }
    now.sources.forEach((one, index) => {
      list.children[index].querySelector("progress").value = one.bytes.size ? (one.sent ?? 0) / one.bytes.size : 1;
    });
  }

  for (const input of form.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      if (input.files.length || "folder" in input.dataset) take(fromInput(input));
    });
  }
  part("-pause").addEventListener("click", () => (upload.paused ? upload.resume() : upload.pause()));
  part("-stop").addEventListener("click", async () => {
    await upload?.stop();
    upload = null;
    part("-files").replaceChildren();
    show(false);
    form.reset();
  });
  part("-again").addEventListener("click", go);
  addEventListener("online", () => {
    if (failed) go();
    else upload?.nudge();
  });
  startDrop(form, take);
  showEarlier();
}

// A folder that misses the zone must not make the browser open it.
for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());
