/**
 * A client of the service's API. What it reads belongs to the caller: to the session, whose cookie the browser sends
 * by itself, or to the key.
 *
 *     json -> data, or throws Refused        send -> the reply, whatever it says
 */

import { bodyOf, headOf, problemOf, unreachable } from "./reply.js";

/** @typedef {import("./reply.js").Problem} Problem */
/** @typedef {import("./chat.js").Caller} Caller */

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

/** Sends requests as the caller. */
export class Api {
  /** @param {Caller} caller */
  constructor(caller) {
    this.caller = caller;
  }

  /** @param {string} method @param {string} path @param {object} [body] @param {AbortSignal} [signal]
   * @returns {Promise<any>} */
  async json(method, path, body, signal) {
    let response;
    try {
      response = await this.send(method, path, body, signal);
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
  async send(method, path, body, signal) {
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
