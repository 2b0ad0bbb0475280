/**
 * The client of the conversations API. They belong to the session, whose cookie the browser sends by itself.
 *
 *     list, open, begin, rename, remove -> data, or throws Refused        ask -> the steps of ask.js
 *
 * The messages of a stream (protocol dub5.v1): accepted, begin, delta*, then end or error.
 */

import { stepsOf } from "./ask.js";
import { parseTrail } from "./labels.js";
import { bodyOf, eventsOf, headOf, ownProblem, parsed, problemOf, unfinished, unreachable } from "./reply.js";

/** @typedef {import("./ask.js").Step} Step */
/** @typedef {import("./reply.js").Problem} Problem */
/** @typedef {import("./chat.js").Caller} Caller */
/** @typedef {{id: string, title: string, model: string, used_at: number, kept: boolean}} Conversation */
/**
 * @typedef {{id: string, asked_as: string, question: {text: string}, answer: {text: string} | null,
 *   state: "open" | "ended", outcome: string | null, finish: string | null, target: string | null,
 *   asked_at: number, ended_at: number | null, kept: boolean, degraded?: string,
 *   pruned?: {turns: number}, memory?: string}} KeptTurn
 * @typedef {{text: string, id: string, model: string, stream: boolean}} Asked
 */

const PATH = "/v1/conversations";

/**
 * Ask for the cookie by which the service counts this browser; the chat works without one, too.
 * @param {Record<string, string>} headers
 */
export async function beginSession(headers) {
  await fetch("/v1/session", { method: "POST", headers }).catch(() => {});
}

/** The service refused a call, or did not answer it (status 0). */
export class Refused extends Error {
  /** @param {Problem} problem @param {number} status */
  constructor(problem, status) {
    super(problem.message);
    this.problem = problem;
    this.status = status;
  }
}

export class Conversations {
  /** @param {Caller} caller */
  constructor(caller) {
    this.caller = caller;
  }

  /** @param {string} before the id of the last one that is known; "": the newest
   * @returns {Promise<{data: Conversation[], has_more: boolean}>} */
  list(before) {
    return this.#json("GET", before ? `${PATH}?before=${before}` : PATH);
  }

  /** @param {string} id @param {string} before the id of the oldest turn that is known; "": the newest
   * @returns {Promise<Conversation & {turns: KeptTurn[], has_more: boolean}>} */
  open(id, before) {
    return this.#json("GET", before ? `${PATH}/${id}?before=${before}` : `${PATH}/${id}`);
  }

  /** @param {string} model @param {AbortSignal} signal @returns {Promise<Conversation>} */
  begin(model, signal) {
    return this.#json("POST", PATH, { model }, signal);
  }

  /** @param {string} id @param {string} title @returns {Promise<Conversation>} */
  rename(id, title) {
    return this.#json("PATCH", `${PATH}/${id}`, { title });
  }

  /** @param {string} id @returns {Promise<void>} */
  remove(id) {
    return this.#json("DELETE", `${PATH}/${id}`);
  }

  /** @param {string} conversation @param {Asked} asked @param {AbortSignal} signal */
  ask(conversation, asked, signal) {
    const send = () => this.#send("POST", `${PATH}/${conversation}/turns`, asked, signal);
    return stepsOf(send, asked.stream ? streamed : whole, signal);
  }

  /** @param {string} method @param {string} path @param {object} [body] @param {AbortSignal} [signal]
   * @returns {Promise<any>} */
  async #json(method, path, body, signal) {
    let response;
    try {
      response = await this.#send(method, path, body, signal);
    } catch (error) {
      throw new Refused(unreachable(false, error), 0);
    }
    const data = await bodyOf(response);
    if (!response.ok) throw new Refused(problemOf(data, headOf(response.headers)), response.status);
    return data;
  }

  /**
   * Send a request; begin a session if the service misses one, as after a cookie has ended.
   * @param {string} method @param {string} path @param {object} [body] @param {AbortSignal} [signal]
   */
  async #send(method, path, body, signal) {
    const headers = this.caller.headers();
    const content = body && { body: JSON.stringify(body), headers: { "content-type": "application/json", ...headers } };
    const send = () => fetch(path, { method, headers, signal, ...content });
    const response = await send();
    if (response.status !== 401) return response;
    if ((await bodyOf(response.clone()))?.error?.code === "session_required") {
      await beginSession(headers);
      return send();
    }
    this.caller.unauthorized(headers);
    return response;
  }
}

/** @param {Response} response @returns {AsyncGenerator<Step, void>} */
async function* streamed(response) {
  for await (const data of eventsOf(response)) {
    const message = parsed(data);
    switch (message?.type) {
      case "begin": {
        const { route, target, trail, degraded } = message;
        const head = { ...headOf(response.headers), route, target: target ?? "", degraded: degraded ?? "" };
        yield { kind: "head", head: trail ? { ...head, trail: parseTrail(trail) } : head };
        yield memoryOf(message);
        break;
      }
      case "delta":
        yield { kind: "text", text: message.text };
        break;
      case "end":
        yield endOf(message);
        return;
      case "error":
        yield { kind: "cut", problem: problemOf(message, null), status: response.status };
        return;
    }
  }
  yield { kind: "cut", problem: unfinished(), status: response.status };
}

/** @param {Response} response @returns {AsyncGenerator<Step, void>} */
async function* whole(response) {
  /** @type {KeptTurn | null} */
  const turn = await bodyOf(response);
  if (!turn?.question) {
    const problem = turn && "error" in turn ? problemOf(turn, null) : unfinished();
    yield { kind: "cut", problem, status: response.status };
    return;
  }
  const head = { ...headOf(response.headers), target: turn.target ?? "", degraded: turn.degraded ?? "" };
  yield { kind: "head", head };
  yield memoryOf(turn);
  if (turn.answer?.text) yield { kind: "text", text: turn.answer.text };
  yield endOf(turn);
}

/** @param {{pruned?: {turns: number}, memory?: string}} said @returns {Step} */
function memoryOf({ pruned, memory }) {
  return { kind: "memory", lost: memory === "lost", pruned: pruned?.turns ?? 0 };
}

/**
 * Return the step of an end, also of a question that was asked before and ended otherwise.
 * @param {{outcome: string | null, finish: string | null, kept: boolean}} end
 * @returns {Step}
 */
function endOf({ outcome, finish, kept }) {
  if (outcome === "complete" || outcome === "degraded") return { kind: "whole", finish: finish ?? "", kept };
  if (outcome === "cancelled") return { kind: "stopped" };
  return { kind: "cut", problem: earlierProblem(), status: 200 };
}

/** Say why a question of an earlier visit has no whole answer: the reason is not kept. */
export function earlierProblem() {
  return ownProblem("This question was interrupted; the reason is not kept.", "Ask again.", "");
}
