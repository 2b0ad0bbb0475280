/**
 * The files that are being added: chosen or dropped, sent one after the other, each with its progress or its problem.
 * They go on while another part of the page is shown.
 */

import { Refused } from "./api.js";
import { sayingOf } from "./documents.js";
import { h, put } from "./dom.js";
import { ownProblem } from "./reply.js";
import { upload } from "./upload.js";

const KINDS = ".pdf,.docx,.md,.txt";
const OF_THE_FILE = new Set(["unreadable_document", "document_too_large"]); // the message says what to do
const WORTH_AGAIN = new Set([0, 401, 408, 429, 500, 503]);

/** One file on its way. */
class Sending {
  /** @param {File} file @param {(one: Sending) => void} again @param {(one: Sending) => void} gone */
  constructor(file, again, gone) {
    this.file = file;
    this.leaving = new AbortController();
    this.bar = /** @type {HTMLProgressElement} */ (h("progress", { max: 1, value: 0, ariaLabel: `Upload of ${file.name}` }));
    this.state = h("span.state", { role: "status" }, "Waiting for the file before…");
    this.problem = h("p.problem", { role: "alert" });
    this.again = h("button.quiet", { type: "button", hidden: true, onclick: () => again(this) }, "Try again");
    this.close = h("button.quiet", { type: "button", onclick: () => gone(this) }, "Cancel");
    this.node = h(
      "li.thing.sending", {},
      h("strong.name", {}, file.name), h("p.facts", {}, this.bar, this.state), this.problem,
      h("p.buttons", {}, this.again, this.close),
    );
  }

  /** @param {number} share of the file that has gone */
  progress(share) {
    if (share < 1) this.bar.value = share;
    else this.bar.removeAttribute("value"); // how long the service reads is not known
    put(this.state, share < 1 ? `Uploading: ${Math.floor(share * 100)} %` : "Reading…");
  }

  begin() {
    this.leaving = new AbortController();
    this.bar.hidden = false;
    this.again.hidden = true;
    put(this.problem, "");
    put(this.close, "Cancel");
    this.progress(0);
  }

  /** @param {unknown} error */
  fail(error) {
    this.bar.hidden = true;
    put(this.state, "Not added.");
    const isOfFile = error instanceof Refused && OF_THE_FILE.has(error.problem.code);
    put(this.problem, isOfFile ? error.message : sayingOf(error));
    this.again.hidden = !(error instanceof Refused && WORTH_AGAIN.has(error.status));
    put(this.close, "Remove from this list");
  }
}

export class Uploads {
  /** @param {import("./chat.js").Caller} caller @param {number} bytesMax of a file @param {() => unknown} onAdded */
  constructor(caller, bytesMax, onAdded) {
    this.caller = caller;
    this.bytesMax = bytesMax;
    this.onAdded = onAdded;
    /** @type {Sending[]} */
    this.waiting = [];
    /** @type {Sending | null} */
    this.sending = null;
    this.field = /** @type {HTMLInputElement} */ (h("input.sr", { type: "file", id: "files", multiple: true, accept: KINDS }));
    this.field.addEventListener("change", () => {
      this.#take([...(this.field.files ?? [])]);
      this.field.value = ""; // the same file can be chosen again
    });
    addEventListener("beforeunload", (event) => this.sending && event.preventDefault()); // the browser asks first
    this.list = h("ul.things", { ariaLabel: "Files on their way" });
    this.node = h(
      "div.adding", {},
      h(
        "div.drop", {}, this.field, h("label", { htmlFor: "files" }, "Choose files"),
        h("p.hint", {}, `or drop them here: PDF, Word (docx), Markdown or plain text, up to ${sizeLabel(bytesMax)} each.`),
      ),
      this.list,
    );
  }

  /** Take files that are dropped anywhere on a place. @param {HTMLElement} place */
  listen(place) {
    const over = (/** @type {boolean} */ on) => place.classList.toggle("over", on);
    place.addEventListener("dragover", (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      over(true);
    });
    place.addEventListener("dragleave", (event) => {
      if (!place.contains(/** @type {Node | null} */ (event.relatedTarget))) over(false);
    });
    place.addEventListener("drop", (event) => {
      over(false);
      if (!event.dataTransfer?.files.length) return;
      event.preventDefault();
      this.#take([...event.dataTransfer.files]);
    });
  }

  /** @param {File[]} files */
  #take(files) {
    for (const file of files) {
      const one = new Sending(file, (again) => this.#add(again), (gone) => this.#drop(gone));
      this.list.append(one.node);
      this.#add(one);
    }
  }

  /** @param {Sending} one */
  #add(one) {
    this.waiting.push(one);
    if (!this.sending) this.#next();
  }

  /** @param {Sending} one */
  #drop(one) {
    this.waiting = this.waiting.filter((other) => other !== one);
    one.leaving.abort();
    one.node.remove();
    this.field.focus();
  }

  async #next() {
    for (let one = this.waiting.shift(); one; one = this.waiting.shift()) {
      this.sending = one;
      const sending = one;
      sending.begin();
      try {
        await this.#send(sending.file, (share) => sending.progress(share), sending.leaving.signal);
        await this.onAdded();
        const hadFocus = sending.node.contains(document.activeElement);
        sending.node.remove();
        if (hadFocus) this.field.focus();
      } catch (error) {
        if (!sending.leaving.signal.aborted) sending.fail(error);
      }
    }
    this.sending = null;
  }

  /** Send a file; one that is too large would be refused only after it has gone.
   * @param {File} file @param {(share: number) => void} onProgress @param {AbortSignal} signal */
  #send(file, onProgress, signal) {
    if (file.size > this.bytesMax) {
      const message = `This file is larger than ${sizeLabel(this.bytesMax)}: leave out its pictures, or add it in parts.`;
      throw new Refused(ownProblem(message, "", "document_too_large"), 413);
    }
    return upload(file, this.caller, onProgress, signal);
  }
}

/** @param {number} bytes */
function sizeLabel(bytes) {
  return bytes < 2 ** 20 ? `${Math.floor(bytes / 1024)} KiB` : `${Math.floor(bytes / 2 ** 20)} MiB`;
}
