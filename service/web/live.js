/** The live part: asks GET /status each second while somebody looks, and less often while nobody answers. */

import { Card } from "./cards.js";
import { byId, h, icon, onChange, put } from "./dom.js";
import { trailOf } from "./turn.js";
import { count, dollars, duration, happenedInWords, incidentInWords, reducedInWords, spentInWords, timeOfDay, triesOf } from "./words.js";

/** @typedef {{at: number | string, what: string, target: string | null, why: string | null}} Incident */
/**
 * @typedef {{id: string, at: number | string, route: string, outcome: string, target: string | null, stream: boolean, cached?: boolean, cost_usd?: number | null,
 *   first_token_ms: number | null, total_ms: number | null, attempts: import("./words.js").Attempt[]}} Recent
 * @typedef {{version: string, started: number | string, draining: boolean, in_flight: number,
 *   outcomes: Record<string, number>, happened: Record<string, number>, routes: {name: string, targets: string[], features?: Record<string, string>}[],
 *   spent?: {billed: import("./words.js").Spent, maybe: import("./words.js").Spent}, targets: import("./cards.js").Target[], recent: Recent[], incidents: Incident[]}} Status
 */

const EVERY_MS = 1_000;
const EVERY_MAX_MS = 15_000;
const ANSWER_MAX_MS = 5_000;
const INCIDENTS_SHOWN = 8;
const RECENT_SHOWN = 12;

const OUTCOMES = new Map([
  ["complete", "ok"],
  ["degraded", "substitute"],
  ["refused", "refused"],
  ["failed", "bad"],
  ["cut", "cut"],
  ["cancelled", "stop"],
]);

/** @param {import("./chat.js").Caller} caller @param {(status: Status) => void} onStatus */
export function startLive(caller, onStatus) {
  const live = new Live(caller, onStatus);
  document.addEventListener("visibilitychange", () => (document.hidden ? live.pause() : live.now()));
  live.showOutcomes({}); // a dash each, until the service has said
  if (document.hidden) live.pause();
  else live.now();
  return live;
}

/** The service is there, and does not tell. */
class StatusRefused extends Error {}

class Live {
  /** @param {import("./chat.js").Caller} caller @param {(status: Status) => void} onStatus */
  constructor(caller, onStatus) {
    this.caller = caller;
    this.onStatus = onStatus;
    this.waitMs = EVERY_MS;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.asking = false;
    this.answeredAt = 0; // epoch seconds of the last answer
    /** @type {Map<string, Card>} */
    this.cards = new Map();
    this.showIncidents = onChange(showIncidents);
    this.showRecent = onChange(showRecent);
    this.showOutcomes = onChange(showOutcomes);
    this.showHappened = onChange(showHappened);
  }

  /** Asks at once, and then again and again. */
  async now() {
    clearTimeout(this.timer);
    if (this.asking) return;
    this.asking = true;
    try {
      this.show(await this.fetch());
      this.waitMs = EVERY_MS;
    } catch (error) {
      this.showUnreachable(error instanceof StatusRefused ? error.message : "no word from the service");
    } finally {
      this.asking = false;
    }
    if (document.hidden) this.pause();
    else this.timer = setTimeout(() => this.now(), this.waitMs);
  }

  pause() {
    clearTimeout(this.timer);
    showLink("paused", "paused while this tab is hidden");
  }

  /** @returns {Promise<Status>} */
  async fetch() {
    const response = await fetch("/status", {
      headers: this.caller.headers(),
      cache: "no-store",
      signal: AbortSignal.timeout(ANSWER_MAX_MS),
    });
    if (response.status === 401) {
      this.caller.unauthorized();
      throw new StatusRefused("the service wants a key");
    }
    if (!response.ok) throw new StatusRefused(`the service answers with status ${response.status}`);
    return response.json();
  }

  /** @param {string} why */
  showUnreachable(why) {
    this.waitMs = Math.min(this.waitMs * 2, EVERY_MAX_MS);
    const since = this.answeredAt ? ` since ${timeOfDay(this.answeredAt)}` : "";
    showLink("gone", `reconnecting: ${why}${since}`);
    byId("live").dataset.stale = String(Boolean(this.answeredAt));
    put(byId("stale"), this.answeredAt ? `as of ${timeOfDay(this.answeredAt)}` : why);
  }

  /** @param {Status} status */
  show(status) {
    this.answeredAt = Date.now() / 1000;
    byId("live").dataset.stale = "false";
    put(byId("stale"), `${count(status.in_flight)} request${status.in_flight === 1 ? "" : "s"} under way`);
    if (status.draining) showLink("draining", "shutting down: answers under way are finished, new ones refused");
    else showLink("live", "live");
    const up = this.answeredAt - epochS(status.started);
    put(byId("since"), up < 90 ? "in the last minute" : `in the last ${duration(up * 1000)}`);
    this.showOutcomes(status.outcomes ?? {});
    this.showHappened(status.happened ?? {});
    const priced = (status.targets ?? []).filter((target) => target.priced).length;
    byId("spent").hidden = priced === 0;
    put(byId("spent"), spentInWords(status.spent, priced < status.targets?.length));
    const reduced = reducedInWords(status.routes ?? []);
    byId("reduced").hidden = reduced === "";
    put(byId("reduced"), reduced);
    this.showTargets(status.targets ?? []);
    this.showIncidents((status.incidents ?? []).slice().sort(newestFirst).slice(0, INCIDENTS_SHOWN));
    this.showRecent((status.recent ?? []).slice().sort(newestFirst).slice(0, RECENT_SHOWN));
    this.onStatus(status);
  }

  /** @param {import("./cards.js").Target[]} targets */
  showTargets(targets) {
    const list = byId("targets");
    if (targets.length !== this.cards.size || targets.some((t) => !this.cards.has(t.name))) {
      this.cards = new Map(targets.map((t) => [t.name, this.cards.get(t.name) ?? new Card()]));
      list.replaceChildren(...[...this.cards.values()].map((card) => card.node));
      list.setAttribute("aria-busy", "false");
    }
    for (const target of targets) this.cards.get(target.name)?.update(target);
    const well = targets.filter((t) => t.health === "healthy").length;
    const badge = byId("live-count");
    badge.hidden = targets.length === 0;
    badge.dataset.well = String(well === targets.length);
    put(badge, `${well} of ${targets.length} healthy`);
  }
}

/** @param {string} state @param {string} text */
function showLink(state, text) {
  byId("link").dataset.state = state;
  put(byId("link"), text);
}

/** @param {number | string} at */
function epochS(at) {
  return typeof at === "number" ? at : Date.parse(at) / 1000;
}

/** @param {{at: number | string}} a @param {{at: number | string}} b */
function newestFirst(a, b) {
  return epochS(b.at) - epochS(a.at);
}

/** @param {Record<string, number>} outcomes */
function showOutcomes(outcomes) {
  byId("outcomes").replaceChildren(
    ...[...OUTCOMES].map(([name, mark]) => {
      const n = outcomes[name];
      return h(`div.outcome.${name}`, { "data-zero": String(!n) }, h("dt", {}, icon(mark), name), h("dd", {}, count(n)));
    }),
  );
}

/** @param {Record<string, number>} happened */
function showHappened(happened) {
  const said = Object.entries(happened).filter(([, n]) => n > 0).map(([what, n]) => happenedInWords(what, n));
  put(byId("happened"), said.join(" · ") || "No failover, no breaker has moved.");
}

/** @param {Incident[]} incidents */
function showIncidents(incidents) {
  const marks = new Map([["breaker_opened", "open"], ["breaker_half_opened", "half_open"], ["breaker_closed", "closed"], ["breaker_isolated", "isolated"], ["settings_reloaded", "ok"], ["stream_cut", "cut"]]);
  const none = h("li.none", {}, "Nothing has gone wrong since the service began.");
  const rows = incidents.map((incident) =>
    h(
      `li.incident.${incident.what}`, {},
      h("time", {}, timeOfDay(incident.at)),
      icon(marks.get(incident.what) ?? "degraded"),
      h("span", {}, h("strong", {}, incidentInWords(incident)), incident.why ? `: ${incident.why}` : ""),
    ),
  );
  byId("incidents").replaceChildren(...(rows.length ? rows : [none]));
}

/** @param {Recent[]} recent */
function showRecent(recent) {
  const none = h("li.none", {}, "No request yet. Ask something in the chat.");
  byId("recent").replaceChildren(...(recent.length ? recent.map(row) : [none]));
}

/** @param {Recent} request */
function row(request) {
  const tries = triesOf(request.attempts);
  const eventful = tries.length > 1 || tries.some((t) => t.reason !== "ok");
  const times = [request.first_token_ms && `first ${duration(request.first_token_ms)}`, `all ${duration(request.total_ms)}`, request.cost_usd && dollars(request.cost_usd)];
  return h(
    `li.request.${request.outcome}`, {},
    h("time", {}, timeOfDay(request.at)),
    h("span.outcome", {}, icon(OUTCOMES.get(request.outcome) ?? "wait"), request.outcome),
    h("span.who", {}, request.target ?? "nobody", request.cached ? h("span.badge.cached", {}, "cached") : ""),
    h("span.times", {}, times.filter(Boolean).join(" · ")),
    eventful && trailOf(tries, false),
  );
}
