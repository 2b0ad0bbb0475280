/** The cards of a deck, one at a time: flip by click or space, next and previous by buttons or arrow keys. */

import { h, icon, put } from "./dom.js";
import { count } from "./labels.js";

/** @typedef {import("./documents.js").Card} Card */

export const TEMPLATE = "made from the text alone, without a model";

export class Flashcards {
  constructor() {
    /** @type {Card[]} */
    this.cards = [];
    this.at = 0;
    this.isFlipped = false;
    this.front = h("span.front");
    this.back = h("span.back");
    this.side = h("span.side");
    this.face = h("button.face", { type: "button", onclick: () => this.flip() }, this.side, this.front, this.back);
    this.quote = h("blockquote");
    this.made = h("span.badge.unfinished", { hidden: true }, icon("fallback"), TEMPLATE);
    this.place = h("span.count", { role: "status" });
    this.before = this.#button("Previous", -1);
    this.after = this.#button("Next", 1);
    this.told = h("p.sr", { "aria-live": "polite" });
    const keys = h("span.by-keys", {}, " ", h("kbd", {}, "Space"), " flips it, too; ", h("kbd", {}, "←"), " and ", h("kbd", {}, "→"), " turn to another card.");
    const hint = h("p.hint", {}, "A tap or click on the card flips it.", keys);
    this.node = h(
      "div.flashcards", { hidden: true },
      h("p.buttons.steps", {}, this.before, this.place, this.after),
      this.face, h("p.made", {}, this.made), this.quote, hint, this.told,
    );
  }

  /** Act on a key, unless the element that has the focus does. @param {KeyboardEvent} event */
  onKey(event) {
    const own = event.target instanceof Element && event.target.closest("input, textarea, select, dialog");
    if (own || event.altKey || event.ctrlKey || event.metaKey || this.node.hidden) return;
    if (event.key === "ArrowRight") this.turn(1);
    else if (event.key === "ArrowLeft") this.turn(-1);
    else if (event.key === " " && !(event.target instanceof Element && event.target.closest("button, a, summary"))) this.flip();
    else return;
    event.preventDefault();
  }

  /** Show the cards that are there; the one that is read stays. @param {Card[]} cards */
  update(cards) {
    const read = this.cards[this.at];
    this.cards = cards;
    const again = read ? cards.findIndex((card) => isSame(card, read)) : 0;
    if (again < 0) this.isFlipped = false;
    this.at = again < 0 ? Math.max(0, Math.min(this.at, cards.length - 1)) : again;
    this.#show();
  }

  flip() {
    this.isFlipped = !this.isFlipped;
    this.#show();
    put(this.told, this.isFlipped ? (this.cards[this.at]?.back ?? "") : "");
  }

  /** @param {number} by */
  turn(by) {
    const to = this.at + by;
    if (to < 0 || to >= this.cards.length) return;
    this.at = to;
    this.isFlipped = false;
    this.#show();
    put(this.told, this.cards[to].front);
  }

  #show() {
    const card = this.cards[this.at];
    this.node.hidden = !card;
    if (!card) return;
    put(this.place, `Card ${count(this.at + 1)} of ${count(this.cards.length)}`);
    put(this.front, card.front);
    put(this.back, card.back);
    this.back.hidden = !this.isFlipped;
    put(this.side, this.isFlipped ? "Answer" : "Question");
    this.face.setAttribute("aria-pressed", String(this.isFlipped));
    this.made.hidden = card.source !== "template";
    put(this.quote, this.isFlipped && card.quote ? `“${card.quote}”` : "");
    this.quote.hidden = !this.quote.textContent;
    this.before.ariaDisabled = String(this.at === 0);
    this.after.ariaDisabled = String(this.at === this.cards.length - 1);
  }

  /** @param {string} text @param {number} by */
  #button(text, by) {
    return h("button.quiet", { type: "button", onclick: () => this.turn(by) }, text);
  }
}

/** @param {Card} one @param {Card} other */
function isSame(one, other) {
  return one.part === other.part && one.front === other.front && one.back === other.back;
}
