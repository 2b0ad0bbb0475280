/**
 * The page's entry point: the chat, the live view, and the links between them.
 *
 *     chat.js  -- POST /v1/chat/completions, GET /v1/models     live.js -- GET /status, each second
 *        ^  |                                                      |
 *        |  +-- what the service has --> places.js -- study.js     |
 *        +------------- routes, and "the service is back" ---------+
 */

import { startChat } from "./chat.js";
import { byId, put } from "./dom.js";
import { startLive } from "./live.js";
import { Places, isElsewhere } from "./places.js";

const caller = {
  key: "",
  /** @returns {Record<string, string>} */
  headers() {
    return this.key ? { authorization: `Bearer ${this.key}` } : {};
  },
  /**
   * Ask for a key, after the service has answered 401, and say why if one was given.
   * @param {Record<string, string>} sent the headers of that request: an answer to an earlier key says nothing
   */
  unauthorized(sent) {
    if (sent.authorization !== this.headers().authorization) return;
    const form = byId("key-form");
    put(byId("key-why"), this.key ? "The service refused this key. Is it complete, and still valid?" : "");
    if (!form.hidden) return;
    form.hidden = false;
    byId("key").focus();
  },
};

/** Show one part; a narrow screen has room for one only. @param {"chat" | "live"} part */
function show(part) {
  document.body.dataset.part = part;
  byId("show-chat").setAttribute("aria-pressed", String(part === "chat"));
  byId("show-live").setAttribute("aria-pressed", String(part === "live"));
}

const places = new Places(caller);
const chat = startChat(caller, (list) => places.offer(list.documents ?? null));
const live = startLive(caller, (status) => chat.updateRoutes(status.routes ?? []));

byId("show-chat").addEventListener("click", () => {
  if (isElsewhere()) location.hash = "#question";
  show("chat");
});
byId("show-live").addEventListener("click", () => show("live"));

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  caller.key = /** @type {HTMLInputElement} */ (byId("key")).value.trim();
  byId("key-form").hidden = true;
  chat.loadModels();
  live.now();
});
