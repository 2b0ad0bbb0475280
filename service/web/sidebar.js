/**
 * The conversations of this browser: their list, and which one is shown. The address has its id (#c/<id>), so that
 * a reload, a bookmark and the back button find it again. On a narrow screen the list is a drawer.
 */

import { Refused } from "./conversations.js";
import { byId, h, icon, onChange, put } from "./dom.js";
import { titleLabel, whenLabel } from "./labels.js";

/** @typedef {import("./conversations.js").Conversations} Conversations */
/** @typedef {import("./conversations.js").Conversation} Conversation */
/** @typedef {import("./conversations.js").KeptTurn} KeptTurn */
/** @typedef {import("./conversations.js").Asked} Asked */
/** @typedef {import("./ask.js").Step} Step */
/**
 * What the sidebar tells the chat.
 * @typedef {object} Shown
 * @property {(turns: KeptTurn[], model: string) => void} showConversation
 * @property {(turns: KeptTurn[]) => void} showEarlier
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

export class Sidebar {
  /** @param {Conversations} api @param {Shown} chat @param {() => void} onNoSession */
  constructor(api, chat, onNoSession) {
    this.api = api;
    this.chat = chat;
    this.onNoSession = onNoSession;
    this.current = "";
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
    byId("more-history").addEventListener("click", () => this.#more(), { signal });
    byId("earlier").addEventListener("click", () => this.#earlier(), { signal });
    byId("history-again").addEventListener("click", () => this.refresh(), { signal });
    matchMedia("(min-width: 1280px)").addEventListener("change", () => closeDrawer(), { signal });
    this.refresh();
    if (addressed()) this.open(addressed());
  }

  stop() {
    clearTimeout(this.timer);
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
    this.current = id;
    this.showList([this.known, id]);
    closeDrawer();
    try {
      const { turns, has_more, model } = await this.api.open(id, "");
      if (this.current !== id || this.chat.isAnswering()) return; // another one was chosen, or a question asked
      this.oldest = turns[0]?.id ?? "";
      byId("earlier").hidden = !has_more;
      this.chat.note("");
      this.chat.showConversation(turns, model);
    } catch (error) {
      if (this.current !== id) return;
      if (isGone(error)) this.leave(GONE);
      else this.chat.note(sayingOf(error));
    }
  }

  /** Begin anew: the next question makes a conversation. @param {string} [note] */
  leave(note = "") {
    this.current = this.oldest = "";
    byId("earlier").hidden = true;
    const here = location.pathname + location.search;
    if (addressed()) history[note ? "replaceState" : "pushState"](null, "", here); // back shows it again
    this.chat.note(note);
    this.showList([this.known, ""]);
  }

  /** Ask in the conversation that is shown, or begin one. @param {Asked} asked @param {AbortSignal} signal
   * @returns {AsyncGenerator<Step, void>} */
  async *ask(asked, signal) {
    this.chat.note("");
    if (!this.current) {
      try {
        const { id } = await this.api.begin(asked.model, signal);
        signal.throwIfAborted(); // another conversation was chosen meanwhile
        this.current = id;
        history.pushState(null, "", `#c/${id}`);
      } catch (error) {
        if (signal.aborted) yield { kind: "stopped" };
        else if (error instanceof Refused) yield { kind: "failed", problem: error.problem, status: error.status };
        else throw error;
        return;
      }
    }
    for await (const step of this.api.ask(this.current, asked, signal)) {
      if (step.kind === "failed" && step.problem.code === "conversation_not_found") this.leave(GONE);
      yield step;
    }
    this.refresh();
  }

  #onAddress() {
    const id = addressed();
    if (id === this.current) return;
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
