/** A deck: how far it is made, its cards as they come, and what can be done with it. */

import { Refused } from "./api.js";
import { confirmDelete } from "./dialogs.js";
import { hasEnded, sayingOf } from "./documents.js";
import { h, icon, onChange, put } from "./dom.js";
import { Flashcards, TEMPLATE } from "./flashcards.js";
import { pause, waitS } from "./follow.js";
import { count } from "./labels.js";

/** @typedef {import("./documents.js").Deck} Deck */
/** @typedef {import("./documents.js").Job} Job */
/** @typedef {import("./documents.js").Card} Card */

const LOST = "The connection is lost. The deck goes on by itself once the service is back.";
const WAITS = "If the service was interrupted, this part goes on within half a minute.";
const NONE_YET = "No model has made cards of these parts this time, either. Wait a minute, then ask again.";
const GONE = "These flashcards are not there any more.";

export class DeckView {
  title = "Flashcards";

  /** @param {import("./documents.js").Documents} api @param {string} id */
  constructor(api, id) {
    this.api = api;
    this.id = id;
    this.events = new AbortController();
    /** @type {Deck | null} */
    this.deck = null;
    /** @type {number | undefined} how many parts were done when the connection was lost */
    this.doneBefore = undefined;
    this.heading = h("h2", { tabIndex: -1 }, this.title);
    this.facts = h("p", {}, "Loading…");
    this.bar = /** @type {HTMLProgressElement} */ (h("progress", { hidden: true, max: 1, ariaLabel: "Cards being made" }));
    this.state = h("p.state", { role: "status" });
    this.halt = this.#button("Stop", () => this.#act(() => this.#halt()));
    this.templates = h("span");
    this.again = this.#button("", () => this.#act(() => this.#retry()));
    this.made = h("div.flag", { hidden: true }, icon("fallback"), this.templates, this.again);
    this.problem = h("p.problem", { role: "alert" });
    this.cards = new Flashcards();
    this.all = h("ol.all");
    this.list = h("details", { hidden: true }, h("summary", {}, "All cards"), this.all);
    this.downloads = [
      this.#button("Download as CSV", () => this.#act(() => this.#download("cards.csv"))),
      this.#button("Download for Anki", () => this.#act(() => this.#download("cards.txt"))),
    ];
    this.files = h(
      "p.buttons", { hidden: true }, ...this.downloads,
      h("button.danger", { type: "button", onclick: () => this.#remove() }, "Delete"),
    );
    this.node = h(
      "div.deck", {},
      h("header.part", {}, this.heading, this.facts, h("a.back", { href: "#documents" }, "All documents")),
      h("div.making", {}, this.bar, this.state, this.halt), this.problem,
      this.cards.node, this.made, this.files, this.list,
    );
    this.build = onChange((/** @type {Card[]} */ cards) => this.all.replaceChildren(...cards.map(row)));
    this.node.addEventListener("keydown", (event) => this.cards.onKey(event));
  }

  async start() {
    await this.#read();
    await this.#follow();
  }

  stop() {
    this.events.abort();
  }

  /** Follow the job to its end. */
  async #follow() {
    const job = this.deck?.job;
    if (!job || hasEnded(job)) return;
    try {
      for await (const now of this.api.watch(job.id, this.events.signal)) {
        if (!now) {
          put(this.state, LOST);
          this.doneBefore = this.deck?.job?.done;
        } else {
          if (!hasEnded(now)) this.#progress(now);
          await this.#read();
        }
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  /** Read the deck as it is now; again and again while the service cannot say it. */
  async #read() {
    const { signal } = this.events;
    for (let attempt = 0; !signal.aborted; attempt += 1) {
      try {
        const deck = await this.api.deck(this.id);
        if (signal.aborted) return;
        this.deck = deck;
        put(this.problem, "");
        return this.#show(deck);
      } catch (error) {
        this.#fail(error);
        if (error instanceof Refused && error.status === 404) return;
        await pause(waitS(attempt, error instanceof Refused ? (error.problem.retryAfterS ?? 0) : 0), signal);
      }
    }
  }

  /** @param {Deck} deck */
  #show(deck) {
    const { title, job, parts, template_parts } = deck;
    const cards = (deck.cards ?? []).slice().sort((a, b) => a.number - b.number);
    put(this.heading, title);
    document.title = document.title.replace(this.title, title);
    this.title = title;
    put(this.facts, `${count(cards.length)} card${cards.length === 1 ? "" : "s"}, each with the sentence that it is from.`);
    this.#progress(job);
    const isOver = hasEnded(job);
    const isUnfinished = job?.state === "failed";
    this.made.hidden = template_parts === 0 && !isUnfinished;
    put(this.templates, [
      template_parts > 0 && `The cards of ${count(template_parts)} of ${count(parts)} parts were ${TEMPLATE}.`,
      isUnfinished && "Some parts have no cards yet.",
    ].filter(Boolean).join(" "));
    put(this.again, isUnfinished ? "Go on" : "Ask again for these");
    this.again.hidden = !isOver;
    this.files.hidden = false;
    for (const button of this.downloads) button.hidden = cards.length === 0;
    this.list.hidden = cards.length === 0;
    this.build(cards);
    this.cards.update(cards);
  }

  /** @param {Job | null} job */
  #progress(job) {
    const isOver = hasEnded(job);
    this.bar.hidden = isOver;
    this.halt.hidden = isOver;
    if (!job) return put(this.state, "");
    this.bar.max = job.steps;
    this.bar.value = job.done;
    const part = `Making cards: part ${count(Math.min(job.done + 1, job.steps))} of ${count(job.steps)}`;
    const said = { ready: job.done ? part : "Waiting to begin…", running: job.done === this.doneBefore ? `${part}. ${WAITS}` : part, done: "All parts are done.", failed: `${job.problem ?? ""} The cards that are there stay.` };
    put(this.state, said[job.state]);
  }

  async #halt() {
    const { deck } = this;
    if (deck?.job) await this.api.stop(deck.job.id);
    await this.#read();
  }

  async #retry() {
    this.deck = await this.api.retry(this.id);
    await this.#read();
    this.heading.focus();
    await this.#follow();
    if (this.deck?.job?.state === "done" && this.deck.template_parts > 0) this.#say(NONE_YET);
  }

  /** @param {"cards.csv" | "cards.txt"} name */
  async #download(name) {
    const url = URL.createObjectURL(await this.api.file(this.id, name));
    const link = h("a", { href: url, download: `${this.deck?.title ?? "cards"}${name.slice(name.lastIndexOf("."))}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }

  async #remove() {
    if (!(await confirmDelete("Delete these flashcards?", this.title, "All its cards are gone for good."))) return;
    await this.#act(async () => {
      await this.api.removeDeck(this.id).catch((error) => {
        if (!(error instanceof Refused && error.status === 404)) throw error;
      });
      location.hash = "#documents";
    });
  }

  /** Do something, and say if it cannot be. @param {() => Promise<void>} act */
  async #act(act) {
    put(this.problem, "");
    try {
      await act();
    } catch (error) {
      this.#fail(error);
    }
  }

  /** Say what was in the way, unless another place is shown. @param {string} text */
  #say(text) {
    if (!this.events.signal.aborted) put(this.problem, text);
  }

  /** @param {unknown} error */
  #fail(error) {
    if (this.events.signal.aborted) return;
    const isGone = error instanceof Refused && error.status === 404;
    put(this.problem, isGone ? GONE : sayingOf(error));
    if (isGone) this.halt.hidden = this.bar.hidden = true;
    if (!this.deck) put(this.facts, isGone ? "" : "Not loaded yet: it is tried again by itself.");
  }

  /** @param {string} text @param {() => void} onclick */
  #button(text, onclick) {
    return h("button.quiet", { type: "button", hidden: true, onclick }, text);
  }
}

/** @param {Card} card */
function row({ front, back, source }) {
  return h("li", {}, h("p", {}, h("strong", {}, front)), h("p", {}, back), source === "template" && h("p.hint", {}, TEMPLATE));
}
