// How numbers and states are said.

export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

/** A length of video: "4.8 s", "1 min 12 s". */
export function length(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** Time to wait, no more exact than it is known. */
export function wait(seconds) {
  if (seconds < 10) return "a few seconds";
  if (seconds < 90) return `about ${5 * Math.round(seconds / 5)} s`;
  if (seconds < 5400) return `about ${Math.round(seconds / 60)} min`;
  return `about ${(seconds / 3600).toFixed(1)} h`;
}

export function ago(date, now = Date.now()) {
  const seconds = Math.max(0, (now - date) / 1000);
  if (seconds < 60) return "just now";
  const format = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (seconds >= size) return format.format(-Math.floor(seconds / size), unit);
  }
  return "";
}

export function bytes(count) {
  if (count < 1e5) return `${Math.max(1, Math.round(count / 1e3))} kB`;
  return `${(count / 1e6).toFixed(1)} MB`;
}

export const TERMINAL = new Set(["completed", "failed", "cancelled"]);

export const STATUS = {
  queued: "Waiting",
  running: "Being made",
  paused: "Paused",
  cancelling: "Stopping",
  completed: "Finished",
  failed: "Failed",
  cancelled: "Cancelled",
};

/** What each sampling order means to somebody who has never read the paper. */
export const ORDERS = {
  inverted: {
    name: "From the end",
    about: "The last part first, back towards your picture. Keeps faces and things steady best; the beginning comes last.",
    track: "Made from the end backwards",
    first: "The ending is made first",
  },
  forward: {
    name: "From the start",
    about: "As it plays, so you can watch while it is made. Freer movement, a little more drift.",
    track: "Made from the start",
    first: "The beginning is made first",
  },
  vanilla: {
    name: "From the start, unanchored",
    about: "As from the start, but later parts no longer look back at your picture. For comparison.",
    track: "Made from the start",
    first: "The beginning is made first",
  },
  repeating: {
    name: "Picture by picture",
    about: "Each part begins anew from the last picture of the one before, and remembers no more. For comparison.",
    track: "Made from the start",
    first: "The beginning is made first",
  },
  endpoints: {
    name: "Both ends first",
    about: "The ending, then the beginning, then what lies between.",
    track: "Made from both ends inwards",
    first: "The ending is made first",
  },
  planned: {
    name: "Story points first",
    about: "The last part of each prompt first, then the gaps. For several prompts.",
    track: "Made from the story points inwards",
    first: "The ending is made first",
  },
};
