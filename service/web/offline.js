/** The banner of a browser that is offline: it says so itself, and a request has failed. Either alone is often wrong. */

import { byId } from "./dom.js";

let hasFailed = false;

/** Says `unreachable` each time that a request has not reached the service. */
export const network = new EventTarget();

/** Note whether the last request reached the service. @param {boolean} worked */
export function noteRequest(worked) {
  hasFailed = !worked;
  show();
  if (hasFailed) network.dispatchEvent(new Event("unreachable"));
}

function show() {
  byId("offline").hidden = navigator.onLine || !hasFailed;
}

addEventListener("online", show);
addEventListener("offline", show);
