/**
 * The client of the conversations API. They belong to the session, whose cookie the browser sends by itself.
 *
 *     list, open, begin, rename, remove -> data, or throws Refused
 *     ask, events                       -> the messages of a turn (protocol dub5.v1), over HTTP; or throws Broken
 *
 * The messages: accepted, begin, delta*, then end or error. An answer that comes as JSON is made into the same ones.
 */

import { Api } from "./api.js";
import { Broken, bodyOf, eventsOf, parsed } from "./reply.js";

/** @typedef {import("./socket.js").Message} Message */
/**
 * @typedef {{id: string, title: string, model: string, used_at: number, kept: boolean,
 *   document?: string}} Conversation `document`: the id of what it asks about
 * @typedef {{id: string, conversation: string, asked_as: string, question: {text: string}, answer: {text: string} | null,
 *   state: "open" | "ended", outcome: string | null, finish: string | null, target: string | null,
 *   asked_at: number, ended_at: number | null, kept: boolean, degraded?: string,
 *   pruned?: {turns: number}, memory?: string, grounding?: Grounding}} KeptTurn
 * @typedef {{grounded: boolean, sources: {number: number, text: string, page: number | null}[],
 *   withheld: number}} Grounding of an answer about a document
 * @typedef {{text: string, id: string, model: string, stream: boolean}} Asked
 */

const PATH = "/v1/conversations";
const TURNS = "/v1/turns";
const PROXY = new Set([502, 503, 504]); // what a proxy says for a service that it cannot reach

export class Conversations extends Api {
  /** @param {string} before the id of the last one that is known; "": the newest
   * @returns {Promise<{data: Conversation[], has_more: boolean}>} */
  list(before) {
    return this.json("GET", before ? `${PATH}?before=${before}` : PATH);
  }

  /** @param {string} id @param {string} before the id of the oldest turn that is known; "": the newest
   * @returns {Promise<Conversation & {turns: KeptTurn[], has_more: boolean}>} */
  open(id, before) {
    return this.json("GET", before ? `${PATH}/${id}?before=${before}` : `${PATH}/${id}`);
  }

  /** Return the name of a document. @param {string} document @returns {Promise<string>} */
  async nameOf(document) {
    return (await this.json("GET", `/v1/documents/${document}`)).name;
  }

  /** @param {string} model @param {AbortSignal} signal @returns {Promise<Conversation>} */
  begin(model, signal) {
    return this.json("POST", PATH, { model }, signal);
  }

  /** @param {string} id @param {string} title @returns {Promise<Conversation>} */
  rename(id, title) {
    return this.json("PATCH", `${PATH}/${id}`, { title });
  }

  /** @param {string} id @returns {Promise<void>} */
  remove(id) {
    return this.json("DELETE", `${PATH}/${id}`);
  }

  /** End a turn. @param {string} turn @returns {Promise<void>} */
  stop(turn) {
    return this.json("POST", `${TURNS}/${turn}/stop`);
  }

  /** Return a ticket of the caller, for a connection that cannot send its key. @returns {Promise<string>} */
  async ticket() {
    return (await this.json("POST", "/v1/session/ticket")).ticket;
  }

  /** Ask a question. @param {string} conversation @param {Asked} asked @param {AbortSignal} signal
   * @returns {AsyncGenerator<Message, void>} */
  async *ask(conversation, { text, id, model, stream }, signal) {
    const body = { text, id, model, stream };
    const response = await this.#reach(() => this.send("POST", `${PATH}/${conversation}/turns`, body, signal));
    yield* messagesOf(response, stream ? streamed : whole, signal);
  }

  /** Read on in a turn. @param {string} turn @param {number} after @param {AbortSignal} signal
   * @returns {AsyncGenerator<Message, void>} */
  async *events(turn, after, signal) {
    const path = `${TURNS}/${turn}/events?after=${after}`;
    yield* messagesOf(await this.#reach(() => this.send("GET", path, undefined, signal)), streamed, signal);
  }

  /** Return the reply to a request. Throws Broken. @param {() => Promise<Response>} send */
  async #reach(send) {
    try {
      return await send();
    } catch (error) {
      throw brokenBy(error);
    }
  }
}

/**
 * Yield the messages of a reply; one of an error that is none of ours is no reply. Throws Broken.
 * @param {Response} response @param {(response: Response) => AsyncGenerator<Message, void>} read
 * @param {AbortSignal} signal @returns {AsyncGenerator<Message, void>}
 */
async function* messagesOf(response, read, signal) {
  try {
    if (response.ok) yield* read(response);
    else yield errorOf(await bodyOf(response), response.status);
  } catch (error) {
    throw signal.aborted ? signal.reason : brokenBy(error);
  }
}

/** @param {Response} response @returns {AsyncGenerator<Message, void>} */
async function* streamed(response) {
  for await (const data of eventsOf(response)) {
    const message = parsed(data);
    if (message?.type === "accepted") message.remaining ??= remainingIn(response);
    if (typeof message?.type === "string") yield message;
  }
}

/** @param {Response} response @returns {AsyncGenerator<Message, void>} */
async function* whole(response) {
  /** @type {KeptTurn | null} */
  const turn = await bodyOf(response);
  if (!turn?.question) {
    yield errorOf(turn, response.status);
    return;
  }
  const { id, conversation, target, degraded, pruned, memory, outcome, finish, kept, grounding } = turn;
  const [text, trail] = [turn.answer?.text ?? "", response.headers.get("x-dub5-trail") ?? ""];
  const route = response.headers.get("x-dub5-route") ?? "";
  const seq = bytesOf(text);
  yield { type: "accepted", turn: id, conversation, remaining: remainingIn(response) };
  yield { type: "begin", turn: id, seq: 0, route, target, trail, degraded, pruned, memory };
  if (text) yield { type: "delta", turn: id, seq, text };
  yield { type: "end", turn: id, seq, outcome, finish, kept, grounding };
}

/** @param {any} body @param {number} status @returns {Message} */
function errorOf(body, status) {
  if (!body?.error && (status < 400 || PROXY.has(status))) throw new Broken("No reply of the service.", 0, true);
  return { type: "error", error: body?.error ?? {}, status };
}

/** @param {unknown} error */
function brokenBy(error) {
  return error instanceof Broken ? error : new Broken(error instanceof Error ? error.message : String(error));
}

/** Return how many questions the tightest rate limit leaves. @param {Response} response */
function remainingIn(response) {
  const left = response.headers.get("x-ratelimit-remaining-requests");
  return left === null ? undefined : Number(left);
}

const encoder = new TextEncoder();

/** Return how many bytes a text has. @param {string} text */
export function bytesOf(text) {
  return encoder.encode(text).length;
}
