/**
 * The conversations of this browser: their list, and which one is shown. The address has its id (#c/<id>), so that
 * a reload, a bookmark and the back button find it again. On a narrow screen the list is a drawer.
 */

import { Refused } from "./api.js";
import { Delivery } from "./delivery.js";
import { byId, h, icon, onChange, put } from "./dom.js";
import { aboutLabel, titleLabel, whenLabel } from "./labels.js";
import { isElsewhere } from "./places.js";

/** @typedef {import("./conversations.js").Conversations} Conversations */
/** @typedef {import("./conversations.js").Conversation} Conversation */
/** @typedef {import("./conversations.js").KeptTurn} KeptTurn */
/** @typedef {import("./follow.js").Carriers} Carriers */
/** @typedef {import("./outbox.js").Waiting} Waiting */
/** @typedef {import("./turn.js").Turn} Turn */
/** @typedef {import("./ask.js").Step} Step */
/**
 * What the sidebar tells the chat.
 * @typedef {object} Shown
 * @property {(turns: KeptTurn[], model: string) => void} showConversation
 * @property {(turns: KeptTurn[]) => void} showEarlier
 * @property {(waiting: Waiting[]) => void} showWaiting
 * @property {(conversation: string, keepsText: boolean) => void} showDraft
 * @property {(conversation: string, text: string) => void} keepDraft of a question that could not be asked
 * @property {() => void} clear
 * @property {(text: string) => void} note
 * @property {() => boolean} isAnswering
 */

const RETRY_MIN_S = 2;
const LOST = "Your conversations cannot be reached at the moment. The chat works, but may not be saved.";
const GONE = "This conversation is not there any more. Your next question begins a new one.";
const NO_COOKIE = "This browser keeps no cookie of this page, so conversations end with the tab.";

/** Return the id of the conversation that the address names, or "". */
export function addressed() {
  return /^#c\/([0-9A-HJKMNP-TV-Z]{26})$/.exec(location.hash)?.[1] ?? "";
}

/** Show no conversation in the address. @param {boolean} [isGone] else the back button shows it again */
export function leaveAddress(isGone = false) {
  const here = location.pathname + location.search;
  if (addressed()) history[isGone ? "replaceState" : "pushState"](null, "", here);
}

export class Sidebar {
  /** @param {Conversations} api @param {Carriers} carriers @param {Shown} chat @param {() => void} onNoSession */
  constructor(api, carriers, chat, onNoSession) {
    this.api = api;
    this.carriers = carriers;
    this.chat = chat;
    this.onNoSession = onNoSession;
    this.delivery = new Delivery(carriers, (one) => this.#isShown(one), (one) => this.#onUnasked(one));
    this.current = "";
    this.begins = ""; // what the questions of a conversation that is not begun yet have in common
    this.oldest = ""; // the id of the oldest turn that is shown
    /** @type {Conversation[]} */
    this.known = [];
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.showList = onChange((/** @type {[Conversation[], string]} */ [list, current]) => this.#build(list, current));
    this.events = new AbortController();
  }

  start() {
    byId("history").hidden = byId("show-history").hidden = false;
    const { signal } = this.events;
    addEventListener("hashchange", () => this.#onAddress(), { signal });
    byId("to-documents").addEventListener("click", closeDrawer, { signal });
    byId("more-history").addEventListener("click", () => this.#more(), { signal });
    byId("earlier").addEventListener("click", () => this.#earlier(), { signal });
    byId("history-again").addEventListener("click", () => this.refresh(), { signal });
    matchMedia("(min-width: 1280px)").addEventListener("change", () => closeDrawer(), { signal });
    this.refresh();
    if (addressed()) this.open(addressed());
    else this.#showWaiting();
  }

  stop() {
    clearTimeout(this.timer);
    this.delivery.stop();
    this.carriers.socket.close();
    this.events.abort();
    closeDrawer();
    byId("history").hidden = byId("show-history").hidden = byId("earlier").hidden = true;
  }

  /** Read the list again: after each change, and until the service can say it. */
  async refresh() {
    clearTimeout(this.timer);
    try {
      const { data, has_more } = await this.api.list("");
      this.known = data;
      byId("more-history").hidden = !has_more;
      this.#say("");
      if (this.known.length === 0) this.#say("Each conversation is kept, and listed here.");
    } catch (error) {
      this.#onRefused(error);
    }
    this.showList([this.known, this.current]);
  }

  /** Show a conversation with its newest turns. @param {string} id */
  async open(id) {
    this.#goTo(id);
    closeDrawer();
    try {
      const { turns, has_more, model, document } = await this.api.open(id, "");
      if (this.current !== id) return; // another one was chosen
      this.oldest = turns[0]?.id ?? "";
      byId("earlier").hidden = !has_more;
      this.chat.note("");
      this.delivery.outbox.remove(...turns.map((turn) => turn.asked_as));
      if (this.chat.isAnswering()) this.chat.showEarlier(turns); // a question was asked meanwhile
      else this.chat.showConversation(turns, model);
      this.#showWaiting();
      if (document) this.#sayAbout(id, document);
    } catch (error) {
      if (this.current !== id) return;
      if (isGone(error)) return this.leave(GONE);
      this.chat.note(sayingOf(error));
      this.#showWaiting();
    }
  }

  /** Say which document a conversation is about. @param {string} id @param {string} document */
  async #sayAbout(id, document) {
    const said = await this.api.nameOf(document).then(aboutLabel, sayingOf);
    if (this.current === id && !this.chat.isAnswering()) this.chat.note(said, true);
  }

  /** Begin anew: the next question makes a conversation. @param {string} [note] */
  leave(note = "") {
    this.oldest = "";
    byId("earlier").hidden = true;
    leaveAddress(Boolean(note));
    this.chat.note(note);
    this.#goTo("", Boolean(note));
    this.bringOthers();
  }

  /** Keep a question until the service has it. Return whether there was room. @param {Turn} turn */
  keep({ id, question: text, stream, model }) {
    const { current: conversation } = this;
    if (!conversation) this.begins ||= id;
    const chat = conversation ? "" : this.begins;
    return this.delivery.outbox.add({ id, text, stream, model, conversation, chat });
  }

  /** Do not ask a question. @param {string} id */
  forget(id) {
    this.delivery.outbox.remove(id);
  }

  /** Ask what waits elsewhere. */
  async bringOthers() {
    const hasBrought = await this.delivery.bringOthers();
    if (hasBrought && !this.events.signal.aborted) await this.refresh();
  }

  /** Connect before the first question is written: it says how long one may be. */
  connect() {
    this.carriers.socket.open().catch(() => {}); // it is tried again with the question
  }

  /** Ask in the conversation that is shown, or begin one. @param {Turn} turn @param {AbortSignal} signal
   * @returns {AsyncGenerator<Step, void>} */
  async *ask({ id, turn, question: text, stream, model, state }, signal) {
    this.chat.note("");
    const asked = { id, turn, text, stream, model, conversation: this.current };
    for await (const step of this.delivery.ask(asked, this.begins, state === "queued", signal)) {
      if (step.kind === "accepted" && !this.current && !signal.aborted) {
        if (!isElsewhere()) history.pushState(null, "", `#c/${step.conversation}`);
        this.#goTo(step.conversation, true);
      }
      if (step.kind === "failed" && step.problem.code === "conversation_not_found") this.leave(GONE);
      yield step;
    }
    if (!this.events.signal.aborted) this.refresh();
  }

  /** Note which conversation is shown. @param {string} id @param {boolean} [keepsText] what is being written, too */
  #goTo(id, keepsText = false) {
    this.current = id;
    this.begins = "";
    this.chat.showDraft(id, keepsText);
    this.showList([this.known, id]);
  }

  /** Show and ask the questions of this conversation that wait. */
  #showWaiting() {
    const waiting = this.delivery.outbox.of(this.current);
    this.begins = waiting[0]?.chat ?? "";
    this.delivery.leaveShown();
    this.chat.showWaiting(waiting);
  }

  /** @param {Waiting} one */
  #isShown({ conversation, chat }) {
    return conversation ? conversation === this.current : !this.current && chat === this.begins;
  }

  /** @param {Waiting} one */
  #onUnasked({ conversation, text }) {
    this.chat.keepDraft(conversation, text);
  }

  #onAddress() {
    const id = addressed();
    if (isElsewhere() || id === this.current) return;
    if (location.hash && !id) {
      history.replaceState(null, "", this.current ? `#c/${this.current}` : location.pathname); // a skip link
      return;
    }
    this.chat.clear();
    if (id) this.open(id);
    else this.leave();
  }

  async #earlier() {
    const id = this.current;
    try {
      const { turns, has_more } = await this.api.open(id, this.oldest);
      if (this.current !== id) return;
      this.oldest = turns[0]?.id ?? this.oldest;
      byId("earlier").hidden = !has_more;
      this.chat.showEarlier(turns);
    } catch (error) {
      this.chat.note(sayingOf(error));
    }
  }

  async #more() {
    try {
      const { data, has_more } = await this.api.list(this.known.at(-1)?.id ?? "");
      /** @type {Map<string, Conversation>} */
      const all = new Map();
      for (const one of [...this.known, ...data]) all.set(one.id, one); // what was used meanwhile comes again
      this.known = [...all.values()].sort((a, b) => b.used_at - a.used_at || (a.id < b.id ? 1 : -1));
      byId("more-history").hidden = !has_more;
      this.showList([this.known, this.current]);
    } catch (error) {
      this.#onRefused(error);
    }
  }

  /** @param {Conversation[]} list @param {string} current */
  #build(list, current) {
    byId("conversations").replaceChildren(...list.map((one) => this.#row(one, one.id === current)));
  }

  /** @param {Conversation} one @param {boolean} isCurrent */
  #row(one, isCurrent) {
    const title = titleLabel(one.title);
    const link = h("a", { href: `#c/${one.id}` }, h("span.title", {}, title), h("time", {}, whenLabel(one.used_at)));
    if (isCurrent) link.setAttribute("aria-current", "page");
    link.addEventListener("click", closeDrawer);
    const rename = tool(`Rename “${title}”`, () => this.#rename(one), icon("rename"));
    return h("li", {}, link, rename, tool(`Delete “${title}”`, () => this.#remove(one), icon("delete")));
  }

  /** @param {Conversation} one */
  async #rename(one) {
    const field = /** @type {HTMLInputElement} */ (byId("new-title"));
    field.value = one.title;
    if (!(await confirmed(byId("rename")))) return;
    await this.#change(() => this.api.rename(one.id, field.value.trim()));
  }

  /** @param {Conversation} one */
  async #remove(one) {
    put(byId("delete-title"), titleLabel(one.title));
    if (!(await confirmed(byId("delete")))) return;
    const done = await this.#change(() => this.api.remove(one.id));
    if (!done || one.id !== this.current) return;
    this.chat.clear();
    this.leave();
  }

  /** Change something, and say if it cannot be. @param {() => Promise<unknown>} change @returns {Promise<boolean>} */
  async #change(change) {
    try {
      await change();
    } catch (error) {
      if (!isGone(error)) {
        this.#onRefused(error);
        return false;
      }
    }
    await this.refresh();
    return true;
  }

  /** @param {unknown} error */
  #onRefused(error) {
    if (error instanceof Refused && error.problem.code === "session_required") {
      this.onNoSession();
      this.chat.note(NO_COOKIE);
      return;
    }
    this.#say(sayingOf(error), true);
    if (!(error instanceof Refused) || ![0, 503].includes(error.status)) return;
    const afterS = Math.max(RETRY_MIN_S, error.problem.retryAfterS ?? 0);
    this.timer = setTimeout(() => this.refresh(), afterS * 1000);
  }

  /** @param {string} text @param {boolean} [again] */
  #say(text, again = false) {
    put(byId("history-note"), text);
    byId("history-again").hidden = !again;
  }
}

/** @param {string} label @param {() => void} onclick @param {Node} mark */
function tool(label, onclick, mark) {
  return h("button.tool", { type: "button", "aria-label": label, title: label, onclick }, mark);
}

/** @param {unknown} error */
function isGone(error) {
  return error instanceof Refused && error.status === 404;
}

/** Say what was in the way. @param {unknown} error */
function sayingOf(error) {
  if (!(error instanceof Refused)) throw error;
  if (error.status === 503) return LOST;
  return `${error.problem.message} ${error.problem.suggestion}`;
}

/** Close the list where it is a drawer. */
function closeDrawer() {
  const drawer = byId("history");
  if (drawer.matches(":popover-open")) drawer.hidePopover();
}

/** Show a dialog; return whether it was confirmed. @param {HTMLElement} element @returns {Promise<boolean>} */
function confirmed(element) {
  const dialog = /** @type {HTMLDialogElement} */ (element);
  dialog.returnValue = "";
  return new Promise((resolve) => {
    // The event comes late: the dialog may be open again by then, for another question.
    dialog.onclose = () => dialog.open || resolve(dialog.returnValue === "yes");
    dialog.showModal();
  });
}
