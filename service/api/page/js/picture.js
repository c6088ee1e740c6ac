// Choosing the start picture: from a file, by dropping, by pasting, or one of the examples.

import { byId, tell } from "./dom.js";
import { bytes } from "./words.js";

export class PicturePicker {
  /** `onChange(file | null)`; `onRefused(reason)`; `onExample(prompt)`. */
  constructor({ onChange, onRefused, onExample }) {
    this.told = { onChange, onRefused, onExample };
    this.file = null;
    this.size = null;
    this.limits = null;
    this.turn = 0;
    const input = byId("file");
    for (const id of ["choose", "replace"]) byId(id).addEventListener("click", () => input.click());
    byId("remove").addEventListener("click", () => {
      this.clear();
      byId("choose").focus();
    });
    input.addEventListener("change", () => {
      if (input.files[0]) this.take(input.files[0]);
      input.value = "";
    });
    this.acceptDrops();
    document.addEventListener("paste", (event) => {
      const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
      if (file) this.take(file);
    });
    for (const button of document.querySelectorAll(".example")) {
      button.addEventListener("click", () => this.takeExample(button.dataset));
    }
  }

  acceptDrops() {
    const zone = byId("drop");
    let inside = 0;
    const mark = () => zone.classList.toggle("over", inside > 0);
    const holdsFiles = (event) => event.dataTransfer.types.includes("Files");
    // The whole page takes a drop: a picture that misses the zone must not replace the page.
    document.addEventListener("dragenter", (event) => {
      inside += 1;
      if (holdsFiles(event)) mark();
    });
    document.addEventListener("dragleave", () => {
      inside = Math.max(0, inside - 1);
      mark();
    });
    document.addEventListener("dragover", (event) => {
      if (holdsFiles(event)) event.preventDefault();
    });
    document.addEventListener("drop", (event) => {
      inside = 0;
      mark();
      if (!holdsFiles(event)) return;
      event.preventDefault();
      if (event.dataTransfer.files[0]) this.take(event.dataTransfer.files[0]);
    });
  }

  async takeExample({ src, prompt }) {
    const answer = await fetch(src);
    const name = src.split("/").pop();
    await this.take(new File([await answer.blob()], name, { type: "image/png" }));
    this.told.onExample(prompt);
  }

  /** Take a picture if it is one the service can use; the service decides all the same. */
  async take(file) {
    const turn = ++this.turn;
    const reason = this.refusal(file);
    const image = reason ? null : await createImageBitmap(file).catch(() => null);
    if (turn !== this.turn) return;
    const fault = reason || (image ? this.sizeRefusal(image) : "This picture cannot be read.");
    if (fault) {
      this.told.onRefused(fault);
      return;
    }
    this.file = file;
    this.size = { width: image.width, height: image.height };
    image.close();
    this.draw();
    this.told.onChange(file);
  }

  clear() {
    this.turn += 1;
    this.file = null;
    this.size = null;
    this.draw();
    this.told.onChange(null);
  }

  refusal(file) {
    if (!this.limits) return "";
    if (!this.limits.content_types.includes(file.type)) {
      return "This is not a PNG, JPEG or WebP picture. Choose another file, or save it as JPEG.";
    }
    if (file.size > this.limits.max_bytes) {
      return `This picture has ${bytes(file.size)}; at most ${bytes(this.limits.max_bytes)} can be sent. Make it smaller or save it as JPEG.`;
    }
    return "";
  }

  sizeRefusal({ width, height }) {
    if (!this.limits) return "";
    const { min_side: least, max_side: most } = this.limits;
    if (Math.min(width, height) < least) {
      return `This picture is ${width} × ${height} pixels; each side needs at least ${least}.`;
    }
    if (Math.max(width, height) > most) {
      return `This picture is ${width} × ${height} pixels; no side may have more than ${most}.`;
    }
    return "";
  }

  draw() {
    const image = byId("picture");
    URL.revokeObjectURL(image.src);
    byId("drop-empty").hidden = Boolean(this.file);
    byId("drop-full").hidden = !this.file;
    byId("drop").classList.toggle("filled", Boolean(this.file));
    if (!this.file) return;
    image.src = URL.createObjectURL(this.file);
    image.alt = `Your picture${this.file.name ? `, ${this.file.name}` : ""}`;
    image.classList.toggle("crisp", Math.max(this.size.width, this.size.height) < 200);
    tell(byId("picture-about"), `${this.size.width} × ${this.size.height}, ${bytes(this.file.size)}`);
  }
}
