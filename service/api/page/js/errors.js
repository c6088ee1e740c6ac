// What is wrong with the form: a summary that can be read and followed, and a sentence at each field.

import { byId, make } from "./dom.js";
import { Unreachable } from "./api.js";

const CONTROL = {
  image: "choose", prompt: "prompt", seconds: "sections", order: "orders", later_prompts: "add-prompt",
  preset: "preset",
};
const NAMES = {
  image: "Picture", prompt: "What happens", seconds: "Length", order: "Order", seed: "Seed",
  steps: "Steps", guidance_scale: "Prompt strength", cfg_scale: "Second guidance",
  negative_prompt: "What to avoid", schedule: "Packing schedule", size: "Size", later_prompts: "Later prompts",
  preset: "Preset",
};

const controlOf = (field) => {
  const named = byId(CONTROL[field] || `setting-${field}`);
  const shown = field === "image" && byId("drop-empty").hidden ? byId("replace") : named;
  return shown?.querySelector?.("input:checked") || shown;
};

export function clearErrors() {
  byId("form-errors").hidden = true;
  for (const note of document.querySelectorAll("#form .field-error")) note.textContent = "";
  for (const control of document.querySelectorAll("#form [aria-invalid]")) {
    control.removeAttribute("aria-invalid");
  }
}

/** Errors as the service writes them: `{pointer: "#/steps", detail}`. */
export function showFieldErrors(errors, title = "Please look at this again") {
  clearErrors();
  const items = errors.map(({ pointer, detail }) => {
    const field = pointer.split("/")[1] || "";
    const note = byId(`error-${field}`);
    if (note) note.textContent = detail;
    const control = controlOf(field);
    control?.setAttribute("aria-invalid", "true");
    const name = NAMES[field] || field || "Request";
    if (!control) return make("li", {}, `${name}: ${detail}`);
    const go = () => {
      if (control.closest("details")) control.closest("details").open = true;
      control.focus();
    };
    return make("li", {}, make("button", { type: "button", className: "link", onclick: go, textContent: name }), `: ${detail}`);
  });
  summary(title, make("ul", {}, ...items));
}

/** Any error of a submission; nothing that was entered is lost. */
export function showError(error) {
  if (error.errors?.length) {
    showFieldErrors(error.errors);
    return;
  }
  clearErrors();
  if (error instanceof Unreachable) {
    summary("The service cannot be reached", make("p", {}, "Everything you entered is still here. Send it again when the connection is back."));
    return;
  }
  const later = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  const report = error.requestId ? make("p", { className: "hint" }, `For the operator: ${error.requestId}`) : null;
  summary(error.title || "The page made a mistake", make("p", {}, error.message + later), report);
}

function summary(title, ...content) {
  const box = byId("form-errors");
  box.replaceChildren(make("h2", { textContent: title }), ...content.filter(Boolean));
  box.hidden = false;
  box.focus();
}
