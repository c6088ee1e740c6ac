// The sections of a video in its own order, each in the state it is in: the picture of how the
// video comes to be.

import { byId, make, tell } from "./dom.js";
import { length, ORDERS, TERMINAL } from "./words.js";

/** For each place in time, the number of the section that fills it, in the order of making. */
export function placesInTime(job) {
  const count = job.plan.num_sections;
  const places = job.plan.places?.length === count ? job.plan.places : [...Array(count).keys()];
  const sections = Array(count);
  places.forEach((place, section) => { sections[place] = section; });
  return sections;
}

/** Where a section stands: ready, decoding, sampling, or waiting. */
export function stateOf(job, section) {
  const { sections_sampled: sampled, section: current } = job.progress;
  if (job.clips.some((clip) => clip.section === section)) return "ready";
  if (TERMINAL.has(job.status)) return "never";
  if (section < sampled) return "decoding";
  if (job.status === "running" && section === (current ?? sampled) && section >= sampled) return "sampling";
  return "waiting";
}

const SAID = {
  ready: "ready to play",
  decoding: "made, being decoded",
  sampling: "being made now",
  waiting: "waiting",
  never: "not made",
};

export class Timeline {
  /** `onPlay(section)` when somebody asks for one that is ready. */
  constructor({ onPlay }) {
    this.onPlay = onPlay;
    this.track = byId("track");
    this.cells = new Map();
    this.posters = new Posters();
    this.job = null;
    this.track.addEventListener("keydown", (event) => this.move(event));
  }

  show(job) {
    if (this.job?.id !== job.id) this.lay(job);
    this.job = job;
    const seconds = job.plan.duration_seconds / job.plan.num_sections;
    for (const [section, cell] of this.cells) this.draw(job, section, cell, seconds);
    tell(byId("track-order"), `${(ORDERS[this.order(job)] || {}).track || "Made in its own order"}; the number says when.`);
  }

  order(job) {
    if (job.plan.order) return job.plan.order;
    const places = job.plan.places || [];
    return places.length > 1 && places[0] > places[1] ? "inverted" : "forward";
  }

  lay(job) {
    this.posters.clear();
    this.cells.clear();
    const items = placesInTime(job).map((section, place) => {
      const fill = make("span", { className: "fill" });
      const mark = make("span", { className: "mark", "aria-hidden": "true", textContent: `${section + 1}` });
      const button = make("button", {
        type: "button", className: "cell", onclick: () => this.play(section),
      }, fill, mark);
      this.cells.set(section, { button, fill, place, state: "" });
      return make("li", {}, button);
    });
    this.track.replaceChildren(...items);
    this.track.classList.toggle("many", items.length > 10);
    this.roving();
  }

  draw(job, section, cell, seconds) {
    const state = stateOf(job, section);
    const { step, total_steps: steps } = job.progress;
    const part = state === "sampling" && steps ? step / steps : 0;
    cell.fill.style.setProperty("--part", state === "sampling" ? `${part}` : "0");
    const clip = job.clips.find((each) => each.section === section);
    if (clip) this.posters.want(clip, cell.button);
    if (state === cell.state) return;
    cell.state = state;
    cell.button.dataset.state = state;
    cell.button.setAttribute("aria-disabled", String(state !== "ready"));
    const from = cell.place * seconds;
    cell.button.setAttribute(
      "aria-label",
      `From ${length(from)} to ${length(from + seconds)}, made as number ${section + 1}: ${SAID[state]}`,
    );
    if (state === "sampling") this.reveal(cell.button);
  }

  /** Show in its cell what a section looks like so far, until its clip is there. */
  preview(section, url) {
    const cell = this.cells.get(section);
    if (!cell || cell.state === "ready") return;
    cell.picture ??= make("img", { className: "preview", alt: "" });
    cell.picture.src = url;
    if (!cell.picture.isConnected) cell.button.prepend(cell.picture);
  }

  /** Keep what is being made in sight within the track, without moving the page. */
  reveal(button) {
    const box = byId("track-scroll");
    const middle = button.offsetLeft + button.offsetWidth / 2 - box.clientWidth / 2;
    box.scrollLeft = middle;
  }

  play(section) {
    if (this.cells.get(section)?.state === "ready") this.onPlay(section);
  }

  mark(section) {
    for (const [number, { button }] of this.cells) {
      if (number === section) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  /** One stop for the Tab key, arrows within: a long video must not be sixty stops. */
  roving(focused = null) {
    const buttons = [...this.track.querySelectorAll("button")];
    buttons.forEach((button) => {
      button.tabIndex = button === (focused || buttons[0]) ? 0 : -1;
    });
    return buttons;
  }

  move(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const buttons = [...this.track.querySelectorAll("button")];
    const now = buttons.indexOf(document.activeElement);
    const next = Math.min(buttons.length - 1, Math.max(0, now + steps[event.key]));
    this.roving(buttons[next]);
    buttons[next].focus();
  }
}

/** Draws the first frame of clips into their cells, one after the other. */
class Posters {
  constructor() {
    this.done = new Set();
    this.queue = [];
    this.busy = false;
    this.video = make("video", { muted: true, playsInline: true, preload: "auto" });
  }

  clear() {
    this.done.clear();
    this.queue = [];
  }

  want(clip, button) {
    if (this.done.has(clip.section) || clip.num_frames === 0) return;
    this.done.add(clip.section);
    this.queue.push({ clip, button });
    this.drawNext();
  }

  async drawNext() {
    if (this.busy) return;
    this.busy = true;
    while (this.queue.length) {
      const { clip, button } = this.queue.shift();
      const canvas = await this.draw(clip.url);
      if (!canvas) this.done.delete(clip.section);
      else if (button.isConnected) {
        button.prepend(canvas);
        button.querySelector(".preview")?.remove();
      }
    }
    this.busy = false;
  }

  draw(url) {
    return new Promise((resolve) => {
      const { video } = this;
      video.onerror = () => resolve(null);
      video.onloadeddata = () => {
        const canvas = make("canvas", { "aria-hidden": "true" });
        const scale = Math.min(1, 160 / video.videoWidth);
        canvas.width = video.videoWidth * scale;
        canvas.height = video.videoHeight * scale;
        canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
        resolve(canvas);
      };
      video.src = url;
    });
  }
}
