// The video that is looked at: what is happening to it, its timeline, its screen, and what can be done.

import { act, jobPath, json, Problem, request, Unreachable, videoLink } from "./api.js";
import { byId, make, tell } from "./dom.js";
import { Player } from "./player.js";
import { Timeline, stateOf } from "./timeline.js";
import { length, ORDERS, plural, STATUS, TERMINAL, wait } from "./words.js";
import { Watch } from "./watch.js";

const TITLES = {
  queued: "Waiting for a worker",
  running: "Making your video",
  paused: "Paused",
  cancelling: "Stopping",
  completed: "Your video is ready",
  failed: "This video could not be finished",
  cancelled: "Cancelled",
};
const WELCOME = "It is made in sections of about a second, usually from the ending back to your picture. Each can be played as soon as it is made.";
const LINK_SECONDS = 6 * 3600;
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Stage {
  /** `onReuse(job)`, `onState(live | lost)`, `onJob(job)`, `onGone(id)`. */
  constructor(told) {
    this.told = told;
    this.watch = null;
    this.job = null;
    this.retrying = false;
    this.timeline = new Timeline({ onPlay: (section) => this.player.play(section) });
    this.player = new Player(byId("screen"), {
      onSection: (section) => this.timeline.mark(section),
      onStale: () => this.refreshLinks(),
    });
    this.buttons = this.makeActions();
  }

  makeActions() {
    const button = (name, text, onclick, kind = "") => {
      const made = make("button", { type: "button", className: kind, textContent: text, onclick, hidden: true });
      byId("actions").append(made);
      return [name, made];
    };
    const download = make("a", { className: "button primary", textContent: "Download", hidden: true });
    byId("actions").append(download);
    return {
      download,
      ...Object.fromEntries([
        button("watch", "Play so far", () => this.playFromStart()),
        button("pause", "Pause", () => this.do("pause")),
        button("resume", "Go on", () => this.do("resume"), "primary"),
        button("reuse", "Reuse settings", () => this.told.onReuse(this.job)),
        button("cancel", "Cancel", () => this.do("cancel"), "risky"),
        button("delete", "Delete", () => this.remove(), "risky"),
      ]),
    };
  }

  /** Look at a job; its picture, if this browser still has it. */
  open(id, picture, job = null) {
    if (this.watch?.id === id) return;
    this.close();
    this.stillUrl = picture ? URL.createObjectURL(picture) : "";
    this.player.reset();
    this.player.showStill(this.stillUrl, "The picture the video starts with");
    this.watch = new Watch(id, {
      onJob: (found) => this.show(found),
      onNews: (type) => this.hear(type),
      onPreview: (picture) => this.preview(picture),
      onState: (state) => this.told.onState(state),
      onProblem: (error) => this.fail(error),
    });
    document.body.classList.add("watching");
    if (job) this.watch.take(job);
    else tell(byId("stage-title"), "Looking for the video");
    this.watch.start();
  }

  close() {
    this.watch?.stop();
    this.watch = null;
    this.job = null;
    this.retrying = false;
    if (this.stillUrl) URL.revokeObjectURL(this.stillUrl);
    if (this.previewUrl) URL.revokeObjectURL(this.previewUrl);
    this.stillUrl = this.previewUrl = "";
    this.player.reset();
    for (const id of ["timeline-box", "failure", "facts"]) byId(id).hidden = true;
    for (const button of Object.values(this.buttons)) button.hidden = true;
    tell(byId("say"), WELCOME);
    tell(byId("stage-title"), "Your video appears here");
    byId("stage").dataset.status = "";
    document.body.classList.remove("watching");
    this.told.onState("live");
  }

  show(job) {
    const before = this.job;
    this.job = job;
    byId("stage").dataset.status = job.status;
    this.player.shape(job.plan);
    this.player.setClips(job.clips);
    byId("timeline-box").hidden = false;
    this.timeline.show(job);
    tell(byId("stage-title"), TITLES[job.status] || STATUS[job.status]);
    this.tellProgress(job);
    if (!before || before.status !== job.status) this.turned(job);
    if (!before || before.clips.length !== job.clips.length) this.newClips(job, before);
    this.showActions(job);
    this.showFailure(job);
    this.told.onJob(job);
  }

  tellProgress(job) {
    byId("progress").value = job.progress.percent;
    byId("progress").hidden = TERMINAL.has(job.status);
    tell(byId("eta"), this.expectation(job));
    tell(byId("say"), this.sentence(job));
    this.player.showVeil(TERMINAL.has(job.status) ? "" : this.overPicture(job));
  }

  /** Changes with every step, so it is not in a live region. */
  expectation(job) {
    if (job.status === "queued") {
      const place = job.queue_position ? `Number ${job.queue_position} in the queue` : "";
      const ready = job.eta_seconds === null ? "" : `ready in ${wait(job.eta_seconds)}`;
      return [place, ready].filter(Boolean).join(", ");
    }
    if (job.status !== "running") return "";
    const { step, total_steps: steps } = job.progress;
    const at = step && steps ? `step ${step} of ${steps}` : "";
    const left = job.eta_seconds === null ? "" : `${wait(job.eta_seconds)} left`;
    return [at, left].filter(Boolean).join(", ");
  }

  sentence(job) {
    const total = job.plan.num_sections;
    const ready = job.clips.length;
    const current = [...Array(total).keys()].find((section) => stateOf(job, section) === "sampling");
    switch (job.status) {
      case "queued": return "It was accepted and is safe: it will be made even if this page is closed.";
      case "running":
        if (this.retrying) return "An attempt was lost. It goes on from the last finished section.";
        if (current !== undefined) return `Making section ${current + 1} of ${total}. ${ready ? `${ready} ready to play.` : ""}`;
        return `${ready} of ${plural(total, "section")} ready to play. Putting the video together.`;
      case "paused": return `${ready} of ${plural(total, "section")} ready to play. Nothing is lost while it rests.`;
      case "cancelling": return "The worker stops after the step it is in.";
      case "completed": return `${length(job.plan.duration_seconds)}, ${plural(total, "section")}, ${job.plan.width} × ${job.plan.height}.`;
      case "cancelled": return ready ? `${ready} of ${plural(total, "section")} can still be played.` : "Nothing was made yet.";
      default: return ready ? `${ready} of ${plural(total, "section")} were made and can be played.` : "";
    }
  }

  overPicture(job) {
    if (job.status === "queued") return "Waiting for a worker";
    if (job.status !== "running") return STATUS[job.status];
    const order = ORDERS[this.timeline.order(job)];
    return job.progress.sections_sampled === 0 && order ? order.first : "";
  }

  turned(job) {
    if (job.status === "completed") this.showFilm(job);
    this.showFacts(job);
  }

  newClips(job, before) {
    // The first clip shows that something is coming; after that the viewer decides what plays.
    const first = job.clips.find((clip) => clip.num_frames > 0);
    const earlier = before?.clips.some((clip) => clip.num_frames > 0);
    if (first && !earlier && job.status !== "completed" && !still.matches) this.player.play(first.section);
  }

  async showFilm(job) {
    try {
      const link = await videoLink(job.id);
      if (this.job?.id !== job.id) return;
      this.player.showFilm(link.url, "The finished video", !still.matches);
      this.buttons.download.href = link.url;
      this.buttons.download.download = `${job.id}.mp4`;
      this.buttons.download.hidden = false;
    } catch (error) {
      tell(byId("say"), `The video is finished but cannot be fetched now: ${error.message}`);
    }
  }

  /** Links have expired: read the job for new ones. */
  async refreshLinks() {
    await this.watch?.refresh();
    if (this.job?.status === "completed") this.showFilm(this.job);
    else if (this.player.playing !== null) this.player.play(this.player.playing);
  }

  playFromStart() {
    if (this.job.status === "completed") this.showFilm(this.job);
    else if (this.player.clips.length) this.player.play(this.player.clips[0].section);
  }

  showActions(job) {
    const can = (name) => Boolean(job.links[name]);
    const shown = {
      watch: job.clips.length > 0 && job.status !== "completed",
      pause: can("pause"), resume: can("resume"), cancel: can("cancel") && job.status !== "cancelling",
      delete: can("delete"), reuse: true, download: !this.buttons.download.hidden && job.status === "completed",
    };
    const hadFocus = document.activeElement;
    for (const [name, button] of Object.entries(this.buttons)) button.hidden = !shown[name];
    // A button that goes away must not take the keyboard's place in the page with it.
    if (hadFocus?.hidden && hadFocus.parentElement === byId("actions")) byId("stage-title").focus();
  }

  async do(action) {
    const button = this.buttons[action];
    if (button.getAttribute("aria-disabled") === "true") return;
    button.setAttribute("aria-disabled", "true");
    try {
      this.watch.take(await act(this.job.id, action));
    } catch (error) {
      if (error instanceof Problem && error.status === 409) await this.watch?.refresh();
      else tell(byId("say"), `That did not work: ${error.message}`);
    } finally {
      button.removeAttribute("aria-disabled");
    }
  }

  async remove() {
    const { id } = this.job;
    if (!confirm("Delete this video and everything stored of it?")) return;
    try {
      await request(`jobs/${id}`, { method: "DELETE" });
      this.close();
      byId("stage-title").focus();
      this.told.onGone(id);
    } catch (error) {
      tell(byId("say"), `It could not be deleted: ${error.message}`);
    }
  }

  showFailure(job) {
    const box = byId("failure");
    box.hidden = job.status !== "failed" || !job.error;
    if (box.hidden || box.dataset.of === job.id) return;
    box.dataset.of = job.id;
    box.replaceChildren(
      make("p", { className: "failure-detail", textContent: job.error.detail || job.error.title }),
      make("p", { className: "hint", textContent: "Reuse the settings to change what was wrong, or to try once more." }),
    );
  }

  showFacts(job) {
    const { input, plan } = job;
    const rows = [
      ["Prompt", input.prompt], ["Seed", job.seed], ["Preset", input.preset],
      ["Order", ORDERS[this.timeline.order(job)]?.name], ["Steps", input.steps ?? "the preset's"],
      ["Size", `${plan.width} × ${plan.height}, ${plan.fps} frames a second`],
      ["Length", `${length(plan.duration_seconds)}, ${plan.num_frames} frames`],
      ["To avoid", input.negative_prompt || null], ["Number", job.id],
    ].filter(([, value]) => value !== null && value !== undefined);
    byId("facts-list").replaceChildren(...rows.flatMap(([name, value]) => [
      make("dt", { textContent: name }), make("dd", { textContent: `${value}` }),
    ]), make("dt", { textContent: "Film player" }), make("dd", {}, this.liveLink(job)));
    byId("facts").hidden = false;
  }

  /** A retry is no state of the job, so it is remembered until something else happens. */
  hear(type) {
    if (type !== "step" && type !== "preview") this.retrying = type === "retrying";
  }

  /** What a section looks like so far: in its place in time, and large while nothing plays. */
  preview({ section, image, content_type: type }) {
    const bytes = Uint8Array.from(atob(image), (letter) => letter.charCodeAt(0));
    const url = URL.createObjectURL(new Blob([bytes], { type }));
    if (this.previewUrl) URL.revokeObjectURL(this.previewUrl);
    this.previewUrl = url;
    this.timeline.preview(section, url);
    this.player.showPreview(url);
  }

  /** A link that needs no key, for a film player that knows HLS: it plays what is made so far. */
  liveLink(job) {
    const button = make("button", {
      type: "button", className: "quiet", textContent: "Get a link",
      onclick: async () => {
        try {
          const { playlist } = await json(`${jobPath(job.id, "token")}?seconds=${LINK_SECONDS}`);
          button.replaceWith(make("a", { href: playlist, textContent: "Playlist, good for six hours" }));
        } catch (error) {
          tell(byId("say"), `There is no link now: ${error.message}`);
        }
      },
    });
    return button;
  }

  fail(error) {
    const { watch } = this;
    this.close();
    if (error.status === 404 || error.status === 410) {
      tell(byId("stage-title"), "This video is not here any more");
      tell(byId("say"), "It has expired, or belongs to another key.");
      this.told.onGone(watch.id);
    } else if (error.status === 401) {
      tell(byId("stage-title"), "This video needs an access key");
    } else if (!(error instanceof Unreachable)) {
      tell(byId("stage-title"), "This video cannot be shown");
      tell(byId("say"), error.message);
    }
  }
}
