/**
 * What the browser keeps of a user: questions that the service does not have yet, and drafts. In localStorage, so that
 * they outlive the tab; bounded; without a storage they last as long as the page.
 */

/**
 * `conversation`: "" for one that is not begun yet; `chat`: then what its questions have in common.
 * @typedef {{id: string, text: string, model: string, stream: boolean, conversation: string, chat: string}} Waiting
 * @typedef {{conversation: string, text: string}} Draft
 */

const WAITING_MAX = 20;
const DRAFTS_MAX = 20;

/** A list in localStorage, which other tabs change too. @template T */
class StoredList {
  /** @param {string} key */
  constructor(key) {
    this.key = key;
    /** @type {T[]} */
    this.own = []; // where the storage is forbidden or full
    this.hasStorage = true;
  }

  /** @returns {T[]} */
  read() {
    if (!this.hasStorage) return this.own;
    try {
      const list = JSON.parse(localStorage.getItem(this.key) ?? "[]");
      return Array.isArray(list) ? list : [];
    } catch {
      return []; // forbidden, or written by another version
    }
  }

  /** @param {T[]} list */
  write(list) {
    try {
      if (list.length === 0) localStorage.removeItem(this.key);
      else localStorage.setItem(this.key, JSON.stringify(list));
      this.hasStorage = true;
    } catch {
      [this.own, this.hasStorage] = [list, false];
    }
  }
}

/** The questions that wait, in the order in which they were asked. */
export class Outbox {
  constructor() {
    /** @type {StoredList<Waiting>} */
    this.list = new StoredList("dub5.waiting");
  }

  /** @returns {Waiting[]} */
  all() {
    return this.list.read();
  }

  /** Return those of a conversation; "": of the chat that was begun last. @param {string} conversation */
  of(conversation) {
    const all = this.all().filter((one) => one.conversation === conversation);
    return conversation ? all : all.filter((one) => one.chat === all.at(-1)?.chat);
  }

  /** Return whether there was room for a question. @param {Waiting} waiting */
  add(waiting) {
    const others = this.all().filter((one) => one.id !== waiting.id);
    if (others.length >= WAITING_MAX) return false;
    this.list.write([...others, waiting]);
    return true;
  }

  /** Forget questions that are asked, or not wanted any more. @param {...string} ids */
  remove(...ids) {
    const all = this.all();
    const left = all.filter((one) => !ids.includes(one.id));
    if (left.length < all.length) this.list.write(left);
  }

  /** Note that a chat has become a conversation. @param {string} chat @param {string} conversation */
  begun(chat, conversation) {
    const all = this.all();
    if (!all.some((one) => one.chat === chat && !one.conversation)) return;
    this.list.write(all.map((one) => (one.chat === chat ? { ...one, conversation } : one)));
  }
}

/** The texts that are not sent yet, by conversation; "": of the next one. */
export class Drafts {
  constructor() {
    /** @type {StoredList<Draft>} */
    this.list = new StoredList("dub5.drafts");
  }

  /** @param {string} conversation */
  of(conversation) {
    return this.list.read().find((one) => one.conversation === conversation)?.text ?? "";
  }

  /** @param {string} conversation @param {string} text */
  keep(conversation, text) {
    if (this.of(conversation) === text) return;
    const others = this.list.read().filter((one) => one.conversation !== conversation);
    this.list.write([...others, ...(text ? [{ conversation, text }] : [])].slice(-DRAFTS_MAX));
  }
}
