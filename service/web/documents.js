/**
 * The client of documents and decks. Each call returns data, or throws Refused.
 *
 *     watch(job) -> the job on each change, and null while the connection is lost, until the job has ended
 */

import { Api, Refused } from "./api.js";
import { pause, waitS } from "./follow.js";
import { network } from "./offline.js";
import { bodyOf, eventsOf, headOf, parsed, problemOf, unreachable } from "./reply.js";

/**
 * @typedef {{id: string, name: string, kind: string, bytes: number, pages: number, tokens: number, flags: string[],
 *   created_at: number, used_at: number}} Document
 * @typedef {{id: string, state: "ready" | "running" | "done" | "failed", done: number, steps: number,
 *   problem: string | null}} Job
 * @typedef {{number: number, front: string, back: string, quote: string | null, source: "model" | "template",
 *   part: number}} Card
 * @typedef {{id: string, title: string, document: string | null, model: string, job: Job | null, cards?: Card[],
 *   parts: number, template_parts: number, created_at: number}} Deck
 */
/** @template T @typedef {{data: T[], has_more: boolean}} Page */

const DOCUMENTS = "/v1/documents";
const DECKS = "/v1/decks";

export class Documents extends Api {
  /** @param {string} before the id of the last one that is known; "": the newest @returns {Promise<Page<Document>>} */
  list(before) {
    return this.json("GET", before ? `${DOCUMENTS}?before=${before}` : DOCUMENTS);
  }

  /** @param {string} id @returns {Promise<void>} */
  remove(id) {
    return this.json("DELETE", `${DOCUMENTS}/${id}`);
  }

  /** Begin a conversation about a document; return its id. @param {string} document @returns {Promise<string>} */
  async askAbout(document) {
    return (await this.json("POST", "/v1/conversations", { document })).id;
  }

  /** @param {string} before the id of the last one that is known; "": the newest @returns {Promise<Page<Deck>>} */
  decks(before) {
    return this.json("GET", before ? `${DECKS}?before=${before}` : DECKS);
  }

  /** @param {string} id @returns {Promise<Deck>} */
  deck(id) {
    return this.json("GET", `${DECKS}/${id}`);
  }

  /** Begin to make a deck. @param {string} document @param {number} cards at most @returns {Promise<Deck>} */
  make(document, cards) {
    return this.json("POST", DECKS, { document, cards });
  }

  /** Ask a model again for the parts whose cards are from the text alone. @param {string} id @returns {Promise<Deck>} */
  retry(id) {
    return this.json("POST", `${DECKS}/${id}/retry`);
  }

  /** @param {string} id @returns {Promise<void>} */
  removeDeck(id) {
    return this.json("DELETE", `${DECKS}/${id}`);
  }

  /** @param {string} job @returns {Promise<void>} */
  stop(job) {
    return this.json("POST", `/v1/jobs/${job}/stop`);
  }

  /** Return a file of a deck. @param {string} id @param {"cards.csv" | "cards.txt"} name */
  async file(id, name) {
    const response = await this.#opened(`${DECKS}/${id}/${name}`);
    return response.blob();
  }

  /** Follow a job, however often the connection is lost. @param {string} id @param {AbortSignal} signal
   * @returns {AsyncGenerator<Job | null, void>} */
  async *watch(id, signal) {
    for (let attempt = 0; !signal.aborted; attempt += 1) {
      try {
        for await (const job of this.#progress(id, signal)) {
          attempt = 0;
          yield job;
          if (hasEnded(job)) return;
        }
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Refused && [401, 404].includes(error.status)) throw error;
      }
      yield null;
      await pause(waitS(attempt, 0), signal);
    }
  }

  /** @param {string} id @param {AbortSignal} signal @returns {AsyncGenerator<Job, void>} */
  async *#progress(id, signal) {
    const leaving = new AbortController(); // a stream that a network has lost stays open: it is read on by another
    const onUnreachable = () => leaving.abort();
    network.addEventListener("unreachable", onUnreachable);
    try {
      const response = await this.#opened(`/v1/jobs/${id}/events`, AbortSignal.any([signal, leaving.signal]));
      for await (const data of eventsOf(response)) {
        const job = parsed(data);
        if (job?.object === "job") yield job;
      }
    } finally {
      network.removeEventListener("unreachable", onUnreachable);
    }
  }

  /** Return a reply that is no error. Throws Refused. @param {string} path @param {AbortSignal} [signal] */
  async #opened(path, signal) {
    let response;
    try {
      response = await this.send("GET", path, undefined, signal);
    } catch (error) {
      throw new Refused(unreachable(false, error), 0);
    }
    if (response.ok) return response;
    throw new Refused(problemOf(await bodyOf(response), headOf(response.headers)), response.status);
  }
}

/** Return whether nothing of a job is left to do. @param {Job | null} job */
export function hasEnded(job) {
  return !job || job.state === "done" || job.state === "failed";
}

/** Say what was in the way, and what to do. @param {unknown} error */
export function sayingOf(error) {
  if (!(error instanceof Refused)) throw error;
  return `${error.problem.message} ${error.problem.suggestion}`.trim();
}
