/**
 * The client of the chat API: one question to the service, as a generator of steps.
 *
 *     head -> text* -> exactly one of  whole | cut (after text) | failed (before any) | stopped (by the user)
 *
 * A stream that ends without a finish reason is never whole.
 */

import { SseReader } from "./sse.js";
import { parseTrail, trailEntries } from "./labels.js";

/** @typedef {import("./labels.js").TrailEntry} TrailEntry */
/**
 * @typedef {{message: string, suggestion: string, id: string, code: string, retryAfterS: number | null,
 *   trail: TrailEntry[]}} Problem
 * @typedef {{target: string, route: string, cache: string, degraded: string, id: string,
 *   trail: TrailEntry[]}} Head
 * @typedef {{kind: "head", head: Head} | {kind: "degraded", source: string} | {kind: "text", text: string}
 *   | {kind: "whole", finish: string} | {kind: "cut" | "failed", problem: Problem, status: number}
 *   | {kind: "stopped"}} Step
 * @typedef {{model: string, messages: {role: string, content: string}[], stream: boolean,
 *   repeatable: boolean}} Question
 */

/**
 * @param {Question} question
 * @param {Record<string, string>} headers
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<Step, void>}
 */
export async function* ask(question, headers, signal) {
  let hasText = false; // whether any text has come
  let status = 0;
  try {
    const response = await post(question, headers, signal);
    status = response.status;
    const head = headOf(response.headers);
    if (!response.ok) {
      const problem = problemOf(await bodyOf(response), head);
      yield { kind: "failed", problem, status };
      return;
    }
    yield { kind: "head", head };
    for await (const step of question.stream ? streamed(response) : whole(response)) {
      hasText ||= step.kind === "text" && step.text !== "";
      yield step.kind === "cut" && !hasText ? { ...step, kind: "failed", status } : step;
      if (step.kind !== "text" && step.kind !== "degraded") return;
    }
  } catch (error) {
    if (signal.aborted) yield { kind: "stopped" };
    else yield { kind: hasText ? "cut" : "failed", problem: unreachable(hasText, error), status };
  }
}

/** @param {Question} question @param {Record<string, string>} headers @param {AbortSignal} signal */
function post({ model, messages, stream, repeatable }, headers, signal) {
  const body = { model, messages, stream, ...(repeatable ? { temperature: 0 } : {}) };
  return fetch("/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
    signal,
  });
}

/** @param {Response} response @returns {AsyncGenerator<Step, void>} */
async function* streamed(response) {
  let finish = "";
  for await (const data of eventsOf(response)) {
    if (data === "[DONE]") break;
    const chunk = parsed(data);
    if (chunk?.error) {
      yield { kind: "cut", problem: problemOf(chunk, null), status: response.status };
      return;
    }
    if (chunk?.degraded?.source) yield { kind: "degraded", source: chunk.degraded.source };
    const choice = chunk?.choices?.[0];
    const text = choice?.delta?.content ?? choice?.delta?.refusal;
    if (typeof text === "string" && text !== "") yield { kind: "text", text };
    finish ||= choice?.finish_reason ?? "";
  }
  if (finish) yield { kind: "whole", finish };
  else yield { kind: "cut", problem: unfinished(), status: response.status };
}

/** @param {Response} response @returns {AsyncGenerator<string, void>} */
async function* eventsOf(response) {
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

/** @param {Response} response @returns {AsyncGenerator<Step, void>} */
async function* whole(response) {
  const body = await bodyOf(response);
  const choice = body?.choices?.[0];
  const text = choice?.message?.content ?? choice?.message?.refusal;
  if (typeof text === "string" && text !== "") yield { kind: "text", text };
  if (choice?.finish_reason) yield { kind: "whole", finish: choice.finish_reason };
  else {
    const problem = body?.error ? problemOf(body, null) : unfinished();
    yield { kind: "cut", problem, status: response.status };
  }
}

/** @param {Headers} headers @returns {Head} */
function headOf(headers) {
  const target = headers.get("x-dub5-target") ?? "";
  const trail = parseTrail(headers.get("x-dub5-trail"));
  const cache = headers.get("x-dub5-cache") ?? "";
  const degraded = headers.get("x-dub5-degraded") ?? "";
  const [route, id] = [headers.get("x-dub5-route") ?? "", headers.get("x-request-id") ?? ""];
  return { target, trail, cache, degraded, route, id };
}

/**
 * Read the service's error shape leniently: a proxy in front may have answered instead.
 * @param {any} body @param {Head | null} head @returns {Problem}
 */
function problemOf(body, head) {
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
function ownProblem(message, suggestion, code) {
  return { message, suggestion, code, id: "", retryAfterS: null, trail: [] };
}

function unfinished() {
  return ownProblem("The stream ended without a finish reason.", "Ask again.", "unfinished");
}

/** @param {boolean} hasText @param {unknown} error */
function unreachable(hasText, error) {
  const why = error instanceof Error ? error.message : String(error);
  if (hasText) return ownProblem("The connection to the service broke.", "Ask again.", why);
  const suggestion = "Check that it runs and that you are online, then try again.";
  return ownProblem("The service is unreachable.", suggestion, why);
}

/** @param {Response} response @returns {Promise<any>} */
async function bodyOf(response) {
  return parsed(await response.text());
}

/** @param {string} text @returns {any} */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // not JSON: the caller reports it
  }
}
