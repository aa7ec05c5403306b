// The drop zone: choose or drop, see how far it is, stop, try again; then on to the dataset's page.
import { fromInput, startDrop } from "./files.js";
import { duration, size } from "./small.js";
import { Stopped, Upload } from "./upload.js";

export function start(form) {
  const part = (name) => form.querySelector(`[data-sending${name}]`);
  const controls = form.querySelectorAll(":scope > :not([data-sending])");
  const sending = part("");
  let upload = null;

  const leave = (event) => event.preventDefault();

  function show(busy) {
    sending.hidden = !busy;
    for (const one of controls) one.hidden = busy;
    part("-again").hidden = true;
    part("-error").hidden = true;
    if (busy) addEventListener("beforeunload", leave);
    else removeEventListener("beforeunload", leave);
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
      if (!(error instanceof Stopped)) fail(error.message, true);
    }
  }

  function fail(sentence, again) {
    removeEventListener("beforeunload", leave);
    part("-words").textContent = "Not sent";
    part("-error").hidden = false;
    part("-error").querySelector("span").textContent = sentence;
    part("-again").hidden = !again;
  }

  // Speed over the last seconds, so that the time left does not jump.
  function progress() {
    const seen = [];
    return (now) => {
      const time = performance.now() / 1000;
      seen.push([time, now.sent]);
      while (seen.length > 2 && time - seen[0][0] > 5) seen.shift();
      const speed = (now.sent - seen[0][1]) / Math.max(0.25, time - seen[0][0]);
      const done = now.sent >= now.total;
      sending.querySelector("progress").value = now.total ? now.sent / now.total : 1;
      part("-words").textContent = done ? "Sent; the server is storing it" : `Sending ${now.files.length.toLocaleString("en")} ${now.files.length === 1 ? "file" : "files"}`;
      part("-rest").textContent = `${size(now.sent)} of ${size(now.total)}` + (speed > 0 && !done ? `, ${size(speed)}/s, ${duration((now.total - now.sent) / speed)} left` : "");
    };
  }

  for (const input of form.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      if (input.files.length || "folder" in input.dataset) take(fromInput(input));
    });
  }
  part("-stop").addEventListener("click", async () => {
    await upload?.stop();
    upload = null;
    show(false);
    form.reset();
  });
  part("-again").addEventListener("click", () => {
    upload.abort = new AbortController();
    go();
  });
  startDrop(form, take);
}

// A folder that misses the zone must not make the browser open it.
for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());
