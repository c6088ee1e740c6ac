// Elements by id and elements made: nothing here or elsewhere turns a string into markup.

export const byId = (id) => document.getElementById(id);

/** Make an element. Properties by name; names with a dash become attributes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set an element's text only where it differs, so that a live region says it once. */
export function tell(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Bring an element into view, without a ride for those who asked for none. */
export function show(element) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ behavior: still ? "auto" : "smooth", block: "nearest" });
}
