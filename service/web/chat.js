/**
 * The chat view: questions, their storage in the tab, and announcements for screen readers.
 *
 * Where the service keeps conversations, the sidebar asks, and says which one is shown; questions that the service
 * does not have yet wait in the outbox. Else the history is sent with each question, and ends with the tab.
 */

import { beginSession } from "./api.js";
import { ask, messagesOf } from "./ask.js";
import { Composer } from "./composer.js";
import { Conversations } from "./conversations.js";
import { byId, h, put } from "./dom.js";
import { Carriers, LEFT } from "./follow.js";
import { ModelPicker } from "./models.js";
import { noteRequest } from "./offline.js";
import { Sidebar, addressed, leaveAddress } from "./sidebar.js";
import { TurnSocket } from "./socket.js";
import { againInS, announcementOf, isAtFault, isOpen, isUnknown, newTurn, turnOf } from "./turn.js";
import { TurnList } from "./turnlist.js";

/** @typedef {import("./turn.js").Turn} Turn */
/** @typedef {import("./conversations.js").KeptTurn} KeptTurn */
/** @typedef {import("./outbox.js").Waiting} Waiting */
/** @typedef {import("./models.js").Route} Route */
/** @typedef {{headers(): Record<string, string>, unauthorized(sent: Record<string, string>): void}} Caller */

const STORAGE_KEY = "dub5.chat"; // in sessionStorage, which ends with the tab

/** @param {Caller} caller @param {(list: {documents?: import("./places.js").Offer}) => void} onModels */
export function startChat(caller, onModels) {
  const chat = new Chat(caller, onModels);
  chat.listen();
  chat.loadModels();
  return chat;
}

class Chat {
  /** @param {Caller} caller @param {(list: {documents?: import("./places.js").Offer}) => void} onModels */
  constructor(caller, onModels) {
    this.caller = caller;
    this.onModels = onModels;
    this.composer = new Composer(addressed(), { send: () => this.send(), typing: () => this.sidebar?.connect() });
    this.models = new ModelPicker();
    this.stream = /** @type {HTMLInputElement} */ (byId("stream"));
    this.repeatable = /** @type {HTMLInputElement} */ (byId("repeatable"));
    this.list = new TurnList({
      again: (turn) => this.again(turn), cancel: (turn) => this.cancel(turn), extend: (view) => this.extend(view),
    });
    /** @type {AbortController | null} */
    this.running = null;
    /** @type {Turn | null} */
    this.asked = null; // what is running
    this.loading = false;
    /** @type {import("./feedback.js").Feedback | null} */
    this.opinions = null;
    /** @type {Sidebar | null} */
    this.sidebar = null; // where the service keeps conversations
    this.restore();
  }

  listen() {
    byId("chat").addEventListener("keydown", (event) => event.key === "Escape" && this.stop());
    byId("stop").addEventListener("click", () => this.stop());
    byId("new-chat").addEventListener("click", () => {
      this.clear();
      if (this.sidebar) this.sidebar.leave();
      else {
        leaveAddress(); // the list of models may still come, and conversations with it
        this.showDraft("", false);
      }
      this.composer.focus();
    });
    byId("report").addEventListener("click", async () => {
      try {
        (await this.feedback()).report();
      } catch {
        this.note("This part of the page could not be loaded. Check that you are online, then try again.");
      }
    });
    byId("examples").addEventListener("click", (event) => {
      const example = event.target instanceof Element ? event.target.closest("button") : null;
      if (!example) return;
      this.composer.put(example.textContent ?? "");
      this.send();
    });
    addEventListener("pagehide", () => this.keep());
  }

  /** Show the routes, and load the models if the service was unreachable before. @param {Route[]} routes */
  updateRoutes(routes) {
    this.models.updateRoutes(routes);
    if (!this.models.isReady) this.loadModels();
  }

  async loadModels() {
    if (this.loading) return;
    this.loading = true;
    try {
      const headers = this.caller.headers();
      const response = await fetch("/v1/models", { headers });
      if (response.status === 401) this.caller.unauthorized(headers);
      if (response.ok) {
        const list = await response.json();
        if (list.sessions) await beginSession(headers);
        this.models.show(list.data);
        this.onModels(list);
        this.keepConversations(Boolean(list.conversations));
        this.next(); // what has waited for a key
      } else this.models.showNone("no models available");
    } catch {
      this.models.showNone("service unreachable"); // live.js keeps polling, then calls `updateRoutes`
    } finally {
      this.loading = false;
    }
  }

  /** Show the conversations that the service keeps, or none. @param {boolean} on */
  keepConversations(on) {
    byId("repeatable-option").hidden = on; // it is about the cache, where a kept conversation is never found
    if (on === Boolean(this.sidebar)) return;
    this.sidebar?.stop();
    this.sidebar = null;
    if (!on) return;
    const api = new Conversations(this.caller);
    const socket = new TurnSocket(doorOf(this.caller, api), (ready) => this.composer.limitChars(ready.question_chars_max));
    const carriers = new Carriers(api, socket);
    this.sidebar = new Sidebar(api, carriers, this, () => this.keepConversations(false));
    this.sidebar.start();
  }

  /**
   * Show a conversation in place of what is there. If its last question is still open, it is sent again with its id:
   * it is not asked twice, but waited for.
   * @param {KeptTurn[]} turns @param {string} model
   */
  showConversation(turns, model) {
    const shown = turns.map(turnOf);
    for (const turn of shown.slice(0, -1).filter(isOpen)) turn.state = "stopped"; // only the last one is waited for
    this.list.reset(shown);
    this.models.choose(model);
    this.refresh();
    this.list.toEnd();
    this.keep();
    const { last } = this.list;
    if (last && isOpen(last)) this.run(last);
  }

  /** Show questions that wait, below those that are there, and ask them. @param {Waiting[]} waiting */
  showWaiting(waiting) {
    for (const { id, text, stream, model } of waiting) {
      if (this.list.turns.some((turn) => turn.id === id)) continue;
      this.list.add({ ...newTurn(text, stream, model), id, state: "queued", isLost: true });
    }
    this.next();
  }

  /** Show earlier turns above those that are there. @param {KeptTurn[]} kept */
  showEarlier(kept) {
    const known = new Set(this.list.turns.map((turn) => turn.id));
    this.list.addBefore(kept.filter((one) => !known.has(one.asked_as)).map(turnOf));
  }

  /** Show the draft of a conversation, or take along what is being written. @param {string} conversation
   * @param {boolean} keepsText */
  showDraft(conversation, keepsText) {
    this.composer.open(conversation, keepsText);
  }

  /** Keep a question that could not be asked, for another time. @param {string} conversation @param {string} text */
  keepDraft(conversation, text) {
    const { composer } = this;
    if (composer.conversation !== conversation) composer.drafts.of(conversation) || composer.drafts.keep(conversation, text);
    else if (!composer.box.value) composer.put(text);
  }

  /** Add what is loaded when it is needed: the sources of an answer, and what its reader thinks of it.
   * @param {import("./turn.js").TurnView} view */
  async extend(view) {
    const { turn } = view;
    if (!turn.answer || isOpen(turn)) return;
    try {
      if (turn.grounding) (await import("./sources.js")).showSources(view);
      if (turn.turn || turn.request) await (await this.feedback()).show(view, this.sidebar?.current ?? "");
    } catch {
      const again = h("button.quiet", { type: "button", onclick: () => this.extend(view) }, "Try again");
      view.more.replaceChildren(h("p", {}, "A part of this answer could not be loaded. "), again);
    }
  }

  /** Return the part of the page for feedback. Throws if it cannot be loaded. */
  async feedback() {
    const { Feedback } = await import("./feedback.js");
    return (this.opinions ??= new Feedback(this.caller));
  }

  /**
   * Say something about the conversation.
   * @param {string} text "": nothing @param {boolean} [isAbout] whether it is about a document: no question is suggested
   */
  note(text, isAbout = false) {
    byId("suggested").hidden = isAbout;
    byId("chat-note").hidden = text === "";
    put(byId("chat-note"), text);
  }

  /** Return whether a question is being answered. */
  isAnswering() {
    return this.running !== null;
  }

  send() {
    const question = this.composer.text();
    const isBusy = this.running && this.list.turns.every((turn) => turn.state !== "queued");
    if (!question || isBusy || !this.models.isReady) return this.composer.focus();
    const turn = newTurn(question, this.stream.checked, this.models.value);
    if (this.sidebar && !this.sidebar.keep(turn)) return this.note("Many questions are waiting already. This one stays here.");
    this.composer.put("");
    if (this.running) Object.assign(turn, { state: "queued", isLost: this.asked?.isLost ?? false });
    this.list.add(turn);
    if (this.running) this.refresh();
    else this.run(turn);
    this.list.toEnd();
  }

  /** Ask the next question that waits. */
  next() {
    const turn = this.list.turns.find((one) => one.state === "queued");
    if (!this.running && this.sidebar) {
      if (turn) this.run(turn);
      else this.sidebar.bringOthers();
    }
  }

  /** Ask a question again, as the last one, or put it back for editing if it was at fault. @param {Turn} turn */
  again(turn) {
    if (this.running || againInS(turn) > 0) return;
    if (isAtFault(turn)) {
      this.list.remove(turn);
      this.composer.put(turn.question);
      this.composer.focus();
      return this.refresh();
    }
    const { id } = turn;
    Object.assign(turn, newTurn(turn.question, this.stream.checked, this.models.value), isUnknown(turn) ? { id } : {});
    if (this.sidebar) this.sidebar.keep(turn);
    this.composer.focus(); // the focused button disappears
    this.run(turn);
  }

  /** Do not ask a question that waits: its text is there for editing, unless another one is. @param {Turn} turn */
  cancel(turn) {
    const isRunning = turn === this.asked;
    this.sidebar?.forget(turn.id);
    this.list.remove(turn);
    if (!this.composer.box.value) this.composer.put(turn.question);
    this.composer.focus();
    if (isRunning) this.running?.abort();
    this.keep();
  }

  stop() {
    if (this.asked?.state !== "queued") this.running?.abort();
  }

  /** Show no conversation. An answer that is kept goes on. */
  clear() {
    this.running?.abort(LEFT);
    this.running = this.asked = null;
    this.busy(false);
    this.note("");
    this.list.reset([]);
    this.keep();
  }

  /** Ask the question of a turn, after what was said before. @param {Turn} turn @param {Record<string, string>} headers
   * @param {AbortSignal} signal */
  ask(turn, headers, signal) {
    if (this.sidebar) return this.sidebar.ask(turn, signal);
    const { stream, model } = turn;
    const messages = messagesOf(this.list.turns, turn);
    return ask({ model, messages, stream, repeatable: this.repeatable.checked }, headers, signal);
  }

  /** Run one question to its end, then the next one. @param {Turn} turn */
  async run(turn) {
    const running = (this.running = new AbortController());
    this.asked = turn;
    this.busy(turn.state !== "queued");
    this.refresh();
    this.list.toEnd();
    const startedMs = performance.now();
    const headers = this.caller.headers();
    for await (const step of this.ask(turn, headers, running.signal)) {
      if (isUnauthorized(step)) this.caller.unauthorized(headers);
      const ms = performance.now() - startedMs;
      this.list.keepingScroll(() => this.take(turn, step, ms));
    }
    if (this.running !== running) return; // another chat was begun meanwhile
    this.running = this.asked = null;
    this.busy(false);
    this.list.keepingScroll(() => this.refresh());
    this.keep();
    if (this.list.has(turn)) put(byId("announce"), announcementOf(turn));
    if (turn.status !== 401) this.next();
  }

  /** @param {Turn} turn @param {import("./ask.js").Step} step @param {number} ms since the question */
  take(turn, step, ms) {
    if (step.kind === "lost" || step.kind === "held") return this.hold(turn, step);
    if (turn.isLost || turn.state === "queued") this.goOn(turn);
    if (step.kind === "text") {
      turn.answer += step.text;
      if (turn.firstMs === null) turn.firstMs = ms;
      if (turn.state === "waiting") {
        turn.state = "streaming";
        this.refresh();
      } else this.list.addText(turn, step.text);
      return;
    }
    if (step.kind === "head") {
      const { target, cache, degraded, trail, id: request } = step.head;
      Object.assign(turn, { target, cache, degraded, request }, trail.length ? { trail } : {});
    } else if (step.kind === "degraded") turn.degraded = step.source; // heartbeats had sent the head before
    else if (step.kind === "memory") Object.assign(turn, { memoryLost: step.lost, pruned: step.pruned });
    else if (step.kind === "accepted") {
      turn.turn = step.turn;
      if (step.turn) this.composer.limitQuestions(step.remaining);
    } else Object.assign(turn, { state: step.kind, totalMs: ms, endedAt: Date.now() / 1000 });
    if (step.kind === "whole") {
      Object.assign(turn, { finish: step.finish, kept: step.kept ?? null, grounding: step.grounding ?? null });
    }
    if (step.kind === "cut" || step.kind === "failed") {
      Object.assign(turn, { problem: step.problem, status: step.status });
      if (step.problem.trail.length) turn.trail = step.problem.trail;
    }
    this.list.update(turn);
  }

  /** The connection is lost, or a limit is reached: a question that the service does not have waits. @param {Turn} turn
   * @param {{kind: "lost"} | {kind: "held", untilS: number}} step */
  hold(turn, step) {
    if (step.kind === "lost") noteRequest(false);
    const state = turn.turn ? turn.state : "queued";
    const isLost = step.kind === "lost";
    const heldUntilS = isLost ? 0 : step.untilS;
    if (turn.state === state && turn.isLost === isLost && turn.heldUntilS === heldUntilS) return;
    Object.assign(turn, { state, isLost, heldUntilS });
    if (turn === this.asked) this.busy(state !== "queued");
    this.list.update(turn);
  }

  /** The connection is there again. @param {Turn} turn */
  goOn(turn) {
    noteRequest(true);
    Object.assign(turn, { isLost: false, heldUntilS: 0 });
    if (turn.state === "queued") turn.state = "waiting";
    if (turn === this.asked) this.busy(true);
    for (const one of this.list.turns) if (one !== turn && one.state === "queued") one.isLost = false;
    this.refresh();
  }

  /** @param {boolean} on */
  busy(on) {
    const stop = byId("stop");
    const hadFocus = document.activeElement === stop;
    stop.hidden = !on;
    byId("send").hidden = on;
    if (hadFocus && !on) this.composer.focus();
  }

  refresh() {
    this.list.updateAll(this.running !== null);
  }

  keep() {
    const { turns } = this.list;
    const options = { stream: this.stream.checked, repeatable: this.repeatable.checked };
    const kept = { conversation: this.sidebar?.current ?? addressed(), turns, model: this.models.value, ...options };
    try {
      sessionStorage.setItem(STORAGE_KEY, JSON.stringify(kept));
    } catch {
      // The storage is full or forbidden: the conversation ends with the page.
    }
  }

  restore() {
    const kept = read();
    if (!kept) return;
    this.models.choose(kept.model ?? "");
    this.stream.checked = kept.stream ?? true;
    this.repeatable.checked = kept.repeatable ?? false;
    const isShown = (kept.conversation ?? "") === addressed();
    for (const one of isShown ? kept.turns ?? [] : []) {
      if (one.state === "queued") continue; // the outbox has it
      const turn = { ...newTurn(one.question, one.stream), ...one, isLost: false };
      if (isOpen(turn)) turn.state = "stopped"; // the page was left before the answer ended
      this.list.add(turn);
    }
    this.refresh();
    this.list.toEnd();
  }
}

/** Return how a socket is opened for a caller: with the cookie, or with a ticket where there is a key.
 * @param {Caller} caller @param {Conversations} api */
function doorOf(caller, api) {
  const key = () => caller.headers().authorization ?? "";
  return { key, ticket: async () => (key() ? api.ticket() : ""), renew: () => beginSession(caller.headers()) };
}

/** @param {import("./ask.js").Step} step */
function isUnauthorized(step) {
  return step.kind === "failed" && step.status === 401 && step.problem.code !== "session_required";
}

function read() {
  try {
    return JSON.parse(sessionStorage.getItem(STORAGE_KEY) ?? "null");
  } catch {
    return null; // forbidden, or written by another version
  }
}
