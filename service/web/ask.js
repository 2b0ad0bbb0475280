/**
 * The client of the chat API: one question to the service, as a generator of steps.
 *
 *     head -> text* -> exactly one of  whole | cut (after text) | failed (before any) | stopped (by the user)
 *
 * A stream that ends without a finish reason is never whole. What is asked in a conversation that is kept has the
 * same steps (follow.js), and between them `accepted`, `lost` and `held`.
 */

import { bodyOf, eventsOf, headOf, parsed, problemOf, unfinished, unreachable } from "./reply.js";

/** @typedef {import("./reply.js").Problem} Problem */
/** @typedef {import("./conversations.js").Grounding} Grounding */
/** @typedef {import("./reply.js").Head} Head */
/**
 * @typedef {{kind: "head", head: Head} | {kind: "degraded", source: string} | {kind: "text", text: string}
 *   | {kind: "accepted", conversation: string, turn: string, remaining?: number} | {kind: "lost"}
 *   | {kind: "held", untilS: number}
 *   | {kind: "memory", lost: boolean, pruned: number}
 *   | {kind: "whole", finish: string, kept?: boolean, grounding?: Grounding} | {kind: "cut" | "failed", problem: Problem, status: number}
 *   | {kind: "stopped"}} Step
 * @typedef {{model: string, messages: {role: string, content: string}[], stream: boolean,
 *   repeatable: boolean}} Question
 */

/** Return earlier questions with an answer, then this one, as messages. @param {import("./turn.js").Turn[]} turns
 * @param {import("./turn.js").Turn} turn */
export function messagesOf(turns, turn) {
  const before = turns.slice(0, turns.indexOf(turn)).filter((t) => t.answer && !t.degraded);
  return [
    ...before.flatMap((t) => [{ role: "user", content: t.question }, { role: "assistant", content: t.answer }]),
    { role: "user", content: turn.question },
  ];
}

/**
 * @param {Question} question
 * @param {Record<string, string>} headers
 * @param {AbortSignal} signal
 */
export function ask(question, headers, signal) {
  return stepsOf(() => post(question, headers, signal), question.stream ? streamed : whole, signal);
}

/**
 * Send a request and yield its steps; `read` makes them of the body of a reply that is no error.
 * @param {() => Promise<Response>} send
 * @param {(response: Response) => AsyncGenerator<Step, void>} read
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<Step, void>}
 */
async function* stepsOf(send, read, signal) {
  let hasText = false; // whether any text has come
  let status = 0;
  try {
    const response = await send();
    status = response.status;
    const head = headOf(response.headers);
    if (!response.ok) {
      const problem = problemOf(await bodyOf(response), head);
      yield { kind: "failed", problem, status };
      return;
    }
    yield { kind: "head", head };
    for await (const step of read(response)) {
      hasText ||= step.kind === "text" && step.text !== "";
      yield step.kind === "cut" && !hasText ? { ...step, kind: "failed", status } : step;
      if (["whole", "cut", "failed", "stopped"].includes(step.kind)) return;
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
  let grounding;
  for await (const data of eventsOf(response)) {
    if (data === "[DONE]") break;
    const chunk = parsed(data);
    grounding ??= chunk?.grounding;
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
  if (finish) yield { kind: "whole", finish, grounding };
  else yield { kind: "cut", problem: unfinished(), status: response.status };
}

/** @param {Response} response @returns {AsyncGenerator<Step, void>} */
async function* whole(response) {
  const body = await bodyOf(response);
  const choice = body?.choices?.[0];
  const text = choice?.message?.content ?? choice?.message?.refusal;
  if (typeof text === "string" && text !== "") yield { kind: "text", text };
  if (choice?.finish_reason) yield { kind: "whole", finish: choice.finish_reason, grounding: body.grounding };
  else {
    const problem = body?.error ? problemOf(body, null) : unfinished();
    yield { kind: "cut", problem, status: response.status };
  }
}
