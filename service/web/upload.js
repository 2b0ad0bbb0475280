/** Sends a file to the service, and says how much of it has gone: by XMLHttpRequest, for fetch does not tell. */

import { Refused, beginSession } from "./api.js";
import { headOf, parsed, problemOf, unreachable } from "./reply.js";

/** @typedef {import("./documents.js").Document} Document */

/**
 * Return the document that the service has made of a file. Throws Refused, or the reason of `signal`.
 * @param {File} file @param {import("./chat.js").Caller} caller @param {(share: number) => void} onProgress
 * @param {AbortSignal} signal @returns {Promise<Document>}
 */
export async function upload(file, caller, onProgress, signal) {
  const headers = caller.headers();
  try {
    return await sent(file, headers, onProgress, signal);
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 401) throw error;
    if (error.problem.code !== "session_required") {
      caller.unauthorized(headers);
      throw error;
    }
    await beginSession(headers);
    return sent(file, headers, onProgress, signal);
  }
}

/** @param {File} file @param {Record<string, string>} headers @param {(share: number) => void} onProgress
 * @param {AbortSignal} signal @returns {Promise<Document>} */
function sent(file, headers, onProgress, signal) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const request = new XMLHttpRequest();
    const stop = () => request.abort();
    signal.addEventListener("abort", stop);
    request.upload.onprogress = ({ loaded, total }) => onProgress(total ? loaded / total : 0);
    request.upload.onload = () => onProgress(1);
    request.onload = () => {
      const data = parsed(request.responseText);
      if (request.status < 300 && data?.id) return resolve(data);
      reject(new Refused(problemOf(data, headOf(headersOf(request))), request.status));
    };
    request.onerror = () => reject(new Refused(unreachable(false, new Error("The upload was interrupted.")), 0));
    request.onabort = () => reject(signal.reason);
    request.onloadend = () => signal.removeEventListener("abort", stop);
    request.open("POST", `/v1/documents?name=${encodeURIComponent(file.name)}`);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.setRequestHeader("content-type", "application/octet-stream"); // one that no form can send
    request.send(file);
  });
}

/** @param {XMLHttpRequest} request */
function headersOf(request) {
  const id = request.getResponseHeader("x-request-id");
  return new Headers(id ? { "x-request-id": id } : {});
}
