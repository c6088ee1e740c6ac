// The videos below: the newest that the service knows of under this key, so that the queue is seen
// from any device, and what this browser remembers having made, with its pictures.

import { access, readJob, readJobs } from "./api.js";
import { byId, make, tell } from "./dom.js";
import { kept, drop } from "./shelf.js";
import { ago, STATUS, TERMINAL } from "./words.js";

/** Runs of the model for one step. */
export const passes = ({ cfg_scale: scale }) => (scale > 1 ? 2 : 1);

const MILLISECONDS_BETWEEN_LOOKS = 10000;
const MOST = 24;

export class Videos {
  constructor() {
    this.jobs = new Map();
    this.cards = new Map();
    setInterval(() => this.look(), MILLISECONDS_BETWEEN_LOOKS);
  }

  /** Read everything anew. */
  async load() {
    const pictures = new Map((await kept()).map((entry) => [entry.id, entry]));
    // A browser that has neither a key nor a video has nothing to ask for.
    const listed = access.key || pictures.size ? await this.listed() : [];
    const known = new Set(listed.map(({ id }) => id));
    const others = [...pictures.keys()].filter((id) => !known.has(id));
    this.lay([...known, ...others].slice(0, MOST), pictures);
    for (const job of listed) if (this.cards.has(job.id)) this.update(job);
    await Promise.all(others.filter((id) => this.cards.has(id)).map((id) => this.read(id)));
  }

  /** The newest jobs under this key; none where it is refused, for nobody asked to look. */
  async listed() {
    try {
      return (await readJobs(MOST)).data;
    } catch {
      return [];
    }
  }

  async look() {
    if (document.hidden) return;
    const open = [...this.cards.keys()].filter((id) => !TERMINAL.has(this.jobs.get(id)?.status));
    await Promise.all(open.slice(0, 8).map((id) => this.read(id)));
  }

  async read(id) {
    try {
      this.update(await readJob(id));
    } catch (error) {
      if (error.status === 404 || error.status === 410) this.forget(id);
    }
  }

  lay(ids, pictures) {
    for (const card of this.cards.values()) URL.revokeObjectURL(card.url);
    this.cards.clear();
    const items = ids.map((id) => this.card(id, pictures.get(id)));
    byId("shelf").replaceChildren(...items);
    tell(byId("videos-note"), items.length ? "" : "Nothing made yet.");
    for (const id of ids) if (this.jobs.has(id)) this.update(this.jobs.get(id));
    this.mark(this.current);
  }

  card(id, entry) {
    const url = entry?.picture ? URL.createObjectURL(entry.picture) : "";
    const title = make("span", { className: "card-title", textContent: entry?.prompt || "" });
    const status = make("span", { className: "card-status" });
    const image = url
      ? make("img", { src: url, alt: "", loading: "lazy" })
      : make("span", { className: "blank", "aria-hidden": "true" });
    const link = make("a", { href: `#${id}` }, image, make("span", { className: "card-text" }, title, status));
    this.cards.set(id, { url, title, status, link });
    return make("li", { className: "card" }, link);
  }

  update(job) {
    this.jobs.set(job.id, job);
    const card = this.cards.get(job.id);
    if (!card) return;
    tell(card.title, job.input.prompt);
    const more = {
      queued: job.queue_position ? `, number ${job.queue_position}` : "",
      running: ` ${job.progress.percent} %`,
    }[job.status] || "";
    tell(card.status, `${STATUS[job.status] || job.status}${more}, ${ago(Date.parse(job.created_at))}`);
    card.link.dataset.status = job.status;
  }

  /**
   * Seconds that so many steps of a preset will take, by the finished video that had most of them;
   * null where none was at least a quarter as much work, since beginnings and ends would then count
   * for more than they are.
   */
  expected({ name, steps: usual }, steps) {
    const work = ({ input, plan }) => plan.num_sections * (input.steps ?? usual) * passes(input);
    const done = [...this.jobs.values()]
      .filter(({ status, input }) => status === "completed" && input.preset === name)
      .sort((one, other) => work(one) - work(other)).pop();
    if (!done || 4 * work(done) < steps) return null;
    return (steps * (Date.parse(done.finished_at) - Date.parse(done.started_at))) / 1000 / work(done);
  }

  mark(id) {
    this.current = id;
    for (const [other, { link }] of this.cards) {
      if (other === id) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  async forget(id) {
    await drop(id);
    this.jobs.delete(id);
    this.cards.get(id)?.link.parentElement.remove();
    this.cards.delete(id);
  }
}
