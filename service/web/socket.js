/**
 * The WebSocket of the page (/v1/ws, protocol dub5.v1): one for all its turns, opened when it is first needed.
 *
 *     converse(message) -> the messages of one turn, until its end or its error
 *
 * Throws Broken when the connection ends before; whoever follows the turn resumes it (follow.js). A connection that
 * says nothing is asked whether it is there: one that a network has lost stays open for minutes.
 */

import { Broken, parsed } from "./reply.js";

/** @typedef {{type: string, turn?: string, id?: string, seq?: number} & Record<string, any>} Message */
/** @typedef {{question_chars_max?: number}} Ready */
/**
 * Where a connection leads, and as whom.
 * @typedef {object} Door
 * @property {() => string} key what the caller is known by; another one needs another connection
 * @property {() => Promise<string>} ticket what proves the caller; "": the cookie does
 * @property {() => Promise<void>} renew begin a session, after the service has missed one
 */

const PROTOCOL = "dub5.v1";
const READY_MAX_MS = 5_000;
const LOOK_MS = 1_000;
const SILENCE_MAX_MS = 5_000; // then it is asked whether it is there
const PONG_MAX_MS = 4_000;
const NO_SESSION = 4401;

/** The messages of one turn, in order, for one reader. */
class Channel {
  constructor() {
    /** @type {Message[]} */
    this.waiting = [];
    /** @type {unknown} */
    this.failure = null;
    this.wake = () => {};
    this.hasBegun = false; // what comes before `begin` was sent to an earlier reader of this turn
  }

  /** @param {Message} message */
  add(message) {
    this.hasBegun ||= message.type === "begin";
    if (!this.hasBegun && (message.type === "delta" || message.type === "end")) return;
    this.waiting.push(message);
    this.wake();
  }

  /** @param {unknown} failure */
  fail(failure) {
    this.failure ??= failure;
    this.wake();
  }

  /** @returns {Promise<Message>} */
  async next() {
    while (this.waiting.length === 0) {
      if (this.failure) throw this.failure;
      await new Promise((wake) => (this.wake = () => wake(undefined)));
    }
    return /** @type {Message} */ (this.waiting.shift());
  }
}

class Connection {
  /** @param {string} key @param {string[]} protocols */
  constructor(key, protocols) {
    this.key = key;
    this.isOpen = true;
    this.isLeaving = false; // the service drains it: turns end here, new ones begin elsewhere
    this.retryAfterS = 0;
    this.code = 0; // of its close
    /** @type {Map<string, Channel>} */
    this.channels = new Map();
    this.heardMs = performance.now();
    this.askedMs = 0; // when it was asked whether it is there; 0: not since it was heard
    /** @type {PromiseWithResolvers<Ready>} */
    this.ready = withResolvers();
    this.ready.promise.catch(() => {}); // whoever waits for it is told
    this.socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/v1/ws`, protocols);
    this.socket.onmessage = (event) => this.#take(event.data);
    this.socket.onclose = (event) => this.#end(event.code);
    this.limit = setTimeout(() => this.drop(), READY_MAX_MS);
    this.look = setInterval(() => this.#look(), LOOK_MS);
  }

  /** @param {Message} message */
  send(message) {
    this.socket.send(JSON.stringify(message));
  }

  /** Ask whether the service is there. */
  ping() {
    if (this.askedMs || this.socket.readyState !== WebSocket.OPEN) return;
    this.askedMs = performance.now();
    this.send({ type: "ping" });
  }

  /** Give it up, without waiting for an answer to its close. */
  drop() {
    this.socket.onmessage = this.socket.onclose = null;
    this.socket.close();
    this.#end(0);
  }

  #look() {
    const now = performance.now();
    if (this.channels.size === 0) return;
    if (this.askedMs && now - this.askedMs > PONG_MAX_MS) this.drop();
    else if (now - this.heardMs > SILENCE_MAX_MS) this.ping();
  }

  /** @param {unknown} data */
  #take(data) {
    this.heardMs = performance.now();
    this.askedMs = 0;
    /** @type {Message | null} */
    const message = typeof data === "string" ? parsed(data) : null;
    if (message?.type === "ready") {
      clearTimeout(this.limit);
      this.ready.resolve({ question_chars_max: message.question_chars_max });
    } else if (message?.type === "bye") {
      this.isLeaving = true;
      this.retryAfterS = Number(message.retry_after_s) || 0;
    } else if (message) this.#deliver(message);
  }

  /** @param {Message} message */
  #deliver(message) {
    const asked = message.id === undefined ? undefined : this.channels.get(`id ${message.id}`);
    if (asked && message.type === "accepted") this.channels.set(`turn ${message.turn}`, asked);
    (asked ?? this.channels.get(`turn ${message.turn}`))?.add(message);
  }

  /** @param {number} code */
  #end(code) {
    clearTimeout(this.limit);
    clearInterval(this.look);
    this.isOpen = false;
    this.code = code;
    const broken = new Broken("The connection was lost.", this.retryAfterS);
    this.ready.reject(broken);
    for (const channel of this.channels.values()) channel.fail(broken);
    this.channels.clear();
  }
}

export class TurnSocket {
  /** @param {Door} door @param {(ready: Ready) => void} onReady */
  constructor(door, onReady) {
    this.door = door;
    this.onReady = onReady;
    /** @type {Connection | null} */
    this.connection = null;
    /** @type {Promise<Connection> | null} */
    this.opening = null;
  }

  /** Return an open connection. Throws Broken. @returns {Promise<Connection>} */
  open() {
    const known = this.connection;
    if (known?.isOpen && !known.isLeaving && known.key === this.door.key()) return Promise.resolve(known);
    this.opening ??= this.#open().finally(() => (this.opening = null));
    return this.opening;
  }

  async #open() {
    const key = this.door.key();
    const ticket = await this.door.ticket();
    const connection = new Connection(key, ticket ? [PROTOCOL, `ticket.${ticket}`] : [PROTOCOL]);
    try {
      const ready = await connection.ready.promise;
      this.connection = connection;
      this.onReady(ready);
      return connection;
    } catch (error) {
      if (connection.code === NO_SESSION) await this.door.renew();
      throw error;
    }
  }

  /**
   * Send a question or a resume, and yield the messages of its turn. Throws Broken, or the reason of `signal`.
   * @param {Message} message @param {AbortSignal} signal @returns {AsyncGenerator<Message, void>}
   */
  async *converse(message, signal) {
    const connection = await this.open();
    const channel = new Channel();
    const onAbort = () => channel.fail(signal.reason);
    signal.addEventListener("abort", onAbort);
    if (signal.aborted) onAbort();
    connection.channels.set(message.type === "ask" ? `id ${message.id}` : `turn ${message.turn}`, channel);
    try {
      if (connection.isOpen) connection.send(message);
      else channel.fail(new Broken("The connection was lost.", 0));
      for (;;) {
        const next = await channel.next();
        yield next;
        if (next.type === "end" || next.type === "error") return;
      }
    } finally {
      signal.removeEventListener("abort", onAbort);
      for (const [name, one] of connection.channels) if (one === channel) connection.channels.delete(name);
    }
  }

  /** End a turn. Return whether that could be said. @param {string} turn */
  stop(turn) {
    if (!this.connection?.isOpen) return false;
    this.connection.send({ type: "stop", turn });
    return true;
  }

  /** Ask whether the service is there, where that is in doubt. */
  ping() {
    this.connection?.ping();
  }

  close() {
    this.connection?.drop();
    this.connection = null;
  }
}

/** @template T @returns {PromiseWithResolvers<T>} */
function withResolvers() {
  /** @type {any} */
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}
