// The screen: the start picture, then the clips that are there in the order of the video, then the
// finished video. Two film elements take turns, so that one clip follows the other without a gap.

import { make } from "./dom.js";

const SMALL = 200; // Below this width a video is shown as the pixels it has.

export class Player {
  /** `onSection(section | null)`: which clip plays. `onStale()`: a link no longer leads anywhere. */
  constructor(screen, { onSection, onStale }) {
    this.screen = screen;
    this.told = { onSection, onStale };
    this.clips = [];
    this.playing = null;
    this.film = null;
    this.front = null;
    this.retried = false;
    this.still = make("img", { className: "still", alt: "", hidden: true });
    this.veil = make("p", { className: "veil", hidden: true });
    this.videos = [0, 1].map(() => this.makeVideo());
    screen.replaceChildren(this.still, ...this.videos, this.veil);
  }

  /** An empty screen. */
  reset() {
    for (const video of this.videos) {
      video.pause();
      video.removeAttribute("src");
      video.load();
      video.hidden = true;
    }
    this.still.removeAttribute("src");
    this.still.hidden = true;
    this.still.classList.remove("preview");
    this.veil.hidden = true;
    Object.assign(this, { clips: [], playing: null, film: null, front: null, retried: false });
    this.screen.classList.remove("crisp");
  }

  makeVideo() {
    const video = make("video", { muted: true, playsInline: true, preload: "auto", hidden: true });
    video.addEventListener("ended", () => this.advance(video));
    video.addEventListener("error", () => this.fail(video));
    video.addEventListener("loadeddata", () => { this.retried = false; });
    return video;
  }

  /** Take the shape of a video and scale small ones by whole numbers, so that pixels stay square. */
  shape({ width, height }) {
    this.screen.style.setProperty("--ratio", `${width} / ${height}`);
    this.screen.style.setProperty("--wide", `${width / height}`);
    this.screen.style.setProperty("--native", `${width}px`);
    this.screen.classList.toggle("crisp", Math.max(width, height) < SMALL);
  }

  showStill(url, about) {
    this.still.hidden = !url;
    if (!url) return;
    if (this.still.src !== url) this.still.src = url;
    this.still.alt = about;
  }

  /** Show what is being made, as long as nothing plays. */
  showPreview(url) {
    if (this.front) return;
    this.still.hidden = false;
    this.still.src = url;
    this.still.alt = "What the section being made looks like so far";
    this.still.classList.add("preview");
  }

  /** A word over the still picture, while there is nothing to play. */
  showVeil(text) {
    this.veil.hidden = !text || Boolean(this.front);
    this.veil.textContent = text;
  }

  setClips(clips) {
    this.clips = [...clips].filter((clip) => clip.num_frames > 0)
      .sort((one, other) => one.first_frame - other.first_frame);
    if (this.playing !== null) this.prepareNext();
  }

  /** Play a section's clip, and on through those that follow it without a gap. */
  play(section) {
    const clip = this.clips.find((each) => each.section === section);
    if (!clip) return;
    this.film = null;
    this.begin(clip, this.waiting(clip) || this.videos[0]);
  }

  begin(clip, video) {
    this.playing = clip.section;
    this.turnTo(video, clip.url, "Section");
    this.prepareNext();
    this.told.onSection(clip.section);
  }

  /** Show the whole video, over and over if `moving`. */
  showFilm(url, label, moving) {
    if (this.film === url) return;
    this.playing = null;
    this.told.onSection(null);
    this.film = url;
    const video = this.videos[0];
    this.turnTo(video, url, label, moving);
    video.loop = moving;
  }

  turnTo(video, url, label, plays = true) {
    for (const other of this.videos) {
      other.hidden = other !== video;
      other.controls = other === video;
      other.loop = false;
      if (other !== video) other.pause();
    }
    this.front = video;
    this.veil.hidden = true;
    video.setAttribute("aria-label", label);
    if (video.getAttribute("src") !== url || video.error) video.src = url;
    else video.currentTime = video.seekable.length ? video.seekable.start(0) : 0;
    // A browser may refuse to begin by itself; its own button is there for that.
    if (plays) video.play().catch(() => {});
  }

  waiting(clip) {
    return this.videos.find((video) => video.getAttribute("src") === clip.url);
  }

  next() {
    const now = this.clips.find((clip) => clip.section === this.playing);
    if (!now) return null;
    const after = now.first_frame + now.num_frames;
    return this.clips.find((clip) => clip.first_frame === after) || null;
  }

  prepareNext() {
    const clip = this.next();
    const back = this.videos.find((video) => video !== this.front);
    if (clip && back.getAttribute("src") !== clip.url) back.src = clip.url;
  }

  advance(video) {
    if (video !== this.front || this.playing === null) return;
    const clip = this.next();
    if (clip) this.begin(clip, this.videos.find((other) => other !== video));
    else this.told.onSection(null);
  }

  fail(video) {
    if (video !== this.front || this.retried) return;
    // Links expire after a quarter of an hour; once, a fresh one is asked for.
    this.retried = true;
    this.film = null;
    this.told.onStale();
  }
}
