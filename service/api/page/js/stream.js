// Server-sent events over fetch. EventSource cannot send the key in a header; this can, and it says
// when the connection is lost. Ids are kept, so a reconnection continues where the last one broke.

import { Problem, request } from "./api.js";

const FIRST_PAUSE = 1000;
const LONGEST_PAUSE = 15000;
const SILENCE = 45000; // Three heartbeats: a connection that is only half there is given up.

/** The messages of an event stream: `{type, id, data}`, as its bytes arrive. */
export async function* messages(bytes) {
  const reader = bytes.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let fields = {};
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (fields.data !== undefined) yield { type: fields.event || "message", ...fields };
        fields = {};
      } else if (!line.startsWith(":")) {
        const [, name, text] = line.match(/^([^:]*):? ?(.*)$/s);
        fields[name] = name === "data" && "data" in fields ? `${fields.data}\n${text}` : text;
      }
    }
  }
}

/**
 * Follow a job's events until its end or until `signal` aborts.
 * `onMessage({type, id, data})` for each; `onState("live" | "lost")` when the connection changes.
 * Throws the Problem that no reconnection would mend.
 */
export async function follow(path, { onMessage, onState, signal }) {
  let lastId = null;
  let pause = FIRST_PAUSE;
  while (!signal.aborted) {
    try {
      const ended = await connection(path, lastId, signal, (message) => {
        pause = FIRST_PAUSE;
        if (message.id !== undefined) lastId = message.id;
        onMessage({ ...message, data: JSON.parse(message.data) });
      }, () => onState("live"));
      if (ended) return;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && !error.retryable) throw error;
      pause = Math.max(pause, 1000 * (error.retryAfter || 0));
      onState("lost");
    }
    await resting(pause, signal);
    pause = Math.min(2 * pause, LONGEST_PAUSE);
  }
}

/** One connection; true once the service says that nothing is left to tell. */
async function connection(path, lastId, signal, onMessage, onOpen) {
  const given = new AbortController();
  const headers = { Accept: "text/event-stream", ...(lastId ? { "Last-Event-ID": lastId } : {}) };
  const joined = AbortSignal.any([signal, given.signal]);
  let timer = setTimeout(() => given.abort(), SILENCE);
  try {
    const response = await request(path, { streams: true, signal: joined, headers });
    if (response.status === 204) return true;
    onOpen();
    const alive = new TransformStream({
      transform(chunk, controller) {
        clearTimeout(timer);
        timer = setTimeout(() => given.abort(), SILENCE);
        controller.enqueue(chunk);
      },
    });
    for await (const message of messages(response.body.pipeThrough(alive))) onMessage(message);
    return false;
  } finally {
    clearTimeout(timer);
    given.abort();
  }
}

/** Wait, but not longer than until the network is back, or somebody asks for it. */
function resting(milliseconds, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      for (const [target, name] of wakers) target.removeEventListener(name, done);
      resolve();
    };
    const wakers = [[window, "online"], [document, "try-now"], [signal, "abort"]];
    const timer = setTimeout(done, milliseconds);
    for (const [target, name] of wakers) target.addEventListener(name, done);
  });
}
