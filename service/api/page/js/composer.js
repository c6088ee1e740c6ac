// The form: picture, words, length, order and what lies behind "More settings".

import { submit } from "./api.js";
import { byId, make, tell } from "./dom.js";
import { clearErrors, showError, showFieldErrors } from "./errors.js";
import { PicturePicker } from "./picture.js";
import { limitsOf, Settings } from "./settings.js";
import { passes } from "./videos.js";
import { length, ORDERS, plural, wait } from "./words.js";

const USUAL_ORDERS = new Set(["inverted", "forward", "endpoints"]);

export class Composer {
  /** `onMade(job, picture)` for each accepted job; `expected(preset, steps)`: seconds, or null. */
  constructor({ onMade, expected }) {
    this.onMade = onMade;
    this.expected = expected;
    this.options = null;
    this.busy = false;
    this.attempt = null;
    this.picker = new PicturePicker({
      onChange: () => { clearErrors(); this.changed(); },
      onRefused: (detail) => showFieldErrors([{ pointer: "#/image", detail }], "This picture cannot be used"),
      onExample: (prompt) => { byId("prompt").value = prompt; this.changed(); },
    });
    byId("form").addEventListener("submit", (event) => { event.preventDefault(); this.send(); });
    byId("form").addEventListener("input", () => this.changed());
    for (const [id, by] of [["shorter", -1], ["longer", 1]]) {
      byId(id).addEventListener("click", () => {
        byId("sections").valueAsNumber += by;
        this.changed();
      });
    }
  }

  /** Offer what this deployment can do. */
  offer(options) {
    this.options = options;
    this.picker.limits = options.image;
    this.settings = new Settings(options);
    byId("examples").hidden = !options.presets.some((preset) => preset.name === "tiny");
    const seconds = limitsOf(options.request_schema, "seconds");
    byId("prompt").maxLength = limitsOf(options.request_schema, "prompt").maxLength ?? -1;
    this.offerPresets();
    const { section_frames: frames, fps } = this.preset;
    byId("sections").max = Math.floor((seconds.maximum * fps) / frames);
    this.offerOrders();
    this.changed();
  }

  offerPresets() {
    const { presets } = this.options;
    byId("field-preset").hidden = presets.length < 2;
    byId("preset").replaceChildren(...presets.map(({ name }) => new Option(name, name)));
    byId("preset").addEventListener("change", () => this.offerOrders());
  }

  offerOrders() {
    const { orders } = this.options;
    const cards = orders.filter(({ name }) => USUAL_ORDERS.has(name)).map(({ name }) => this.card(name));
    byId("orders").replaceChildren(...cards);
    this.chooseOrder(this.preset.order);
  }

  card(name) {
    const title = ORDERS[name]?.name || name;
    const input = make("input", { type: "radio", name: "order", value: name, id: `order-${name}`, "aria-describedby": "order-about" });
    return make("div", { className: "order" }, input,
      make("label", { for: `order-${name}` },
        make("span", { className: `ways ${name}`, "aria-hidden": "true" }, ...[1, 2, 3, 4].map(() => make("i"))),
        make("span", { textContent: title })));
  }

  chooseOrder(name) {
    if (!byId(`order-${name}`)) byId("orders").append(this.card(name));
    byId(`order-${name}`).checked = true;
  }

  get preset() {
    const { presets } = this.options;
    return presets.find(({ name }) => name === byId("preset").value) || presets[0];
  }

  get order() {
    return byId("form").elements.order.value || this.preset.order;
  }

  changed() {
    if (!this.options) return;
    const { section_frames: frames, fps } = this.preset;
    const count = byId("sections").valueAsNumber;
    const whole = length((count * frames + 1) / fps);
    tell(byId("length"), whole);
    byId("sections").setAttribute("aria-valuetext", `${whole}, ${plural(count, "section")}`);
    tell(byId("length-hint"), `${plural(count, "section")} of ${length(frames / fps)}`);
    tell(byId("order-about"), ORDERS[this.order]?.about || "");
    this.settings.placeholders(this.preset, this.order);
    tell(byId("cost"), this.cost(count));
  }

  /** What the video will take, and how long by what was seen here before. */
  cost(count) {
    const { fields } = this.settings.read();
    const { preset } = this;
    const guided = { cfg_scale: fields.cfg_scale ?? preset.cfg_scale };
    const steps = (fields.steps ?? preset.steps) * passes(guided);
    const seconds = this.expected(preset, count * steps);
    const work = `${plural(count, "section")} × ${steps} steps`;
    return seconds === null ? work : `${work}: ${wait(seconds)}, judging by earlier ones`;
  }

  read() {
    const { fields, errors } = this.settings.read();
    const { section_frames: frames, fps } = this.preset;
    const prompt = byId("prompt").value.trim();
    if (!prompt) errors.unshift({ pointer: "#/prompt", detail: "Say what happens in the video." });
    if (!this.picker.file && this.needsPicture(this.order)) {
      errors.unshift({ pointer: "#/image", detail: `Choose the picture that the video starts with, or an order that needs none: ${this.withoutPicture()}.` });
    }
    const seconds = Number(((byId("sections").valueAsNumber * frames) / fps).toFixed(3));
    return { fields: { prompt, preset: this.preset.name, seconds, order: this.order, ...fields }, errors };
  }

  needsPicture(order) {
    return this.options.orders.find(({ name }) => name === order)?.image_required ?? true;
  }

  /** The orders on offer that make a video from words alone, as they are called here. */
  withoutPicture() {
    const offered = [...byId("form").elements.order].map(({ value }) => value);
    return offered.filter((name) => !this.needsPicture(name)).map((name) => ORDERS[name]?.name || name).join(", ");
  }

  async send() {
    if (this.busy || !this.options) return;
    const { fields, errors } = this.read();
    if (errors.length) {
      showFieldErrors(errors);
      return;
    }
    clearErrors();
    this.setBusy(true);
    const picture = this.picker.file;
    try {
      const job = await submit(fields, picture, this.keyOf(fields, picture));
      this.attempt = null;
      this.onMade(job, picture);
    } catch (error) {
      showError(error);
    } finally {
      this.setBusy(false);
    }
  }

  /** The same for the same content until it was accepted: sending again makes no second video. */
  keyOf(fields, picture) {
    const content = JSON.stringify(fields);
    if (this.attempt?.content !== content || this.attempt.picture !== picture) {
      const random = crypto.getRandomValues(new Uint8Array(16));
      const key = [...random].map((byte) => byte.toString(16).padStart(2, "0")).join("");
      this.attempt = { content, picture, key };
    }
    return this.attempt.key;
  }

  setBusy(busy) {
    this.busy = busy;
    byId("submit").setAttribute("aria-disabled", String(busy));
    tell(byId("submit"), busy ? "Sending…" : "Make the video");
  }

  /** Fill the form from a video that exists. */
  async reuse(job, picture) {
    const { input, plan } = job;
    byId("prompt").value = input.prompt;
    if ([...byId("preset").options].some(({ value }) => value === input.preset)) byId("preset").value = input.preset;
    byId("sections").value = plan.num_sections;
    this.chooseOrder(input.order || this.preset.order);
    this.settings.write({ ...input, seed: job.seed });
    if (picture) await this.picker.take(picture);
    clearErrors();
    this.changed();
    byId("composer-title").scrollIntoView({ block: "start" });
    byId("prompt").focus({ preventScroll: true });
  }
}
