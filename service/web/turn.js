/** The view of one question and its answer. The turn itself is plain data, so that the tab can store it. */

import { byId, h, icon, put } from "./dom.js";
import { interrupted } from "./follow.js";
import { duration, fallbackLabel, finishLabel, kindLabel, markOf } from "./labels.js";
import { memoryLabel, reasonLabel, timeOfDay } from "./labels.js";

/** @typedef {import("./labels.js").TrailEntry} TrailEntry */
/** @typedef {import("./reply.js").Problem} Problem */
/** @typedef {import("./conversations.js").KeptTurn} KeptTurn */
/** @typedef {"queued" | "waiting" | "streaming" | "whole" | "cut" | "failed" | "stopped"} State */
/**
 * @typedef {object} Turn
 * @property {string} id ours: the same question sent twice is asked once
 * @property {string} turn the service's id; "" until it has the question
 * @property {string} question
 * @property {string} answer
 * @property {State} state
 * @property {boolean} isLost the connection is lost, and looked for
 * @property {number} heldUntilS when it is asked, because a limit is reached; 0: as soon as it can be
 * @property {string} model
 * @property {boolean} stream
 * @property {string} target
 * @property {string} cache
 * @property {string} degraded the source of a fallback answer; "" for an answer of a model
 * @property {TrailEntry[]} trail
 * @property {Problem | null} problem
 * @property {number} status
 * @property {string} finish
 * @property {number | null} firstMs
 * @property {number | null} totalMs
 * @property {number} endedAt epoch seconds
 * @property {boolean | null} kept whether the service has saved the answer; null where it keeps none
 * @property {boolean} memoryLost answered without what was said before
 * @property {number} pruned earlier turns that the model was not told
 * @property {import("./conversations.js").Grounding | null} grounding of an answer about a document
 * @property {string} request the id of the request; "" where the service has the turn
 * @property {number} thumb what the reader thinks of the answer: 1, -1, or 0
 */

/** @param {string} question @param {boolean} stream @param {string} [model] @returns {Turn} */
export function newTurn(question, stream, model = "") {
  return {
    id: newId(), turn: "", isLost: false, heldUntilS: 0, model, kept: null, memoryLost: false, pruned: 0,
    grounding: null, request: "", thumb: 0,
    question, stream, answer: "", state: "waiting", target: "", cache: "", degraded: "", trail: [], problem: null,
    status: 0, finish: "", firstMs: null, totalMs: null, endedAt: 0,
  };
}

const OUTCOMES = new Map(/** @type {[string, State][]} */ ([
  ["complete", "whole"], ["degraded", "whole"], ["cancelled", "stopped"], ["cut", "cut"],
]));

/** Return the turn that the service has kept. @param {KeptTurn} kept @returns {Turn} */
export function turnOf(kept) {
  const { id: turn, asked_as: id, asked_at, ended_at, target, degraded, finish, memory, pruned } = kept;
  const answer = kept.answer?.text ?? "";
  const state = kept.state === "open" ? "waiting" : (OUTCOMES.get(kept.outcome ?? "") ?? (answer ? "cut" : "failed"));
  return {
    ...newTurn(kept.question.text, true),
    id, turn, answer, state, target: target ?? "", degraded: degraded ?? "", finish: finish ?? "", kept: kept.kept,
    problem: state === "cut" || state === "failed" ? interrupted() : null,
    totalMs: ended_at === null ? null : Math.max(0, ended_at - asked_at) * 1000,
    endedAt: ended_at ?? asked_at, memoryLost: memory === "lost", pruned: pruned?.turns ?? 0,
    grounding: kept.grounding ?? null,
  };
}

/** Make an id of chance; crypto.randomUUID is not there on plain http. */
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return whether nobody knows what became of the question. @param {Turn} turn */
export function isUnknown(turn) {
  return turn.state === "failed" && turn.status === 0;
}

/** Return whether the answer is still in progress, or to come. @param {Turn} turn */
export function isOpen(turn) {
  return turn.state === "waiting" || turn.state === "streaming" || turn.state === "queued";
}

/** Return whether the question was at fault, so that asking it again cannot help. @param {Turn} turn */
export function isAtFault(turn) {
  const isGone = turn.problem?.code === "conversation_not_found"; // asked again, it begins another one
  return turn.state === "failed" && [400, 404, 413, 422].includes(turn.status) && !isGone;
}

/** Say how it ended, for screen readers: once, for word by word would be noise. @param {Turn} turn */
export function announcementOf(turn) {
  const { problem, answer } = turn;
  const texts = {
    whole: `${turn.target || "The service"} answered: ${answer}`,
    cut: `The answer was cut and is incomplete. ${problem?.message ?? ""} Text so far: ${answer}`,
    failed: `No answer. ${problem?.message ?? ""} ${problem?.suggestion ?? ""}`,
    stopped: "Stopped.",
    queued: "", waiting: "", streaming: "",
  };
  return texts[turn.state];
}

/**
 * What a view asks of the chat; `extend`: add what other parts of the page have for an answer.
 * @typedef {{again: (turn: Turn) => void, cancel: (turn: Turn) => void, extend?: (view: TurnView) => void}} TurnActions
 */

export class TurnView {
  /** @param {Turn} turn @param {TurnActions} on */
  constructor(turn, on) {
    this.turn = turn;
    this.on = on;
    this.text = document.createTextNode(turn.answer);
    this.by = h("p.by");
    this.note = h("div.note");
    this.facts = h("div.facts");
    this.more = h("div.more"); // what is loaded when needed
    this.bones = h("div.bones", {}, h("span.bone"), h("span.bone.short"));
    this.again = /** @type {HTMLButtonElement} */ (h("button.quiet", { type: "button", onclick: () => on.again(turn) }));
    this.cancel = h("button.quiet", { type: "button", onclick: () => on.cancel(turn) }, "Cancel this question");
    this.answer = h("div.answer", {}, this.by, h("p.text", {}, this.text), this.bones, this.note, this.more, this.facts);
    this.node = h(
      "article.turn", {},
      h("p.question", {}, h("span.sr", {}, "You asked: "), turn.question),
      this.answer,
    );
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.update(false);
  }

  /** Append to the answer. @param {string} text */
  add(text) {
    this.text.appendData(text);
  }

  /** Show the turn's state; only the last turn has a button to ask again. @param {boolean} last */
  update(last) {
    const { turn } = this;
    const focused = this.note.contains(document.activeElement) ? document.activeElement : null;
    if (this.text.data !== turn.answer) this.text.data = turn.answer;
    this.answer.dataset.state = turn.state;
    this.answer.setAttribute("aria-busy", String(isOpen(turn)));
    this.bones.hidden = turn.state !== "waiting" || turn.isLost;
    this.by.replaceChildren(...speaker(turn));
    this.note.replaceChildren(...noteOf(turn));
    if (last && ["cut", "failed", "stopped"].includes(turn.state)) {
      this.#countDown();
      this.note.append(this.again);
    }
    if (turn.state === "queued") this.note.append(this.cancel);
    this.note.hidden = this.note.childElementCount === 0;
    if (focused instanceof HTMLElement) (focused.isConnected ? focused : byId("question")).focus();
    this.facts.replaceChildren(...factsOf(turn));
    this.on.extend?.(this);
  }

  /** Show the button, which waits where the service has said how long nothing can be asked. */
  #countDown() {
    clearTimeout(this.timer);
    const leftS = againInS(this.turn);
    this.again.disabled = leftS > 0;
    put(this.again, isAtFault(this.turn) ? "Edit the question" : `Ask again${leftS > 0 ? ` in ${leftS} s` : ""}`);
    if (leftS > 0) this.timer = setTimeout(() => this.again.isConnected && this.#countDown(), 1000);
  }
}

/** Return after how many seconds a question over a rate limit can be asked again. @param {Turn} turn */
export function againInS({ status, problem, endedAt }) {
  const waitS = status === 429 ? (problem?.retryAfterS ?? 0) : 0;
  return Math.max(0, Math.ceil(endedAt + waitS - Date.now() / 1000));
}

/** @param {Turn} turn */
function speaker(turn) {
  const badges = [];
  if (turn.cache === "hit") badges.push(h("span.badge.cached", {}, "from the cache"));
  if (turn.degraded) badges.push(h("span.badge.unfinished", {}, icon("fallback"), "fallback answer"));
  if (turn.kept === false) badges.push(h("span.badge.unfinished", {}, "not saved"));
  if (isOpen(turn) && turn.isLost && turn.state !== "queued") {
    badges.push(h("span.badge.unfinished", {}, icon("wait"), "Reconnecting…"));
  } else if (turn.state === "streaming") badges.push(h("span.badge", {}, "answering…"));
  if (turn.state === "cut" || (turn.state === "stopped" && turn.answer)) {
    badges.push(h("span.badge.unfinished", {}, icon("cut"), "unfinished"));
  }
  const waiting = turn.stream ? "Waiting for the first token…" : "Waiting for the whole answer…";
  const queued = turn.heldUntilS ? "Waiting for its time…" : turn.isLost ? "Waiting for the network…" : "Waiting for the answer before…";
  const nobody = turn.answer ? "Answer" : "No answer";
  const noTarget = turn.state === "queued" ? queued : turn.state === "waiting" ? waiting : nobody;
  return [h("strong", {}, turn.target || noTarget), ...badges];
}

/** @param {Turn} turn */
function noteOf(turn) {
  const memory = memoryLabel(turn);
  return [memory && h("p", {}, memory), ...endingOf(turn)].filter((part) => part instanceof Node);
}

/** @param {Turn} turn */
function endingOf(turn) {
  if (turn.state === "queued") {
    const held = turn.heldUntilS && `The limit of questions is reached: this one is asked at ${timeOfDay(turn.heldUntilS)}.`;
    return [h("p", {}, held || "This question is kept in this browser, and asked as soon as it can be.")];
  }
  if (turn.state === "stopped") return [h("p", {}, "This answer was stopped before its end.")];
  if (turn.state === "whole") {
    const empty = turn.answer ? "" : "The answer is complete, but has no text.";
    const label = fallbackLabel(turn.degraded) || finishLabel(turn.finish) || empty;
    return label ? [h("p", {}, label)] : [];
  }
  if (!turn.problem) return [];
  const { message, suggestion, id, code, retryAfterS } = turn.problem;
  const after = retryAfterS === null ? "" : timeOfDay(turn.endedAt + retryAfterS);
  const cut = turn.state === "cut";
  return [
    h("p", {}, icon(cut ? "cut" : "bad"), h("strong", {}, cut ? "The answer was cut. " : ""), message),
    h("p", {}, suggestion, after && turn.status !== 429 && ` Worth trying again after ${after}.`),
    h("p.small", {}, [code, id && `error id ${id}`].filter(Boolean).join(" · ")),
  ];
}

/** @param {Turn} turn */
function factsOf(turn) {
  const times = [];
  if (turn.firstMs !== null && turn.stream) times.push(`first token ${duration(turn.firstMs)}`);
  const ended = turn.state === "whole" ? "complete after" : "ended after";
  if (turn.totalMs !== null) times.push(`${ended} ${duration(turn.totalMs)}`);
  const trail = turn.trail.length > 0 && trailOf(turn.trail, turn.stream);
  return [trail, times.length > 0 && h("p.times", {}, times.join(" · "))].filter((part) => part instanceof Node);
}

const BAR_PX = 110; // of the longest attempt

/**
 * Show the attempts of a request in order: a chip each, with a bar for its duration.
 * `began`: the times of answers are those of their first token, as in the header of a stream.
 * @param {TrailEntry[]} trail @param {boolean} began
 */
export function trailOf(trail, began) {
  const longest = Math.max(1, ...trail.map((t) => t.ms ?? 0));
  return h("ol.trail", { "aria-label": "Attempts" }, ...trail.map((t) => chip(t, longest, began)));
}

/** @param {TrailEntry} entry @param {number} longest @param {boolean} began */
function chip({ target, reason, ms, kind: made }, longest, began) {
  const kind = markOf(reason);
  const bar = h("span.took", { "aria-hidden": "true" });
  bar.style.width = `${Math.max(2, Math.round((BAR_PX * (ms ?? 0)) / longest))}px`;
  const took = ms === null || kind === "skip" || reason === "cache" ? "" : duration(ms);
  const label = began && reason === "ok" ? "began to answer" : reasonLabel(reason);
  return h(
    `li.attempt.${kind}`, {},
    h("span.who", {}, icon(kind), target),
    h("span.why", {}, [kindLabel(made), [label, took].filter(Boolean).join(", ")].filter(Boolean).join(": ")),
    bar,
  );
}
