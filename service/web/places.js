/**
 * What stands in the middle of the page, by its address: the chat, or a part that is loaded when it is first wanted.
 *
 *     #documents, #decks/<id> -> study.js        else -> the chat
 */

import { byId, h } from "./dom.js";

/** @typedef {{bytes_max: number}} Offer of documents: how large a file may be */

const STUDY = /^#(documents|decks\/[0-9A-HJKMNP-TV-Z]{26})$/;

/** Return whether the address names another place than the chat. */
export function isElsewhere() {
  return STUDY.test(location.hash);
}

export class Places {
  /** @param {import("./chat.js").Caller} caller */
  constructor(caller) {
    this.caller = caller;
    this.section = byId("study");
    this.link = byId("to-documents");
    /** @type {Offer | null | undefined} */
    this.offered = undefined; // until the service has said whether it keeps documents
    /** @type {import("./study.js").Study | null} */
    this.study = null;
    /** @type {Promise<import("./study.js").Study> | null} */
    this.starting = null;
    addEventListener("hashchange", () => this.show());
    this.show();
  }

  /** Note whether the service keeps documents. @param {Offer | null} offered */
  offer(offered) {
    if (Boolean(offered) === Boolean(this.offered) && this.offered !== undefined) return;
    this.offered = offered;
    this.link.hidden = byId("to-study").hidden = !offered;
    this.show();
  }

  /** Load the part, and begin it. @param {number} bytesMax of a file */
  async start(bytesMax) {
    const { startStudy } = await import("./study.js");
    return startStudy(this.section, this.caller, bytesMax);
  }

  async show() {
    const isStudy = isElsewhere() && this.offered !== null;
    const wasStudy = !this.section.hidden;
    this.section.hidden = !isStudy;
    byId("chat").hidden = isStudy;
    if (isStudy) this.link.setAttribute("aria-current", "page");
    else this.link.removeAttribute("aria-current");
    if (!isStudy) {
      this.study?.leave();
      if (wasStudy) byId("scroll").focus();
      return;
    }
    if (!this.study) this.section.replaceChildren(h("div.bones", { ariaBusy: "true" }, h("span.bone"), h("span.bone.short")));
    if (!this.offered) return;
    try {
      this.starting ??= this.start(this.offered.bytes_max);
      this.study = await this.starting;
      if (isElsewhere()) this.study.show(location.hash);
    } catch {
      this.starting = null;
      const again = h("button.quiet", { type: "button", onclick: () => this.show() }, "Try again");
      const why = "This part of the page could not be loaded. Check that you are online, then try again.";
      this.section.replaceChildren(h("p", { role: "alert" }, why), again);
    }
  }
}
