/** The chat view: questions, their storage in the tab, and announcements for screen readers. */

import { ask } from "./ask.js";
import { byId, h, put } from "./dom.js";
import { modelLabel } from "./labels.js";
import { TurnView, isAtFault, isOpen, newTurn } from "./turn.js";

/** @typedef {import("./turn.js").Turn} Turn */
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

/**
 * Ask for the cookie by which the service counts this browser; the chat works without one, too.
 * @param {Record<string, string>} headers
 */
async function beginSession(headers) {
  await fetch("/v1/session", { method: "POST", headers }).catch(() => {});
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
    byId("new-chat").addEventListener("click", () => this.clear());
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
        this.showModels(list.data);
      } else put(this.model.options[0], "no models available");
    } catch {
      put(this.model.options[0], "service unreachable"); // live.js keeps polling, then calls `updateRoutes`
    } finally {
      this.loading = false;
    }
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
    Object.assign(turn, newTurn(turn.question, this.stream.checked));
    this.question.focus(); // the focused button disappears
    this.run(turn);
  }

  stop() {
    this.running?.abort();
  }

  clear() {
    this.stop();
    this.turns = [];
    this.views.clear();
    byId("turns").replaceChildren();
    byId("empty").hidden = false;
    this.keep();
    this.question.focus();
  }

  /** Run one question to its end. @param {Turn} turn */
  async run(turn) {
    const running = (this.running = new AbortController());
    this.busy(true);
    this.refresh();
    this.toEnd();
    const question = {
      model: this.model.value,
      stream: turn.stream,
      repeatable: this.repeatable.checked,
      messages: this.historyFor(turn),
    };
    const startedMs = performance.now();
    const headers = this.caller.headers();
    for await (const step of ask(question, headers, running.signal)) {
      if ("status" in step && step.status === 401) this.caller.unauthorized(headers);
      const ms = performance.now() - startedMs;
      this.keepingScroll(() => this.take(turn, step, ms));
    }
    this.running = null;
    this.busy(false);
    if (!this.turns.includes(turn)) return; // a new chat was begun meanwhile
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
    else Object.assign(turn, { state: step.kind, totalMs: ms, endedAt: Date.now() / 1000 });
    if (step.kind === "whole") turn.finish = step.finish;
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
    const kept = { turns, draft: this.question.value, model: this.model.value || this.wanted, ...options };
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
    for (const turn of kept.turns ?? []) {
      if (isOpen(turn)) turn.state = "stopped"; // the page was left before the answer ended
      this.turns.push(turn);
      this.show(turn);
    }
    this.refresh();
    this.toEnd();
  }
}

function read() {
  try {
    return JSON.parse(sessionStorage.getItem(STORAGE_KEY) ?? "null");
  } catch {
    return null; // forbidden, or written by another version
  }
}
