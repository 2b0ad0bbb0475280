/** The documents and decks of the caller: adding files, making cards, deleting. */

import { Refused } from "./api.js";
import { askNumber, confirmDelete } from "./dialogs.js";
import { hasEnded, sayingOf } from "./documents.js";
import { h, icon, onChange, put } from "./dom.js";
import { count, whenLabel } from "./labels.js";

/** @typedef {import("./documents.js").Document} Document */
/** @typedef {import("./documents.js").Deck} Deck */

const KINDS = new Map([["pdf", "PDF"], ["docx", "Word"], ["md", "Markdown"], ["txt", "Text"]]);
const CARDS_USUAL = 40;
const CARDS_MAX = 200;
const AGAIN_AFTER_MS = 4_000; // where a deck is being made, or the service was not there

/** A list that is read from the service: its rows, what to say of it, and what to do about it. */
class Listing {
  /**
   * @param {string} title @param {string} none what is said of an empty one
   * @param {(before: string) => Promise<{data: any[], has_more: boolean}>} read @param {(one: any) => Node} row
   */
  constructor(title, none, read, row) {
    this.none = none;
    this.read = read;
    /** @type {any[]} */
    this.known = [];
    this.heading = h("h3", { tabIndex: -1 }, title);
    this.list = h("ul.things", {}, h("li.thing.ghost", {}, h("span.bone"), h("span.bone.short")));
    this.list.setAttribute("aria-busy", "true");
    this.note = h("p.hint", { role: "status" });
    this.again = h("button.quiet", { type: "button", hidden: true, onclick: () => this.refresh() }, "Try again");
    this.more = h("button.quiet", { type: "button", hidden: true, onclick: () => this.#more() }, "Show more");
    this.node = h("div.listing", {}, this.heading, this.list, this.note, this.again, this.more);
    this.build = onChange((/** @type {any[]} */ all) => this.list.replaceChildren(...all.map(row)));
  }

  /** Read it anew, as far as it is shown. Return whether it could be read. */
  async refresh() {
    try {
      const { data, has_more } = await this.read("");
      const rest = this.known.length > data.length && has_more ? this.known.slice(data.length) : [];
      this.#show([...data, ...rest.filter((one) => !data.some(({ id }) => id === one.id))], has_more);
      return true;
    } catch (error) {
      this.node.hidden = error instanceof Refused && error.status === 404; // the service does not have it
      if (!this.node.hidden) this.say(sayingOf(error), true);
      return this.node.hidden;
    } finally {
      this.list.setAttribute("aria-busy", "false");
    }
  }

  async #more() {
    try {
      const { data, has_more } = await this.read(this.known.at(-1)?.id ?? "");
      const known = new Set(this.known.map((one) => one.id));
      this.#show([...this.known, ...data.filter((one) => !known.has(one.id))], has_more);
    } catch (error) {
      this.say(sayingOf(error), true);
    }
  }

  /** @param {any[]} all @param {boolean} hasMore */
  #show(all, hasMore) {
    this.known = all;
    this.build(all);
    this.more.hidden = !hasMore;
    this.say(all.length ? "" : this.none);
  }

  /** @param {string} text @param {boolean} [again] whether it can be tried again */
  say(text, again = false) {
    if (again) this.list.querySelector(".ghost")?.remove();
    put(this.note, text);
    this.again.hidden = !again;
  }
}

export class Library {
  title = "Documents";

  /** @param {import("./documents.js").Documents} api @param {import("./uploads.js").Uploads} uploads */
  constructor(api, uploads) {
    this.api = api;
    this.heading = h("h2", { tabIndex: -1 }, "Documents");
    this.documents = new Listing(
      "Your documents", "None yet. Add one to make flashcards from it, or to ask about it.",
      (before) => api.list(before), (one) => this.#document(one),
    );
    this.decks = new Listing(
      "Your flashcards", "None yet. “Make cards” at a document begins a deck.",
      (before) => api.decks(before), (one) => this.#deck(one),
    );
    this.node = h(
      "div.library", {},
      h(
        "header.part", {}, this.heading, h("p", {}, "Only you see them. Cards and answers quote the text that they are from."),
        h("a.back", { href: "#question" }, "Back to the chat"),
      ),
      uploads.node, this.documents.node, this.decks.node,
    );
    uploads.listen(this.node);
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.isLeft = false;
  }

  start() {
    this.#refresh(true);
  }

  stop() {
    this.isLeft = true;
    clearTimeout(this.timer);
  }

  /** @param {boolean} both */
  async #refresh(both) {
    const read = await Promise.all([both ? this.documents.refresh() : true, this.decks.refresh()]);
    if (this.isLeft || document.hidden) return;
    const isGoing = this.decks.known.some((deck) => !hasEnded(deck.job));
    if (isGoing || !read.every(Boolean)) this.timer = setTimeout(() => this.#refresh(!read[0]), AGAIN_AFTER_MS);
  }

  /** @param {Document} one */
  #document(one) {
    const { name, kind, pages, tokens, flags, created_at } = one;
    const facts = [KINDS.get(kind) ?? kind, `${count(pages)} page${pages === 1 ? "" : "s"}`, `${count(tokens)} tokens`, whenLabel(created_at)];
    const flagged = "Parts of its text read like instructions to a model. They are treated as text only.";
    return h(
      "li.thing", {},
      h("strong.name", {}, name), h("p.facts", {}, facts.join(" · ")),
      flags.length > 0 && h("p.flag", {}, icon("degraded"), flagged),
      h(
        "p.buttons", {},
        action(`Make cards from “${name}”`, "Make cards", () => this.#make(one)),
        action(`Ask about this document: “${name}”`, "Ask about this document", () => this.#ask(one)),
        deleting(name, () => this.#remove(one)),
      ),
    );
  }

  /** @param {Deck} deck */
  #deck(deck) {
    const { id, title, job, created_at } = deck;
    const state = hasEnded(job) ? (job?.state === "failed" ? "not finished" : "") : `being made: part ${job?.done} of ${job?.steps} is done`;
    return h(
      "li.thing", {},
      h("a.name", { href: `#decks/${id}` }, title), h("p.facts", {}, [state, whenLabel(created_at)].filter(Boolean).join(" · ")),
      h("p.buttons", {}, deleting(title, () => this.#removeDeck(deck))),
    );
  }

  /** @param {Document} one */
  async #make(one) {
    const cards = await askNumber(`Make cards from “${one.name}”`, "How many cards, at most?", {
      usual: CARDS_USUAL, max: CARDS_MAX, yes: "Make them", hint: `From 1 to ${CARDS_MAX}. You can read the first ones while the others are made.`,
    });
    if (cards === null) return;
    await this.#act(this.documents, async () => {
      const { id } = await this.api.make(one.id, cards);
      location.hash = `#decks/${id}`;
    });
  }

  /** @param {Document} one */
  async #ask(one) {
    await this.#act(this.documents, async () => {
      location.hash = `#c/${await this.api.askAbout(one.id)}`;
    });
  }

  /** @param {Document} one */
  async #remove(one) {
    const lost = "Its text is gone for good. Decks that were made from it stay.";
    if (!(await confirmDelete("Delete this document?", one.name, lost))) return;
    await this.#gone(this.documents, () => this.api.remove(one.id));
  }

  /** @param {Deck} deck */
  async #removeDeck(deck) {
    if (!(await confirmDelete("Delete these flashcards?", deck.title, "All its cards are gone for good."))) return;
    await this.#gone(this.decks, () => this.api.removeDeck(deck.id));
  }

  /** Delete one of a list, unless it is gone already. @param {Listing} listing @param {() => Promise<void>} remove */
  async #gone(listing, remove) {
    await this.#act(listing, async () => {
      await remove().catch((error) => {
        if (!(error instanceof Refused && error.status === 404)) throw error;
      });
      await listing.refresh();
      listing.heading.focus();
    });
  }

  /** Do something with one of a list, once at a time, and say if it cannot be.
   * @param {Listing} listing @param {() => Promise<void>} act */
  async #act(listing, act) {
    if (listing.node.ariaBusy === "true") return;
    listing.node.ariaBusy = "true";
    try {
      await act();
    } catch (error) {
      listing.say(sayingOf(error));
    } finally {
      listing.node.ariaBusy = "false";
    }
  }
}

/** @param {string} label @param {string} text @param {() => void} onclick */
function action(label, text, onclick) {
  return h("button.quiet", { type: "button", "aria-label": label, onclick }, text);
}

/** @param {string} name @param {() => void} onclick */
function deleting(name, onclick) {
  return h("button.tool", { type: "button", "aria-label": `Delete “${name}”`, title: "Delete", onclick }, icon("delete"));
}
