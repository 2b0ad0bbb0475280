/** Reads the replies of the service: JSON, server-sent events and errors. A proxy in front may have sent others. */

import { parseTrail, trailEntries } from "./labels.js";
import { SseReader } from "./sse.js";

/** @typedef {import("./labels.js").TrailEntry} TrailEntry */
/**
 * @typedef {{message: string, suggestion: string, id: string, code: string, retryAfterS: number | null,
 *   trail: TrailEntry[]}} Problem
 * @typedef {{target: string, route: string, cache: string, degraded: string, id: string,
 *   trail: TrailEntry[]}} Head
 */

/** The connection to the service ended, or could not be had: nobody knows what became of what was asked. */
export class Broken extends Error {
  /** @param {string} why @param {number} retryAfterS how long to wait at least @param {boolean} reached whether the
   * service was there */
  constructor(why, retryAfterS = 0, reached = false) {
    super(why);
    this.retryAfterS = retryAfterS;
    this.reached = reached;
  }
}

/** Yield the data of each server-sent event. @param {Response} response @returns {AsyncGenerator<string, void>} */
export async function* eventsOf(response) {
  if (!response.body) return;
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const events = new SseReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      for (const { data } of events.feed(decoder.decode(value, { stream: true }))) yield data;
    }
  } finally {
    reader.cancel().catch(() => {}); // the stream may have ended or failed already
  }
}

/** @param {Headers} headers @returns {Head} */
export function headOf(headers) {
  const target = headers.get("x-dub5-target") ?? "";
  const trail = parseTrail(headers.get("x-dub5-trail"));
  const cache = headers.get("x-dub5-cache") ?? "";
  const degraded = headers.get("x-dub5-degraded") ?? "";
  const [route, id] = [headers.get("x-dub5-route") ?? "", headers.get("x-request-id") ?? ""];
  return { target, trail, cache, degraded, route, id };
}

/** Read the service's error shape leniently. @param {any} body @param {Head | null} head @returns {Problem} */
export function problemOf(body, head) {
  const error = body?.error ?? {};
  const message = error.message || "The service returned an invalid response.";
  return {
    message: message.replace(` ${error.suggestion}`, ""), // which the page shows by itself
    suggestion: error.suggestion || "Try again; if it recurs, check the proxy in front of the service.",
    id: error.id || head?.id || "",
    code: error.code || "",
    retryAfterS: typeof error.retry_after === "number" ? error.retry_after : null,
    trail: error.attempts?.length ? trailEntries(error.attempts) : (head?.trail ?? []),
  };
}

/** @param {string} message @param {string} suggestion @param {string} code @returns {Problem} */
export function ownProblem(message, suggestion, code) {
  return { message, suggestion, code, id: "", retryAfterS: null, trail: [] };
}

export function unfinished() {
  return ownProblem("The stream ended without a finish reason.", "Ask again.", "unfinished");
}

/** @param {boolean} hasText @param {unknown} error */
export function unreachable(hasText, error) {
  const why = error instanceof Error ? error.message : String(error);
  if (hasText) return ownProblem("The connection to the service broke.", "Ask again.", why);
  const suggestion = "Check that it runs and that you are online, then try again.";
  return ownProblem("The service is unreachable.", suggestion, why);
}

/** @param {Response} response @returns {Promise<any>} */
export async function bodyOf(response) {
  return parsed(await response.text());
}

/** @param {string} text @returns {any} */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // not JSON: the caller reports it
  }
}
