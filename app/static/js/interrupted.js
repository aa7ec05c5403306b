// Uploads that were begun and not ended, remembered in this browser by the names, sizes and times of their files.
const PREFIX = "thaw-upload:";
const DAYS = 7;
const WRITE_EVERY = 1000; // milliseconds

// 53 bits of a text (cyrb53, public domain): enough to tell one person's folders apart; crypto.subtle is missing without HTTPS.
function hash(text, seed) {
  let a = 0xdeadbeef ^ seed, b = 0x41c6ce57 ^ seed;
  for (let index = 0; index < text.length; index += 1) {
    const code = text.charCodeAt(index);
    a = Math.imul(a ^ code, 2654435761);
    b = Math.imul(b ^ code, 1597334677);
  }
  a = Math.imul(a ^ (a >>> 16), 2246822507) ^ Math.imul(b ^ (b >>> 13), 3266489909);
  b = Math.imul(b ^ (b >>> 16), 2246822507) ^ Math.imul(a ^ (a >>> 13), 3266489909);
  return (2 ** 32 * (2 ** 21 - 1 & b) + (a >>> 0)).toString(36);
}

export function fingerprint(files) {
  const lines = files.map((one) => `${one.path}\n${one.file.size}\n${one.file.lastModified}`).sort();
  const text = lines.join("\n");
  return `${files.length}-${hash(text, 1)}${hash(text, 2)}`;
}

export class Interrupted {
  constructor(datasetId, files) {
    this.key = `${PREFIX}${datasetId || "new"}:${fingerprint(files)}`;
    this.written = 0;
    this.shape = "";
  }

  read() {
    try {
      return JSON.parse(localStorage.getItem(this.key));
    } catch {
      return null;
    }
  }

  // How far it is may be a second old; what it is never.
  write(what) {
    const shape = JSON.stringify({ ...what, sent: 0 });
    if (shape === this.shape && performance.now() - this.written < WRITE_EVERY) return;
    this.shape = shape;
    this.written = performance.now();
    try {
      localStorage.setItem(this.key, JSON.stringify({ ...what, at: Date.now() }));
    } catch { /* no room, or not allowed: then a reload begins anew */ }
  }

  forget() {
    forget(this.key);
  }
}

export function forget(key) {
  try {
    localStorage.removeItem(key);
  } catch { /* not allowed: nothing was kept either */ }
}

// The newest one for this dataset ("" for a new one), or null; old ones are forgotten.
export function newest(datasetId) {
  const mine = `${PREFIX}${datasetId || "new"}:`;
  let found = null;
  try {
    for (const key of Object.keys(localStorage).filter((one) => one.startsWith(PREFIX))) {
      const what = JSON.parse(localStorage.getItem(key));
      if (Date.now() - what.at > DAYS * 864e5) forget(key);
      else if (key.startsWith(mine) && (!found || what.at > found.at)) found = { ...what, key };
    }
  } catch { /* not allowed */ }
  return found;
}
