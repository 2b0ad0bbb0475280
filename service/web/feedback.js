/** What a reader thinks of an answer, and reports of issues. The thumbs of a kept conversation are read again. */

import { Api, Refused } from "./api.js";
import { h, icon, put } from "./dom.js";

/** @typedef {import("./turn.js").Turn} Turn */
/** @typedef {import("./turn.js").TurnView} TurnView */
/** @typedef {{value: number | null, note: string | null}} Given */

const PATH = "/v1/feedback";
const NOTE_CHARS_MAX = 2_000;
const THANKS = "Thank you.";

export class Feedback {
  /** @param {import("./chat.js").Caller} caller */
  constructor(caller) {
    this.api = new Api(caller);
    /** @type {WeakMap<TurnView, Opinion>} */
    this.opinions = new WeakMap();
    this.conversation = "";
    /** @type {Promise<Map<string, Given>>} by turn */
    this.given = Promise.resolve(new Map());
  }

  /** Show the thumbs of an answer that has ended. @param {TurnView} view @param {string} conversation "": none is kept */
  async show(view, conversation) {
    const { turn } = view;
    if (this.opinions.has(view)) return;
    const opinion = new Opinion(turn, (said) => this.#give(turn, said));
    this.opinions.set(view, opinion);
    view.node.append(opinion.node);
    if (!conversation || !turn.turn) return;
    if (conversation !== this.conversation) {
      this.conversation = conversation;
      this.given = this.#read(conversation);
    }
    const known = (await this.given).get(turn.turn);
    if (known) opinion.show(known.value ?? 0, known.note ?? "");
  }

  /** Report an issue; return whether it was sent. */
  async report() {
    const note = /** @type {HTMLTextAreaElement} */ (h("textarea", { rows: 4, required: true, maxLength: NOTE_CHARS_MAX }));
    const problem = h("p.why", { role: "alert" });
    const send = /** @type {HTMLButtonElement} */ (h("button", { type: "submit" }, "Send"));
    const close = h("button.quiet", { type: "button", onclick: () => dialog.close() }, "Cancel");
    const form = h(
      "form", {}, h("h2", { id: "report-title" }, "Report an issue"),
      h("label", {}, "What is wrong? The operator of this service reads it.", note), problem, h("p.buttons", {}, send, " ", close),
    );
    const dialog = /** @type {HTMLDialogElement} */ (h("dialog", { "aria-labelledby": "report-title" }, form));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      send.disabled = true;
      put(problem, "");
      try {
        await this.api.json("POST", PATH, { kind: "issue", note: note.value });
        form.replaceChildren(h("p", { role: "status" }, "Sent. Thank you."), h("p.buttons", {}, close));
        put(close, "Close");
        close.focus();
      } catch (error) {
        put(problem, sayingOf(error));
        send.disabled = false;
      }
    });
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
    note.focus();
  }

  /** @param {Turn} turn @param {{value: number, note?: string}} said */
  async #give(turn, said) {
    const of = turn.turn ? { turn: turn.turn } : { request_id: turn.request };
    await this.api.json("POST", PATH, { kind: "answer", ...of, ...said });
    (await this.given).set(turn.turn, { value: said.value, note: said.note ?? null }); // the view may be made anew
  }

  /** Return what was given before; nothing where it cannot be read. @param {string} conversation */
  async #read(conversation) {
    /** @type {Map<string, Given>} */
    const given = new Map();
    try {
      for (let before = ""; ; ) {
        const page = await this.api.json("GET", `${PATH}?conversation=${conversation}${before && `&before=${before}`}`);
        for (const one of page.data) given.set(one.turn, one);
        if (!page.has_more) return given;
        before = page.data.at(-1).turn;
      }
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.conversation = ""; // the next look reads it again
      return given;
    }
  }
}

/** The thumbs of one answer, and the note to them. */
class Opinion {
  /** @param {Turn} turn @param {(said: {value: number, note?: string}) => Promise<void>} give */
  constructor(turn, give) {
    this.turn = turn;
    this.give = give;
    this.up = this.#thumb("up", 1, "Good answer");
    this.down = this.#thumb("down", -1, "Bad answer");
    this.said = h("span.said", { role: "status" });
    this.note = /** @type {HTMLInputElement} */ (
      h("input", { maxLength: NOTE_CHARS_MAX, autocomplete: "off", "aria-label": "Note on this answer", placeholder: "What makes it so? (optional)" })
    );
    this.form = h("form.opinion-note", { hidden: true }, this.note, h("button.quiet", { type: "submit" }, "Send"));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send(turn.thumb, this.note.value.trim());
    });
    this.node = h("div.opinion", { role: "group", ariaLabel: "Your opinion of this answer" }, this.up, this.down, this.said, this.form);
    this.#mark();
  }

  /** Show what was given before. @param {number} value @param {string} note */
  show(value, note) {
    this.turn.thumb = value;
    this.note.value = note;
    this.#mark();
  }

  /** @param {string} mark @param {number} value @param {string} label */
  #thumb(mark, value, label) {
    return h("button.tool", { type: "button", "aria-label": label, title: label, onclick: () => this.#again(value) }, icon(mark));
  }

  /** Give a thumb; the note to the other one is none to this one. @param {number} value */
  #again(value) {
    if (value !== this.turn.thumb) this.note.value = "";
    this.#send(value, this.note.value.trim());
  }

  /** @param {number} value @param {string} note */
  async #send(value, note) {
    const before = this.turn.thumb;
    this.turn.thumb = value;
    this.#mark();
    put(this.said, "");
    try {
      await this.give(note ? { value, note } : { value });
      put(this.said, THANKS);
      this.form.hidden = note !== "";
    } catch (error) {
      this.turn.thumb = before;
      this.#mark();
      put(this.said, `Not sent. ${sayingOf(error)}`);
    }
  }

  #mark() {
    this.up.setAttribute("aria-pressed", String(this.turn.thumb === 1));
    this.down.setAttribute("aria-pressed", String(this.turn.thumb === -1));
  }
}

/** @param {unknown} error */
function sayingOf(error) {
  if (!(error instanceof Refused)) throw error;
  return `${error.problem.message} ${error.problem.suggestion}`.trim();
}
