// A folder as one tar archive that is never made: its length is computed beforehand, its bytes slice by slice when they are asked for.
// In memory are names and sizes; what is sent is a Blob of references to the files on disk.
const BLOCK = 512;
const END = 2 * BLOCK;
const LONGEST_NAME = 100; // bytes that the plain header holds; longer or not ASCII: a pax header before it
const LARGEST_SIZE = 8 ** 11; // likewise
const encoder = new TextEncoder();

const padded = (size) => Math.ceil(size / BLOCK) * BLOCK;
const isPlain = (path) => path.length <= LONGEST_NAME && /^[\x20-\x7e]*$/.test(path);

function header(name, size, seconds, kind) {
  const block = new Uint8Array(BLOCK);
  const put = (at, text) => block.set(encoder.encode(text), at);
  const octal = (value, digits) => `${Math.max(0, value).toString(8).padStart(digits, "0")}\0`;
  put(0, name);
  put(100, octal(0o644, 7));
  put(108, octal(0, 7));
  put(116, octal(0, 7));
  put(124, octal(size < LARGEST_SIZE ? size : 0, 11));
  put(136, octal(seconds, 11));
  put(148, "        ");
  put(156, kind);
  put(257, "ustar\u000000");
  put(148, `${block.reduce((sum, one) => sum + one, 0).toString(8).padStart(6, "0")}\0 `);
  return block;
}

// "30 path=…\n": the number counts the whole record in bytes, itself included.
function record(key, value) {
  const rest = encoder.encode(` ${key}=${value}\n`).length;
  let length = rest + 1;
  while (String(length).length + rest !== length) length = rest + String(length).length;
  return `${length} ${key}=${value}\n`;
}

function extension({ path, file }) {
  const records = [];
  if (!isPlain(path)) records.push(record("path", path));
  if (file.size >= LARGEST_SIZE) records.push(record("size", file.size));
  return records.length ? encoder.encode(records.join("")) : null;
}

// What stands before the bytes of a file.
function head(one) {
  const seconds = Math.floor(one.file.lastModified / 1000);
  const more = extension(one);
  const name = more ? "" : one.path;
  const own = header(name, one.file.size, seconds, "0");
  if (!more) return own;
  const whole = new Uint8Array(2 * BLOCK + padded(more.length));
  whole.set(header("pax", more.length, seconds, "x"));
  whole.set(more, BLOCK);
  whole.set(own, whole.length - BLOCK);
  return whole;
}

function headSize(one) {
  const more = extension(one);
  return more ? 2 * BLOCK + padded(more.length) : BLOCK;
}

export class VirtualTar {
  // files: [{file, path}]; they are taken in the order of their paths, so that the same folder is the same bytes every time
  constructor(files) {
    this.files = [...files].sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
    this.starts = new Float64Array(this.files.length + 1);
    this.files.forEach((one, index) => {
      this.starts[index + 1] = this.starts[index] + headSize(one) + padded(one.file.size);
    });
    this.size = this.starts[this.files.length] + END;
  }

  // The bytes from start to end (exclusive) as a Blob.
  slice(start, end) {
    const parts = [];
    const add = (at, length, take) => {
      const from = Math.max(start, at), to = Math.min(end, at + length);
      if (from < to) parts.push(take(from - at, to - at));
    };
    const zeros = (from, to) => new Uint8Array(to - from);
    for (let index = this.at(start); index < this.files.length && this.starts[index] < end; index += 1) {
      const one = this.files[index];
      const top = head(one), body = this.starts[index] + top.length, tail = body + one.file.size;
      add(this.starts[index], top.length, (from, to) => top.subarray(from, to));
      add(body, one.file.size, (from, to) => one.file.slice(from, to));
      add(tail, this.starts[index + 1] - tail, zeros);
    }
    add(this.size - END, END, zeros);
    return new Blob(parts);
  }

  // The files whose bytes are between start and end.
  between(start, end) {
    const first = this.at(start);
    let last = first;
    while (last < this.files.length && this.starts[last] < end) last += 1;
    return this.files.slice(first, last);
  }

  // Index of the file in whose part this byte is.
  at(byte) {
    let low = 0, high = this.files.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.starts[middle + 1] <= byte) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
