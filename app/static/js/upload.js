// Sends files by tus, the protocol for uploads that go on after a break: an archive as it is, a folder as one virtual tar. What was
// begun is remembered in this browser, so that choosing the same files again goes on where it was.
import { Interrupted } from "./interrupted.js";
import { VirtualTar } from "./virtual-tar.js";

const API = "/api/v1";
const PIECE = 32 * 2 ** 20; // bytes of one request
const GONE = [404, 410];
const AT_ONCE = 3; // archives side by side
const DELAYS = [0, 1000, 2000, 4000, 8000, ...Array(20).fill(15000)]; // milliseconds; begins anew whenever something got through
const ARCHIVE = /\.(zip|tar|tar\.gz|tgz)$/i;
const AMONG_ARCHIVES = "unnamed.tar"; // files picked together with archives count as if they had been sent one by one

const TUS = { "Tus-Resumable": "1.0.0" };
const pathOf = (address) => new URL(address, location.href).pathname.slice(API.length);
const newKey = () => [...crypto.getRandomValues(new Uint32Array(4))].map((one) => one.toString(36)).join("-");

export class Stopped extends Error {}
class Gone extends Error {}

async function library() {
  await import("../vendor/tus.min.js");
  return globalThis.tus;
}

export function nameOf(files) {
  const first = files[0].path;
  if (first.includes("/")) return first.split("/")[0];
  return files.length === 1 && ARCHIVE.test(first) ? first.replace(ARCHIVE, "") : `Pictures, ${new Date().toLocaleDateString()}`;
}

// What is sent one by one: [{name, bytes}], `bytes` with size and slice.
export function sourcesOf(files) {
  const archives = files.filter((one) => ARCHIVE.test(one.path));
  const loose = files.filter((one) => !ARCHIVE.test(one.path));
  const sources = archives.map((one) => ({ name: one.path, bytes: one.file, files: [one] }));
  if (loose.length) sources.push({ name: archives.length ? AMONG_ARCHIVES : "folder.tar", bytes: new VirtualTar(loose), files: loose });
  return sources;
}

async function ask(method, address, body, headers = {}) {
  const kind = body ? { "Content-Type": "application/json" } : {};
  let answer;
  try {
    answer = await fetch(API + address, { method, body: body && JSON.stringify(body), headers: { ...kind, ...headers } });
  } catch {
    throw new Error("There is no connection to the server.");
  }
  const said = answer.status === 204 || method === "HEAD" ? null : await answer.json().catch(() => null);
  if (!answer.ok) {
    const Kind = GONE.includes(answer.status) ? Gone : Error;
    throw new Kind(said?.detail ?? `The server answered ${answer.status}.`);
  }
  return said;
}

function sentence(error) {
  if (error.causingError?.name === "NotReadableError") return error.causingError.message;
  try {
    return JSON.parse(error.originalResponse.getBody()).detail;
  } catch {
    const status = error.originalResponse?.getStatus();
    return status ? `The server answered ${status}.` : "There is no connection to the server.";
  }
}

function shouldRetry(error) {
  const status = error.originalResponse?.getStatus() ?? 0;
  return error.causingError?.name !== "NotReadableError" && (status < 400 || status >= 500 || [408, 409, 423, 429, 460].includes(status));
}

// Reads a source for tus. After a break every file of the piece is tried first: one that has changed on disk cannot be sent any more.
class Reader {
  constructor(source) {
    this.source = source;
    this.size = source.bytes.size;
  }

  async slice(start, end) {
    if (this.source.broke) {
      const files = this.source.bytes.between?.(start, end) ?? this.source.files;
      for (const one of files) {
        await one.file.slice(0, 1).arrayBuffer().catch(() => {
          throw new DOMException(`“${one.path}” has changed since it was chosen, or is gone. Choose the files again.`, "NotReadableError");
        });
      }
      this.source.broke = false;
    }
    return { value: this.source.bytes.slice(start, end), done: end >= this.size };
  }

  close() {}
}

// One upload: one dataset version. `progress` is called with it whenever something changes.
export class Upload {
  constructor(files, datasetId, progress) {
    this.files = files;
    this.name = nameOf(files);
    this.datasetId = datasetId;
    this.made = !datasetId;
    this.progress = progress;
    this.sources = sourcesOf(files);
    this.total = this.sources.reduce((sum, one) => sum + one.bytes.size, 0);
    this.interrupted = new Interrupted(datasetId, files);
    this.paused = false;
    this.stopped = false;
  }

  get sent() {
    return this.sources.reduce((sum, one) => sum + (one.sent ?? 0), 0);
  }

  get pieces() {
    return this.sources.length > 1;
  }

  // Resolves with the dataset's id once the server has everything; may be called again after a failure.
  async run() {
    this.tus ??= await library();
    if (!this.begun) await this.begin();
    const waiting = this.sources.filter((one) => !one.whole);
    const lane = async () => {
      for (let one = waiting.shift(); one; one = waiting.shift()) await this.send(one);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, lane));
    if (this.pieces) await ask("POST", `/uploads/${this.uploadId}/complete`);
    this.interrupted.forget();
    return this.datasetId;
  }

  // Goes on with what this browser remembers of these files, or begins anew.
  async begin() {
    const earlier = this.interrupted.read();
    if (earlier && (await this.isOpen(earlier))) {
      Object.assign(this, { datasetId: earlier.datasetId, made: earlier.made, uploadId: earlier.uploadId });
      for (const one of this.sources) Object.assign(one, earlier.sources[one.name]);
    } else {
      for (const one of this.sources) one.key = newKey();
      if (!this.datasetId) this.datasetId = (await ask("POST", "/datasets", { name: this.name })).id;
      if (this.pieces) this.uploadId = (await ask("POST", `/datasets/${this.datasetId}/uploads?complete=false`)).id;
    }
    this.begun = true;
    this.remember();
  }

  // Throws when the server cannot say: then what is there must not be begun anew.
  async isOpen(earlier) {
    try {
      await ask("GET", `/datasets/${earlier.datasetId}`);
      for (const { address } of Object.values(earlier.sources)) if (address) await ask("HEAD", pathOf(address), null, TUS);
      return !earlier.uploadId || (await ask("GET", `/uploads/${earlier.uploadId}`)).status === "receiving";
    } catch (error) {
      if (error instanceof Gone) return false;
      throw error;
    }
  }

  remember() {
    const sources = Object.fromEntries(this.sources.map(({ name, key, address }) => [name, { key, address }]));
    const { name, datasetId, made, uploadId, sent, total } = this;
    this.interrupted.write({ name, datasetId, made, uploadId, sources, sent, total });
  }

  send(source) {
    const metadata = { filename: source.name, dataset_id: this.datasetId };
    if (this.uploadId) metadata.upload_id = this.uploadId;
    return new Promise((done, failed) => {
      source.stop = () => failed(new Stopped());
      source.tus = new this.tus.Upload(source.bytes, {
        endpoint: `${API}/uploads/tus`,
        uploadUrl: source.address ?? null,
        uploadSize: source.bytes.size,
        chunkSize: PIECE,
        retryDelays: DELAYS,
        metadata,
        headers: { "Idempotency-Key": source.key }, // a beginning whose answer was lost is found again
        storeFingerprintForResuming: false,
        fileReader: { openFile: async () => new Reader(source) },
        fingerprint: async () => null,
        onShouldRetry: (error) => {
          source.broke = true;
          return shouldRetry(error);
        },
        onUploadUrlAvailable: () => {
          source.address = source.tus.url;
          this.remember();
        },
        onProgress: (sent) => {
          source.sent = sent;
          this.remember();
          this.progress(this);
        },
        onSuccess: () => {
          source.whole = true;
          source.tus = null;
          done();
        },
        onError: (error) => {
          source.tus = null;
          failed(new Error(sentence(error)));
        },
      });
      if (!this.paused) source.tus.start();
    });
  }

  get active() {
    return this.sources.filter((one) => one.tus);
  }

  async pause() {
    this.paused = true;
    await Promise.all(this.active.map((one) => one.tus.abort()));
    this.progress(this);
  }

  resume() {
    this.paused = false;
    for (const one of this.active) one.tus.start();
    this.progress(this);
  }

  // The network is back: no need to wait for the next try.
  async nudge() {
    if (this.paused) return;
    await this.pause();
    this.resume();
  }

  // Take away what is there already: the upload, and the dataset when this upload made it.
  async stop() {
    this.stopped = true;
    await this.pause();
    this.interrupted.forget();
    const away = (address, headers) => ask("DELETE", address, null, headers).catch(() => {});
    if (this.uploadId) await away(`/uploads/${this.uploadId}`);
    else for (const { address } of this.sources) if (address) await away(pathOf(address), TUS);
    if (this.made && this.datasetId) await away(`/datasets/${this.datasetId}`);
    for (const one of this.sources) one.stop?.();
  }
}
