/** The box of the question: its draft, which outlives the page, and how much may still be written or asked. */

import { byId, put } from "./dom.js";
import { count } from "./labels.js";
import { Drafts } from "./outbox.js";

const KEEP_AFTER_MS = 400; // after the last key
const NEAR_SHARE = 0.1; // of the characters: from here on they are counted down
const FEW = 3; // questions
const FORGET_AFTER_MS = 60_000; // what was said of questions is not true any more

export class Composer {
  /** @param {string} conversation @param {{send: () => void, typing: () => void}} on */
  constructor(conversation, on) {
    this.box = /** @type {HTMLTextAreaElement} */ (byId("question"));
    this.drafts = new Drafts();
    this.conversation = conversation; // whose draft it is
    this.charsMax = Infinity;
    this.remaining = Infinity;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.forgetting = undefined;
    this.box.value = this.drafts.of(conversation);
    this.box.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.keep(), KEEP_AFTER_MS);
      on.typing();
      this.#showRoom();
    });
    this.box.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      on.send();
    });
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      on.send();
    });
    addEventListener("pagehide", () => this.keep());
  }

  /** Show the draft of another conversation, or take along what is being written. @param {string} conversation
   * @param {boolean} keepsText */
  open(conversation, keepsText) {
    if (conversation === this.conversation) return;
    if (keepsText) this.drafts.keep(this.conversation, "");
    else this.keep();
    this.conversation = conversation;
    if (keepsText) this.keep();
    else this.put(this.drafts.of(conversation));
  }

  /** Return the question, or "" if there is none, or too long a one. */
  text() {
    const text = this.box.value.trim();
    return lengthOf(text) > this.charsMax ? "" : text;
  }

  /** @param {string} text */
  put(text) {
    this.box.value = text;
    this.keep();
    this.#showRoom();
  }

  keep() {
    clearTimeout(this.timer);
    this.drafts.keep(this.conversation, this.box.value);
  }

  focus() {
    this.box.focus();
  }

  /** @param {number | undefined} charsMax */
  limitChars(charsMax) {
    this.charsMax = charsMax ?? Infinity;
    this.#showRoom();
  }

  /** @param {number | undefined} remaining questions that can be asked for now */
  limitQuestions(remaining) {
    this.remaining = remaining ?? Infinity;
    this.#showRoom();
    clearTimeout(this.forgetting);
    if (remaining !== undefined) this.forgetting = setTimeout(() => this.limitQuestions(undefined), FORGET_AFTER_MS);
  }

  #showRoom() {
    const left = this.charsMax - lengthOf(this.box.value.trim());
    const over = left < 0;
    put(byId("room"), [charsLabel(left, this.charsMax), questionsLabel(this.remaining)].filter(Boolean).join(" "));
    byId("room").dataset.over = String(over);
    if (over && this.box.getAttribute("aria-invalid") !== "true") put(byId("announce"), charsLabel(left, this.charsMax));
    this.box.setAttribute("aria-invalid", String(over));
  }
}

/** Say how many characters may still be written, near their bound. @param {number} left @param {number} max */
function charsLabel(left, max) {
  if (left > max * NEAR_SHARE || max === Infinity) return "";
  if (left >= 0) return `${count(left)} character${left === 1 ? "" : "s"} left.`;
  return `${count(-left)} character${left === -1 ? "" : "s"} too many: ask a shorter question, or split it.`;
}

/** Say how many questions may still be asked, if they are few. @param {number} remaining */
function questionsLabel(remaining) {
  if (remaining > FEW) return "";
  if (remaining === 0) return "That was the last question for now: the next one has to wait a little.";
  return `${remaining} more question${remaining === 1 ? "" : "s"} can be asked for now.`;
}

/** Return how many characters a text has, as the service counts them. @param {string} text */
function lengthOf(text) {
  return [...text].length;
}
