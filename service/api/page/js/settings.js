// The settings behind "More settings": each with what it does in plain words. Limits come from the
// service's own schema; what the service does not know is not offered.

import { byId, make } from "./dom.js";

const FIELDS = [
  { name: "seed", label: "Seed", kind: "integer",
    about: "The same seed, picture and settings make the same video. Empty draws a new one.",
    otherwise: () => "drawn for you" },
  { name: "steps", label: "Steps", kind: "integer",
    about: "For each section. More are cleaner and take longer, in proportion.",
    otherwise: (preset) => preset.steps },
  { name: "guidance_scale", label: "Prompt strength", kind: "number",
    about: "Higher follows your words more closely, and looks harder.",
    otherwise: (preset) => preset.guidance_scale },
  { name: "cfg_scale", label: "Second guidance", kind: "number",
    about: "1 is off. Above 1 every step takes twice as long, and what to avoid is obeyed.",
    otherwise: (preset) => preset.cfg_scale ?? 1 },
  { name: "negative_prompt", label: "What to avoid", kind: "text", wide: true,
    about: "Only with second guidance above 1.", otherwise: () => "" },
  { name: "size", label: "Size", kind: "text",
    about: "Width x height in pixels, such as 832x480; the nearest shape there is. Empty follows the picture.",
    otherwise: (preset) => preset.sizes.map(({ width, height }) => `${width}x${height}`).join(", ") },
  { name: "schedule", label: "Packing schedule", kind: "text", wide: true,
    about: "How much of the rest of the video a section sees, in the paper's notation. Empty takes what fits the order.",
    otherwise: (preset, options, order) =>
      options.orders.find((each) => each.name === order)?.schedule },
];

/** A property's limits, also where null is allowed beside it. */
export function limitsOf(schema, name) {
  const found = schema.properties?.[name];
  if (!found) return null;
  return { ...found, ...(found.anyOf?.find((each) => each.type !== "null") || {}) };
}

export class Settings {
  constructor(options) {
    this.options = options;
    this.inputs = new Map();
    const fields = FIELDS.filter(({ name }) => limitsOf(options.request_schema, name));
    byId("settings").replaceChildren(...fields.map((field) => this.build(field)));
  }

  build(field) {
    const limits = limitsOf(this.options.request_schema, field.name);
    const id = `setting-${field.name}`;
    const numeric = field.kind !== "text";
    const input = make("input", {
      id, name: field.name, type: numeric ? "number" : "text", autocomplete: "off",
      "aria-describedby": `hint-${field.name} error-${field.name}`,
      ...(numeric ? { min: limits.minimum, max: limits.maximum, step: field.kind === "integer" ? 1 : "any" } : {}),
      ...(limits.maxLength ? { maxLength: limits.maxLength } : {}),
    });
    this.inputs.set(field.name, { input, field });
    return make("div", { className: `field${field.wide ? " wide" : ""}`, id: `field-${field.name}` },
      make("label", { className: "label", for: id, textContent: field.label }),
      input,
      make("p", { className: "hint", id: `hint-${field.name}`, textContent: field.about }),
      make("p", { className: "field-error", id: `error-${field.name}` }));
  }

  /** Show in each empty field what it will be. */
  placeholders(preset, order) {
    for (const { input, field } of this.inputs.values()) {
      const usual = field.otherwise(preset, this.options, order);
      input.placeholder = `${usual ?? ""}`;
      // A model without distilled guidance has no such strength to set.
      byId(`field-${field.name}`).hidden = usual === null;
    }
  }

  /** What was set, by field; and what is wrong with it, as the service would say it. */
  read() {
    const fields = {};
    const errors = [];
    for (const [name, { input, field }] of this.inputs) {
      if (input.validity.badInput || !input.validity.valid) {
        errors.push({ pointer: `#/${name}`, detail: input.validationMessage });
      } else if (input.value.trim() !== "") {
        fields[name] = field.kind === "text" ? input.value.trim() : Number(input.value);
      }
    }
    return { fields, errors };
  }

  write(values) {
    for (const [name, { input, field }] of this.inputs) {
      const value = values[name];
      input.value = value ?? "";
      if (input.value !== "" && field.name !== "seed") byId("more").open = true;
    }
  }
}
