/**
 * The chat view: questions, their storage in the tab, and announcements for screen readers.
 *
 * Where the service keeps conversations, the sidebar asks, and says which one is shown; else the history is sent with
 * each question, and ends with the tab.
 */

import { ask } from "./ask.js";
import { Conversations, beginSession } from "./conversations.js";
import { byId, h, put } from "./dom.js";
import { modelLabel } from "./labels.js";
import { Sidebar, addressed } from "./sidebar.js";
import { TurnView, isAtFault, isOpen, isUnknown, newTurn, turnOf } from "./turn.js";

/** @typedef {import("./turn.js").Turn} Turn */
/** @typedef {import("./conversations.js").KeptTurn} KeptTurn */
/** @typedef {{name: string, targets: string[]}} Route */
/** @typedef {import("./labels.js").Model} Model */
/** @typedef {{headers(): Record<string, string>, unauthorized(sent: Record<string, string>): void}} Caller */

const STORAGE_KEY = "dub5.chat"; // in sessionStorage, which ends with the tab

/** @param {Caller} caller */
export function startChat(caller) {
  const chat = new Chat(caller);
  chat.listen();
  chat.loadModels();
  return chat;
}

class Chat {
  /** @param {Caller} caller */
  constructor(caller) {
    this.caller = caller;
    this.question = /** @type {HTMLTextAreaElement} */ (byId("question"));
    this.model = /** @type {HTMLSelectElement} */ (byId("model"));
    this.stream = /** @type {HTMLInputElement} */ (byId("stream"));
    this.repeatable = /** @type {HTMLInputElement} */ (byId("repeatable"));
    this.scroll = byId("scroll");
    /** @type {Turn[]} */
    this.turns = [];
    /** @type {Map<Turn, TurnView>} */
    this.views = new Map();
    /** @type {AbortController | null} */
    this.running = null;
    /** @type {Route[]} */
    this.routes = [];
    this.wanted = ""; // the model chosen before the list was loaded
    this.loading = false;
    /** @type {Sidebar | null} */
    this.sidebar = null; // where the service keeps conversations
    this.restore();
  }

  listen() {
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.question.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    byId("chat").addEventListener("keydown", (event) => event.key === "Escape" && this.stop());
    byId("stop").addEventListener("click", () => this.stop());
    byId("new-chat").addEventListener("click", () => {
      this.clear();
      this.sidebar?.leave();
      this.question.focus();
    });
    byId("examples").addEventListener("click", (event) => {
      const example = event.target instanceof Element ? event.target.closest("button") : null;
      if (!example) return;
      this.question.value = example.textContent ?? "";
      this.send();
    });
    this.model.addEventListener("change", () => this.showOrder());
    addEventListener("pagehide", () => this.keep());
  }

  /** Show the routes, and load the models if the service was unreachable before. @param {Route[]} routes */
  updateRoutes(routes) {
    this.routes = routes;
    this.showOrder();
    if (this.model.disabled) this.loadModels();
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
        this.keepConversations(Boolean(list.conversations));
        this.showModels(list.data);
      } else put(this.model.options[0], "no models available");
    } catch {
      put(this.model.options[0], "service unreachable"); // live.js keeps polling, then calls `updateRoutes`
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
    this.sidebar = new Sidebar(new Conversations(this.caller), this, () => this.keepConversations(false));
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
    this.reset(shown);
    if ([...this.model.options].some((option) => option.value === model)) this.model.value = model;
    else this.wanted = model; // the list of models comes later
    this.showOrder();
    this.refresh();
    this.toEnd();
    this.keep();
    const last = this.turns.at(-1);
    if (last && isOpen(last)) this.run(last);
  }

  /** Show earlier turns above those that are there, which stay where they are. @param {KeptTurn[]} kept */
  showEarlier(kept) {
    const fromEnd = this.scroll.scrollHeight - this.scroll.scrollTop;
    const later = this.turns.map((turn) => [turn, this.views.get(turn)]);
    this.reset(kept.map(turnOf));
    for (const [turn, view] of /** @type {[Turn, TurnView][]} */ (later)) {
      this.turns.push(turn);
      this.views.set(turn, view);
      byId("turns").append(view.node);
    }
    this.scroll.scrollTop = this.scroll.scrollHeight - fromEnd;
  }

  /** Replace all turns. @param {Turn[]} turns */
  reset(turns) {
    this.turns = turns;
    this.views.clear();
    byId("turns").replaceChildren();
    byId("empty").hidden = turns.length > 0;
    for (const turn of turns) this.show(turn);
  }

  /** Say something about the conversation. @param {string} text "": nothing */
  note(text) {
    byId("chat-note").hidden = text === "";
    put(byId("chat-note"), text);
  }

  /** Return whether a question is being answered. */
  isAnswering() {
    return this.running !== null;
  }

  /** @param {Model[]} models */
  showModels(models) {
    const chosen = this.wanted || this.model.value;
    this.model.replaceChildren(...models.map((model) => h("option", { value: model.id }, modelLabel(model))));
    this.model.disabled = models.length === 0;
    if (models.some((model) => model.id === chosen)) this.model.value = chosen;
    this.showOrder();
  }

  showOrder() {
    const route = this.routes.find((r) => r.name === this.model.value);
    put(byId("order"), route ? `${route.name} calls ${route.targets.join(", then ")}.` : "");
  }

  send() {
    const question = this.question.value.trim();
    if (!question || this.running || this.model.disabled) return this.question.focus();
    this.question.value = "";
    const turn = newTurn(question, this.stream.checked);
    this.turns.push(turn);
    this.show(turn);
    this.run(turn);
  }

  /** @param {Turn} turn */
  show(turn) {
    const view = new TurnView(turn, (again) => this.again(again));
    this.views.set(turn, view);
    byId("turns").append(view.node);
    byId("empty").hidden = true;
  }

  /** Ask the last question again, or put it back for editing if it was at fault. @param {Turn} turn */
  again(turn) {
    if (this.running) return;
    if (isAtFault(turn)) {
      this.turns.pop();
      this.views.get(turn)?.node.remove();
      this.views.delete(turn);
      this.question.value = turn.question;
      this.question.focus();
      byId("empty").hidden = this.turns.length > 0;
      return this.refresh();
    }
    const { id } = turn;
    Object.assign(turn, newTurn(turn.question, this.stream.checked), isUnknown(turn) ? { id } : {});
    this.question.focus(); // the focused button disappears
    this.run(turn);
  }

  stop() {
    this.running?.abort();
  }

  clear() {
    this.stop();
    this.running = null;
    this.busy(false);
    this.note("");
    this.reset([]);
    this.keep();
  }

  /** Ask the question of a turn, after what was said before. @param {Turn} turn @param {Record<string, string>} headers
   * @param {AbortSignal} signal */
  ask(turn, headers, signal) {
    const { question: text, id, stream } = turn;
    const model = this.model.value;
    if (this.sidebar) return this.sidebar.ask({ text, id, model, stream }, signal);
    const messages = this.historyFor(turn);
    return ask({ model, messages, stream, repeatable: this.repeatable.checked }, headers, signal);
  }

  /** Run one question to its end. @param {Turn} turn */
  async run(turn) {
    const running = (this.running = new AbortController());
    this.busy(true);
    this.refresh();
    this.toEnd();
    const startedMs = performance.now();
    const headers = this.caller.headers();
    for await (const step of this.ask(turn, headers, running.signal)) {
      if (isUnauthorized(step)) this.caller.unauthorized(headers);
      const ms = performance.now() - startedMs;
      this.keepingScroll(() => this.take(turn, step, ms));
    }
    if (this.running !== running) return; // another chat was begun meanwhile
    this.running = null;
    this.busy(false);
    this.keepingScroll(() => this.refresh());
    this.keep();
    this.announce(turn);
  }

  /** @param {Turn} turn @param {import("./ask.js").Step} step @param {number} ms since the question */
  take(turn, step, ms) {
    if (step.kind === "text") {
      turn.answer += step.text;
      if (turn.firstMs === null) turn.firstMs = ms;
      if (turn.state === "waiting") {
        turn.state = "streaming";
        this.refresh();
      } else this.views.get(turn)?.add(step.text);
      return;
    }
    if (step.kind === "head") {
      const { target, cache, degraded, trail } = step.head;
      Object.assign(turn, { target, cache, degraded, trail });
    } else if (step.kind === "degraded") turn.degraded = step.source; // heartbeats had sent the head before
    else if (step.kind === "memory") Object.assign(turn, { memoryLost: step.lost, pruned: step.pruned });
    else Object.assign(turn, { state: step.kind, totalMs: ms, endedAt: Date.now() / 1000 });
    if (step.kind === "whole") Object.assign(turn, { finish: step.finish, kept: step.kept ?? null });
    if (step.kind === "cut" || step.kind === "failed") {
      Object.assign(turn, { problem: step.problem, status: step.status });
      if (step.problem.trail.length) turn.trail = step.problem.trail;
    }
    this.views.get(turn)?.update(false);
  }

  /** Return earlier turns with an answer, then the question, as messages. @param {Turn} turn */
  historyFor(turn) {
    const before = this.turns.slice(0, this.turns.indexOf(turn)).filter((t) => t.answer && !t.degraded);
    return [
      ...before.flatMap((t) => [{ role: "user", content: t.question }, { role: "assistant", content: t.answer }]),
      { role: "user", content: turn.question },
    ];
  }

  /** @param {boolean} on */
  busy(on) {
    const stop = byId("stop");
    const hadFocus = document.activeElement === stop;
    stop.hidden = !on;
    byId("send").hidden = on;
    if (hadFocus && !on) this.question.focus();
  }

  refresh() {
    for (const [turn, view] of this.views) view.update(turn === this.turns.at(-1) && !isOpen(turn));
  }

  /** Change the page and keep it at its end, unless the reader has scrolled up. @param {() => void} change */
  keepingScroll(change) {
    const { scrollHeight, scrollTop, clientHeight } = this.scroll;
    const follows = scrollHeight - scrollTop - clientHeight < 48;
    change();
    if (follows) this.toEnd();
  }

  toEnd() {
    this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  /** Announce the end to screen readers, once: word by word would be noise. @param {Turn} turn */
  announce(turn) {
    const texts = {
      whole: `${turn.target || "The service"} answered: ${turn.answer}`,
      cut: `The answer was cut and is incomplete. ${turn.problem?.message ?? ""} Text so far: ${turn.answer}`,
      failed: `No answer. ${turn.problem?.message ?? ""} ${turn.problem?.suggestion ?? ""}`,
      stopped: "Stopped.",
      waiting: "", streaming: "",
    };
    put(byId("announce"), texts[turn.state]);
  }

  keep() {
    const { turns } = this;
    const options = { stream: this.stream.checked, repeatable: this.repeatable.checked };
    const draft = { draft: this.question.value, model: this.model.value || this.wanted };
    const kept = { conversation: addressed(), turns, ...draft, ...options };
    try {
      sessionStorage.setItem(STORAGE_KEY, JSON.stringify(kept));
    } catch {
      // The storage is full or forbidden: the conversation ends with the page.
    }
  }

  restore() {
    const kept = read();
    if (!kept) return;
    this.question.value = kept.draft ?? "";
    this.wanted = kept.model ?? "";
    this.stream.checked = kept.stream ?? true;
    this.repeatable.checked = kept.repeatable ?? false;
    const isShown = (kept.conversation ?? "") === addressed();
    for (const turn of isShown ? kept.turns ?? [] : []) {
      if (isOpen(turn)) turn.state = "stopped"; // the page was left before the answer ended
      this.turns.push(turn);
      this.show(turn);
    }
    this.refresh();
    this.toEnd();
  }
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
