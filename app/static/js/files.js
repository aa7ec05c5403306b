// Files from a picker or a drop, each with its path relative to what was chosen: [{file, path}].
export function fromInput(input) {
  return [...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
}

// Entries must be taken from the event before the first await: afterwards the browser has emptied it.
export async function fromDrop(transfer) {
  const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const found = [];
  for (const entry of entries.filter(Boolean)) {
    if (entry instanceof File) found.push({ file: entry, path: entry.name });
    else await walk(entry, "", found);
  }
  return found;
}

async function walk(entry, above, found) {
  const path = above + entry.name;
  if (entry.isFile) {
    found.push({ file: await new Promise((done, failed) => entry.file(done, failed)), path });
    return;
  }
  const reader = entry.createReader();
  // a reader gives at most 100 entries at a time and an empty list at the end
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return;
    for (const one of some) await walk(one, `${path}/`, found);
  }
}

// A box into which files may be dropped or pasted.
export function startDrop(box, take) {
  let depth = 0;
  const over = (by) => {
    depth = Math.max(0, depth + by);
    box.classList.toggle("drop--over", depth > 0);
  };
  box.addEventListener("dragenter", (event) => { event.preventDefault(); over(1); });
  box.addEventListener("dragleave", () => over(-1));
  box.addEventListener("dragover", (event) => event.preventDefault());
  box.addEventListener("drop", async (event) => {
    event.preventDefault();
    over(-depth);
    take(await fromDrop(event.dataTransfer));
  });
}
