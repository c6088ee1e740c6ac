// The page put together: which video is looked at stands in the address, so it can be kept and shared.

import { installAccess } from "./access.js";
import { readOptions, Problem } from "./api.js";
import { Composer } from "./composer.js";
import { byId, show, tell } from "./dom.js";
import { keep, pictureOf } from "./shelf.js";
import { Stage } from "./stage.js";
import { Videos } from "./videos.js";
import { STATUS } from "./words.js";

const OUTAGE_PATIENCE = 1500;
const PAUSE = 3000;

const videos = new Videos();
const stage = new Stage({
  onReuse: async (job) => composer.reuse(job, await pictureOf(job.id)),
  onState: connection,
  onJob: (job) => {
    videos.update(job);
    entitle(job);
  },
  onGone: (id) => { videos.forget(id); if (location.hash === `#${id}`) history.replaceState(null, "", "#"); },
});
const composer = new Composer({ onMade: made, expected: (preset, steps) => videos.expected(preset, steps) });

async function made(job, picture) {
  const now = Date.now();
  await keep({ id: job.id, at: now, prompt: job.input.prompt, picture });
  history.pushState(null, "", `#${job.id}`);
  await route(job);
  show(byId("stage-title"));
  byId("stage-title").focus({ preventScroll: true });
  await videos.load();
}

/** The tab says how far the video is, for those who look at something else meanwhile. */
function entitle(job) {
  const how = !job ? "" : job.status === "running" ? `${job.progress.percent} %` : STATUS[job.status];
  document.title = how ? `${how}: FramePack` : "FramePack: a video from a picture";
}

async function route(job = null) {
  const id = /^#[0-9a-f]{32}$/.test(location.hash) ? location.hash.slice(1) : null;
  videos.mark(id);
  if (id) stage.open(id, await pictureOf(id), job);
  else {
    stage.close();
    entitle(null);
  }
}

let patience = null;

/** Say that the service is away, once it is more than a hiccup. */
function connection(state) {
  const pill = byId("connection");
  pill.hidden = state === "live";
  tell(pill, state === "live" ? "" : "Reconnecting");
  clearTimeout(patience);
  if (state === "live") outage("");
  else patience = setTimeout(() => outage("The service cannot be reached. Accepted videos are safe and go on by themselves; this page reconnects."), OUTAGE_PATIENCE);
}

function outage(text) {
  byId("outage").hidden = !text;
  tell(byId("outage-text"), text);
}

/** Learn what the service offers; until that works, the form cannot know its limits. */
async function begin() {
  for (;;) {
    try {
      composer.offer(await readOptions());
      outage("");
      break;
    } catch (error) {
      outage(error instanceof Problem ? error.message : "The service cannot be reached. Trying again.");
      await new Promise((resolve) => {
        setTimeout(resolve, PAUSE);
        document.addEventListener("try-now", resolve, { once: true });
      });
    }
  }
  await videos.load();
  composer.changed();
}

byId("outage-retry").addEventListener("click", () => document.dispatchEvent(new Event("try-now")));
installAccess(async () => {
  stage.close();
  await route();
  await videos.load();
});
addEventListener("hashchange", () => route());
addEventListener("popstate", () => route());
document.querySelector(".brand").addEventListener("click", (event) => {
  event.preventDefault();
  history.pushState(null, "", "#");
  route();
  byId("composer-title").scrollIntoView();
});
route();
begin();
