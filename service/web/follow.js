/**
 * Follows a question to the end of its answer, whatever carries it, and however often the connection is lost:
 *
 *     ask -> messages -> steps -- lost --> wait -> resume from the position, or ask again with the same id -> ...
 *
 * Over the WebSocket (socket.js); over HTTP where there is none, or where the answer is wanted as a whole. `seq` is
 * the position in the answer, in bytes: what does not fit in is read again from where the text ends.
 */

import { Refused } from "./api.js";
import { bytesOf } from "./conversations.js";
import { parseTrail } from "./labels.js";
import { network } from "./offline.js";
import { Broken, ownProblem, problemOf, unfinished } from "./reply.js";

/** @typedef {import("./ask.js").Step} Step */
/** @typedef {import("./conversations.js").Asked} Asked */
/** @typedef {import("./socket.js").Message} Message */
/**
 * A question, and what is known of it. `conversation`: "" for one that begins with it; `turn`: "" until it is open.
 * @typedef {Asked & {conversation: string, turn: string}} Followed
 */

const WAIT_MIN_S = 0.25;
const WAIT_MAX_S = 5;
const FAILED_HANDSHAKES_MAX = 2;
const WITHOUT_SOCKET_MS = 5 * 60_000; // then a socket is tried again
const FUTILE_MAX = 5; // attempts in a row that reached the service, and brought nothing

/** The reason of an abort: nobody looks any more, and the answer goes on. */
export const LEFT = new DOMException("left", "AbortError");

/** Chooses what carries a turn. */
export class Carriers {
  /** @param {import("./conversations.js").Conversations} api @param {import("./socket.js").TurnSocket} socket */
  constructor(api, socket) {
    this.api = api;
    this.socket = socket;
    this.failures = 0; // of handshakes, in a row
    this.triedMs = -Infinity;
    network.addEventListener("unreachable", () => socket.ping());
  }

  /**
   * Ask, or read on from a position. Throws Broken, Refused, or the reason of `signal`.
   * @param {Followed} asked @param {number} after @param {AbortSignal} signal @returns {AsyncGenerator<Message, void>}
   */
  async *messages(asked, after, signal) {
    const { id, text, model, conversation, turn } = asked;
    if ((turn || asked.stream) && (await this.#hasSocket(signal))) {
      const where = conversation ? { conversation } : {};
      const message = turn ? { type: "resume", turn, after } : { type: "ask", id, text, model, ...where };
      yield* this.socket.converse(message, signal);
      return;
    }
    try {
      yield* this.#overHttp(asked, after, signal);
    } catch (error) {
      if (error instanceof Broken && !error.reached) this.failures = 0; // it was the network, not the socket
      throw error;
    }
  }

  /** @param {AbortSignal} signal */
  async #hasSocket(signal) {
    if (this.failures >= FAILED_HANDSHAKES_MAX && performance.now() - this.triedMs > WITHOUT_SOCKET_MS) this.failures = 0;
    while (this.failures < FAILED_HANDSHAKES_MAX) {
      signal.throwIfAborted();
      try {
        await this.socket.open();
        this.failures = 0;
        return true;
      } catch (error) {
        if (!(error instanceof Broken || error instanceof Refused)) throw error;
        this.failures += 1;
        this.triedMs = performance.now();
      }
    }
    return false;
  }

  /** @param {Followed} asked @param {number} after @param {AbortSignal} signal
   * @returns {AsyncGenerator<Message, void>} */
  async *#overHttp(asked, after, signal) {
    const leaving = new AbortController(); // a stream that a network has lost stays open: it is read on by another
    const either = AbortSignal.any([signal, leaving.signal]);
    const onUnreachable = () => leaving.abort(new Broken("The service is unreachable."));
    network.addEventListener("unreachable", onUnreachable);
    try {
      if (asked.turn) yield* this.api.events(asked.turn, after, either);
      else {
        const conversation = asked.conversation || (await this.#begin(asked, either));
        if (!asked.conversation) yield { type: "begun", conversation };
        yield* this.api.ask(conversation, asked, either);
      }
    } finally {
      network.removeEventListener("unreachable", onUnreachable);
    }
  }

  /** @param {Followed} asked @param {AbortSignal} signal */
  async #begin({ model }, signal) {
    try {
      return (await this.api.begin(model, signal)).id;
    } catch (error) {
      throw error instanceof Refused && error.status === 0 ? new Broken(error.message) : error;
    }
  }

  /** End a turn; one whose id is not known is looked for in its conversation. @param {Followed} asked */
  async stop({ conversation, turn, id }) {
    try {
      const known = turn || (conversation ? await this.#turnOf(conversation, id) : "");
      if (known && !this.socket.stop(known)) await this.api.stop(known);
    } catch {
      // It cannot be said: the turn ends by itself once nobody has listened for a while.
    }
  }

  /** @param {string} conversation @param {string} id */
  async #turnOf(conversation, id) {
    const { turns } = await this.api.open(conversation, "");
    return turns.find((one) => one.asked_as === id && one.state === "open")?.id ?? "";
  }
}

/** The answer as far as it has come: makes steps of messages, and notices what does not fit. */
class Reading {
  /** @param {Followed} asked */
  constructor(asked) {
    this.asked = asked;
    this.position = 0;
    this.isOver = false;
    this.wasLost = false;
  }

  /** @param {Message} message @returns {Generator<Step, void>} */
  *take(message) {
    const { asked } = this;
    if (message.turn) asked.turn = message.turn;
    switch (message.type) {
      case "begun":
      case "accepted":
        asked.conversation = message.conversation;
        yield { kind: "accepted", conversation: asked.conversation, turn: asked.turn, remaining: message.remaining };
        break;
      case "begin":
        if ((message.seq ?? 0) > this.position) throw new Broken("Text is missing.", 0, true);
        yield headOf(message);
        yield { kind: "memory", lost: message.memory === "lost", pruned: message.pruned?.turns ?? 0 };
        break;
      case "delta":
        if (message.seq !== this.position + bytesOf(message.text)) throw new Broken("Text is missing.", 0, true);
        this.position = message.seq;
        yield { kind: "text", text: message.text };
        break;
      case "end":
        if ((message.seq ?? 0) > this.position) throw new Broken("Text is missing.", 0, true);
        this.isOver = true;
        yield this.#ended(message);
        break;
      case "error":
        yield this.#failed(message);
    }
  }

  /** Return the last step of an answer that did not come. @param {import("./reply.js").Problem} problem
   * @param {number} status @returns {Step} */
  without(problem, status) {
    this.isOver = true;
    return { kind: this.position ? "cut" : "failed", problem, status };
  }

  /** @param {Message} message @returns {Step} */
  #failed(message) {
    const problem = problemOf(message, null);
    if (problem.code === "shutting_down" && !message.turn) {
      throw new Broken(problem.message, problem.retryAfterS ?? 1); // another process takes it
    }
    if (this.wasLost && this.asked.turn && problem.code === "conversation_not_found") {
      return this.without(interrupted(), 0); // it was not kept, and its process is gone
    }
    return this.without(problem, message.status ?? STATUS.get(message.error?.type) ?? 0);
  }

  /** @param {Message} message @returns {Step} */
  #ended({ outcome, finish, kept, grounding }) {
    if (outcome === "complete" || outcome === "degraded") return { kind: "whole", finish: finish ?? "", kept, grounding };
    if (outcome !== "cancelled") return this.without(interrupted(), 200);
    return this.wasLost ? this.without(away(), 200) : { kind: "stopped" };
  }
}

const STATUS = new Map([
  ["invalid_request_error", 400], ["authentication_error", 401], ["permission_error", 403], ["not_found_error", 404],
  ["rate_limit_error", 429], ["service_unavailable_error", 503], ["server_error", 500],
]);

/**
 * Yield the steps of a question, to exactly one of whole | cut | failed | stopped; none once it is left.
 * @param {Carriers} carriers @param {Followed} asked what is learned of the turn is noted in it
 * @param {AbortSignal} signal @returns {AsyncGenerator<Step, void>}
 */
export async function* follow(carriers, asked, signal) {
  const reading = new Reading(asked);
  let futile = 0; // attempts in a row that brought nothing, though the service was there
  for (let attempt = 0; ; attempt += 1) {
    try {
      for await (const message of carriers.messages(asked, reading.position, signal)) {
        if (message.type === "delta" || message.type === "accepted") attempt = futile = 0;
        yield* reading.take(message);
        if (reading.isOver) return;
      }
      throw new Broken("The stream ended without an end.", 0, true);
    } catch (error) {
      if (signal.aborted) {
        if (signal.reason === LEFT) return;
        carriers.stop(asked);
        yield { kind: "stopped" };
        return;
      }
      if (error instanceof Refused) {
        yield reading.without(error.problem, error.status);
        return;
      }
      if (!(error instanceof Broken)) throw error;
      if (error.reached) futile += 1;
      if (futile >= FUTILE_MAX) {
        yield reading.without(unfinished(), 0);
        return;
      }
      reading.wasLost = true;
      yield { kind: "lost" };
      await pause(waitS(attempt, error.retryAfterS), signal);
    }
  }
}

/** Return how long to wait: longer each time, and never all clients at once. @param {number} attempt
 * @param {number} leastS */
export function waitS(attempt, leastS) {
  const mostS = Math.min(WAIT_MAX_S, WAIT_MIN_S * 2 ** attempt);
  return leastS + mostS * (0.5 + Math.random() / 2);
}

/** Wait; not longer than until the browser is online again, or the wait is not wanted. @param {number} seconds
 * @param {AbortSignal} signal @returns {Promise<void>} */
export function pause(seconds, signal) {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const end = () => {
      clearTimeout(timer);
      removeEventListener("online", end);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, seconds * 1000);
    addEventListener("online", end);
    signal.addEventListener("abort", end);
  });
}

/** @param {Message} begin @returns {Step} */
function headOf({ route, target, trail, degraded }) {
  const head = { route: route ?? "", target: target ?? "", degraded: degraded ?? "", cache: "", id: "" };
  return { kind: "head", head: { ...head, trail: parseTrail(trail || null) } };
}

/** Say why an answer is not whole, where the reason is not known. */
export function interrupted() {
  return ownProblem("This answer was interrupted; the reason is not known.", "Ask again for the whole answer.", "");
}

function away() {
  const message = "The connection was lost for too long, so this answer was ended.";
  return ownProblem(message, "Ask again for the whole answer.", "");
}
