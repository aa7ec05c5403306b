// Sends files to the REST API: an archive as one body; many files in batches, two at a time, each tried again when the connection breaks.
const BATCH_FILES = 100;
const BATCH_BYTES = 32e6;
const AT_ONCE = 2;
const TRIES = 7;
const RAW = [[/\.zip$/i, "application/zip"], [/\.tar$/i, "application/x-tar"], [/\.(tar\.gz|tgz)$/i, "application/gzip"]];

export class Refused extends Error {}
export class Stopped extends Error {}

export function rawType(files) {
  return files.length === 1 ? RAW.find(([ending]) => ending.test(files[0].path))?.[1] : undefined;
}

export function nameOf(files) {
  const first = files[0].path;
  if (first.includes("/")) return first.split("/")[0];
  return rawType(files) ? first.replace(/\.[^.]+(\.gz)?$/, "") : `Pictures, ${new Date().toLocaleDateString()}`;
}

export function batches(files) {
  const found = [];
  let now = [], bytes = 0;
  for (const one of files) {
    if (now.length && (now.length >= BATCH_FILES || bytes + one.file.size > BATCH_BYTES)) {
      found.push(now);
      now = [];
      bytes = 0;
    }
    now.push(one);
    bytes += one.file.size;
  }
  if (now.length) found.push(now);
  return found;
}

// One request with progress. Rejects with Refused (a sentence of the server), Stopped, or an Error worth another try.
function send(method, address, body, type, sending) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    const stop = () => request.abort();
    request.open(method, address);
    if (type) request.setRequestHeader("Content-Type", type);
    request.upload.addEventListener("progress", (event) => sending.progress?.(event.loaded));
    request.addEventListener("loadend", () => {
      sending.signal.removeEventListener("abort", stop);
      let answer = null;
      try { answer = JSON.parse(request.responseText); } catch { /* not JSON: only its status counts */ }
      if (sending.signal.aborted) failed(new Stopped());
      else if (request.status >= 200 && request.status < 300) done(answer);
      else if (request.status >= 400 && ![408, 429, 500, 502, 503, 504].includes(request.status)) failed(new Refused(answer?.detail ?? `The server answered ${request.status}.`));
      else failed(new Error(answer?.detail ?? "There is no connection to the server."));
    });
    sending.signal.addEventListener("abort", stop);
    request.send(body);
  });
}

async function patiently(call, signal) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call();
    } catch (error) {
      if (error instanceof Refused || error instanceof Stopped || attempt >= TRIES) throw error;
      await new Promise((done) => setTimeout(done, Math.min(16000, 500 * 2 ** attempt)));
      if (signal.aborted) throw new Stopped();
    }
  }
}

// One upload of many files, which can be gone on with after a failure.
export class Upload {
  constructor(files, datasetId, progress) {
    this.files = files;
    this.datasetId = datasetId;
    this.made = !datasetId;
    this.progress = progress;
    this.total = files.reduce((sum, one) => sum + one.file.size, 0);
    this.waiting = rawType(files) ? null : batches(files);
    this.loaded = new Map();
    this.finished = 0;
    this.abort = new AbortController();
  }

  get sent() {
    return Math.min(this.total, this.finished + [...this.loaded.values()].reduce((sum, one) => sum + one, 0));
  }

  ask(method, address, body, type, progress) {
    return send(method, address, body, type, { signal: this.abort.signal, progress });
  }

  // Resolves with the dataset's id once the server has everything.
  async run() {
    const signal = this.abort.signal;
    if (!this.datasetId) {
      const body = JSON.stringify({ name: nameOf(this.files) });
      this.datasetId = (await patiently(() => this.ask("POST", "/api/v1/datasets", body, "application/json"), signal)).id;
    }
    if (!this.waiting) await this.sendArchive();
    else await this.sendBatches();
    return this.datasetId;
  }

  async sendArchive() {
    const [{ file, path }] = this.files;
    const address = `/api/v1/datasets/${this.datasetId}/uploads?filename=${encodeURIComponent(path)}`;
    await this.ask("POST", address, file, rawType(this.files), (bytes) => { this.loaded.set(0, bytes); this.progress(this); });
  }

  async sendBatches() {
    const signal = this.abort.signal;
    if (!this.uploadId) {
      const address = `/api/v1/datasets/${this.datasetId}/uploads?complete=false`;
      this.uploadId = (await patiently(() => this.ask("POST", address, null), signal)).id;
    }
    await Promise.all(Array.from({ length: AT_ONCE }, () => this.sendSome()));
    await patiently(() => this.ask("POST", `/api/v1/uploads/${this.uploadId}/complete`, null), signal);
  }

  async sendSome() {
    for (;;) {
      const batch = this.waiting.shift();
      if (!batch) return;
      try {
        await patiently(() => this.sendBatch(batch), this.abort.signal);
      } catch (error) {
        this.waiting.unshift(batch);
        throw error;
      } finally {
        this.loaded.delete(batch);
      }
      this.finished += batch.reduce((sum, one) => sum + one.file.size, 0);
      this.progress(this);
    }
  }

  sendBatch(batch) {
    const form = new FormData();
    for (const one of batch) form.append("files", one.file, one.path);
    const bytes = batch.reduce((sum, one) => sum + one.file.size, 0);
    return this.ask("POST", `/api/v1/uploads/${this.uploadId}/files`, form, null, (loaded) => {
      this.loaded.set(batch, Math.min(loaded, bytes));
      this.progress(this);
    });
  }

  // Take away what is there already: the upload, and the dataset when this upload made it.
  async stop() {
    this.abort.abort();
    const address = this.made && this.datasetId ? `/api/v1/datasets/${this.datasetId}` : this.uploadId ? `/api/v1/uploads/${this.uploadId}` : null;
    if (address) await fetch(address, { method: "DELETE" }).catch(() => {});
  }
}
