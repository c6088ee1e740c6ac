// The service, as the page calls it: requests with the key, errors as what the service said.

const KEY = "framepack.key";
const SECONDS_TO_ANSWER = 30;

/** An answer that is a problem document (RFC 9457), or looks like none but is an error. */
export class Problem extends Error {
  constructor(status, document, retryAfter) {
    super(document.detail || document.title || `The service answered ${status}.`);
    this.status = status;
    this.code = document.code || `http_${status}`;
    this.title = document.title || "The service refused";
    this.errors = document.errors || [];
    this.retryable = Boolean(document.retryable) || status === 429 || status >= 500;
    this.requestId = document.request_id;
    this.retryAfter = retryAfter;
  }
}

/** No answer at all: the service or the network is away. */
export class Unreachable extends Error {
  constructor() {
    super("The service cannot be reached.");
  }
}

/** What a store holds under the key's name; a browser that forbids stores holds nothing. */
function stored(name) {
  try {
    return window[name].getItem(KEY) || "";
  } catch {
    return "";
  }
}

let held = "";

export const access = {
  get key() {
    return held || stored("sessionStorage") || stored("localStorage");
  },
  get remembered() {
    return Boolean(stored("localStorage"));
  },
  use(key, remember) {
    this.forget();
    held = key;
    try {
      window[remember ? "localStorage" : "sessionStorage"].setItem(KEY, key);
    } catch {
      // Then the key lasts as long as the page.
    }
  },
  forget() {
    held = "";
    for (const name of ["sessionStorage", "localStorage"]) if (stored(name)) window[name].removeItem(KEY);
  },
};

/** Told when the service wants a key: `onKeyWanted(wasRefused)`. */
export const listeners = { onKeyWanted: () => {} };

/**
 * One request; the answer, if it is no error. A stream may take as long as it likes; what nobody
 * asked for (`background`) asks nobody for a key.
 */
export async function request(path, { streams = false, background = false, signal, headers = {}, ...options } = {}) {
  const key = access.key;
  const limit = new AbortController();
  const timer = streams ? 0 : setTimeout(() => limit.abort(), SECONDS_TO_ANSWER * 1000);
  const signals = [limit.signal, ...(signal ? [signal] : [])];
  let response;
  try {
    response = await fetch(path, {
      ...options,
      headers: { ...headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) },
      credentials: "omit",
      signal: AbortSignal.any(signals),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable();
  } finally {
    clearTimeout(timer);
  }
  if (response.ok || response.status === 304) return response;
  if (response.status === 401 && !background) listeners.onKeyWanted(Boolean(key));
  throw await problem(response);
}

export async function json(path, options) {
  return (await request(path, options)).json();
}

async function problem(response) {
  let document = {};
  try {
    document = await response.json();
  } catch {
    // A proxy in between answers in its own words, which are of no use here.
  }
  const after = Number(response.headers.get("Retry-After"));
  return new Problem(response.status, document, Number.isFinite(after) && after > 0 ? after : null);
}

export const jobPath = (id, action = "") => `jobs/${id}${action ? `/${action}` : ""}`;

export const readOptions = () => json("options");
export const readJob = (id, signal) => json(jobPath(id), { signal, background: true });
export const readJobs = (limit) => json(`jobs?limit=${limit}`, { background: true });
export const act = (id, action) => json(jobPath(id, action), { method: "POST" });
export const videoLink = (id) => json(jobPath(id, "video"), { headers: { Accept: "application/json" } });

/** Submit a job; the same key for the same attempt, so that a lost answer makes no second video. */
export function submit(fields, picture, idempotencyKey) {
  const body = new FormData();
  body.append("request", JSON.stringify(fields));
  if (picture) body.append("image", picture, picture.name || "picture");
  return json("jobs", { method: "POST", body, headers: { "Idempotency-Key": idempotencyKey } });
}
