/**
 * Documents and flashcards: the part of the page that is loaded when it is first wanted.
 *
 *     #documents -> library.js       #decks/<id> -> deck.js
 */

import { DeckView } from "./deck.js";
import { Documents } from "./documents.js";
import { h } from "./dom.js";
import { Library } from "./library.js";
import { Uploads } from "./uploads.js";

const TITLE = document.title;

/** Load the styles, and return the part. Throws if they cannot be loaded.
 * @param {HTMLElement} section @param {import("./chat.js").Caller} caller @param {number} bytesMax of a file */
export async function startStudy(section, caller, bytesMax) {
  const styles = h("link", { rel: "stylesheet", href: "/web/study.css" });
  await new Promise((resolve, reject) => {
    Object.assign(styles, { onload: resolve, onerror: reject });
    document.head.append(styles);
  }).catch((error) => {
    styles.remove();
    throw error;
  });
  return new Study(section, caller, bytesMax);
}

export class Study {
  /** @param {HTMLElement} section @param {import("./chat.js").Caller} caller @param {number} bytesMax */
  constructor(section, caller, bytesMax) {
    this.section = section;
    this.api = new Documents(caller);
    this.uploads = new Uploads(caller, bytesMax, () => this.view instanceof Library && this.view.documents.refresh());
    /** @type {Library | DeckView | null} */
    this.view = null;
  }

  /** Show what an address names. @param {string} address */
  show(address) {
    this.leave();
    const [, deck] = address.split("/");
    this.view = deck ? new DeckView(this.api, deck) : new Library(this.api, this.uploads);
    this.section.replaceChildren(this.view.node);
    document.title = `${this.view.title} · ${TITLE}`;
    this.view.heading.focus();
    this.view.start();
  }

  leave() {
    this.view?.stop();
    this.view = null;
    this.section.replaceChildren();
    document.title = TITLE;
  }
}
