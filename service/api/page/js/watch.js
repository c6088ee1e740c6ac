// One job, kept as true as the service can tell: the stream says that something happened, and the
// job is then read anew. So the rules by which a job changes stand in one place, the service.

import { readJob, jobPath } from "./api.js";
import { follow } from "./stream.js";
import { TERMINAL } from "./words.js";

const MILLISECONDS_BETWEEN_LOOKS = 5000;

export class Watch {
  /**
   * `onJob(job)` on every change, `onNews(type)` on every event, `onPreview(picture)`, `onState`,
   * `onProblem`.
   */
  constructor(id, { onJob, onNews, onPreview, onState, onProblem }) {
    this.id = id;
    this.job = null;
    this.told = { onJob, onNews, onPreview, onState, onProblem };
    this.ending = new AbortController();
    this.reading = null;
    this.again = false;
  }

  start() {
    const signal = this.ending.signal;
    const timer = setInterval(() => this.look(), MILLISECONDS_BETWEEN_LOOKS);
    signal.addEventListener("abort", () => clearInterval(timer));
    follow(jobPath(this.id, "events"), {
      signal,
      onMessage: (message) => this.hear(message),
      onState: this.told.onState,
    }).catch((error) => this.told.onProblem(error));
  }

  stop() {
    this.ending.abort();
  }

  /** Read the job anew; calls that come meanwhile share one more reading. */
  refresh() {
    if (this.reading) {
      this.again = true;
      return this.reading;
    }
    this.reading = readJob(this.id, this.ending.signal)
      .then((job) => this.take(job))
      // The stream notices as well, says so, and brings a snapshot when it is back.
      .catch(() => {})
      .finally(() => {
        this.reading = null;
        if (this.again && !this.ending.signal.aborted) {
          this.again = false;
          this.refresh();
        }
      });
    return this.reading;
  }

  // The estimate and the place in the queue change without an event.
  look() {
    if (this.job && !TERMINAL.has(this.job.status) && !document.hidden) this.refresh();
  }

  hear({ type, data: event }) {
    this.told.onNews(type);
    if (type === "snapshot") this.take(event.data);
    else if (type === "step") this.step(event.data);
    else if (type === "preview") this.told.onPreview(event.data);
    else this.refresh();
  }

  step({ section, step, total_steps }) {
    if (!this.job) return;
    const progress = { ...this.job.progress, section, step, total_steps };
    this.take({ ...this.job, progress });
  }

  take(job) {
    if (this.ending.signal.aborted) return;
    if (this.job && job.last_sequence < this.job.last_sequence) return;
    this.job = job;
    this.told.onJob(job);
  }
}
