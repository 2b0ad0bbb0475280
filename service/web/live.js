/** The live view: polls GET /status each second while the tab is visible, slower if the service is down. */

import { Card } from "./cards.js";
import { byId, h, icon, onChange, put } from "./dom.js";
import { noteRequest } from "./offline.js";
import { trailOf } from "./turn.js";
import { costLabel, count, counterLabel, dollars, duration, incidentLabel } from "./labels.js";
import { reducedLabel, simulatedLabel, timeOfDay, trailEntries } from "./labels.js";

/** @typedef {{at: number | string, what: string, target: string | null, why: string | null}} Incident */
/**
 * @typedef {{id: string, at: number | string, route: string, outcome: string, target: string | null,
 *   stream: boolean, cached?: boolean, cost_usd?: number | null, first_token_ms: number | null,
 *   total_ms: number | null, attempts: import("./labels.js").Attempt[]}} Recent
 * @typedef {{version: string, started: number | string, draining: boolean, in_flight: number,
 *   outcomes: Record<string, number>, happened: Record<string, number>,
 *   routes: {name: string, targets: string[], features?: Record<string, string>}[],
 *   spent?: {billed: import("./labels.js").Cost, maybe: import("./labels.js").Cost},
 *   targets: import("./cards.js").Target[], recent: Recent[],
 *   incidents: Incident[]} & import("./operator.js").Watched} Status
 */

const EVERY_MS = 1_000;
const EVERY_MAX_MS = 15_000;
const ANSWER_MAX_MS = 5_000;
const INCIDENTS_SHOWN = 8;
const RECENT_SHOWN = 12;

const OUTCOMES = new Map([
  ["complete", "ok"],
  ["degraded", "fallback"],
  ["refused", "refused"],
  ["failed", "bad"],
  ["cut", "cut"],
  ["cancelled", "stop"],
]);

/** @param {import("./chat.js").Caller} caller @param {(status: Status) => void} onStatus */
export function startLive(caller, onStatus) {
  const live = new Live(caller, onStatus);
  document.addEventListener("visibilitychange", () => (document.hidden ? live.pause() : live.now()));
  for (const event of ["online", "offline"]) addEventListener(event, () => document.hidden || live.now());
  live.showOutcomes({}); // dashes until the first status
  if (document.hidden) live.pause();
  else live.now();
  return live;
}

/** The service responds, but without a status. */
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
    this.showCounters = onChange(showCounters);
    /** @type {import("./operator.js").Operator | null} */
    this.operator = null;
  }

  /** Poll at once, then after each `waitMs`. */
  async now() {
    clearTimeout(this.timer);
    if (this.asking) return;
    this.asking = true;
    try {
      this.show(await this.fetch());
      this.waitMs = EVERY_MS;
      noteRequest(true);
    } catch (error) {
      noteRequest(error instanceof StatusRefused);
      this.showUnreachable(error instanceof StatusRefused ? error.message : "the service does not respond");
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
    const headers = this.caller.headers();
    const response = await fetch("/status", {
      headers,
      cache: "no-store",
      signal: AbortSignal.timeout(ANSWER_MAX_MS),
    });
    if (response.status === 401) {
      this.caller.unauthorized(headers);
      throw new StatusRefused(headers.authorization ? "the service refused the key" : "the service requires a key");
    }
    if (!response.ok) throw new StatusRefused(`the service answered with status ${response.status}`);
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
    put(byId("stale"), `${count(status.in_flight)} request${status.in_flight === 1 ? "" : "s"} in flight`);
    if (status.draining) showLink("draining", "shutting down: open requests are finished, new ones refused");
    else showLink("live", "live");
    const up = this.answeredAt - epochS(status.started);
    put(byId("since"), up < 90 ? "in the last minute" : `in the last ${duration(up * 1000)}`);
    this.showOutcomes(status.outcomes ?? {});
    this.showCounters(status.happened ?? {});
    const priced = (status.targets ?? []).filter((target) => target.priced).length;
    byId("spent").hidden = priced === 0;
    put(byId("spent"), costLabel(status.spent, priced < status.targets?.length));
    const reduced = reducedLabel(status.routes ?? []);
    byId("reduced").hidden = reduced === "";
    put(byId("reduced"), reduced);
    const simulated = simulatedLabel(status.targets ?? []);
    byId("simulated").hidden = simulated === "";
    put(byId("simulated"), simulated);
    this.showTargets(status.targets ?? []);
    this.showIncidents((status.incidents ?? []).slice().sort(newestFirst).slice(0, INCIDENTS_SHOWN));
    this.showRecent((status.recent ?? []).slice().sort(newestFirst).slice(0, RECENT_SHOWN));
    this.showOperator(status);
    this.onStatus(status);
  }

  /** Show what an operator looks after; loaded once there is any. @param {Status} status */
  async showOperator(status) {
    const { problems, degraded, keys, happened } = status;
    const isThere = problems?.worst.length || degraded?.length || keys?.length || happened?.feedback;
    if (!this.operator && !isThere) return;
    try {
      const { Operator } = await import("./operator.js");
      this.operator ??= new Operator(byId("operator"));
      this.operator.update(status);
    } catch {
      // It could not be loaded: the next status tries again.
    }
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
    const healthy = targets.filter((t) => t.health === "healthy").length;
    const badge = byId("live-count");
    badge.hidden = targets.length === 0;
    badge.dataset.well = String(healthy === targets.length);
    put(badge, `${healthy} of ${targets.length} healthy`);
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
function showCounters(happened) {
  const labels = Object.entries(happened).filter(([, n]) => n > 0).map(([what, n]) => counterLabel(what, n));
  put(byId("happened"), labels.join(" · ") || "No failovers, no breaker changes.");
}

const INCIDENT_MARKS = new Map([
  ["breaker_opened", "open"],
  ["breaker_half_opened", "half_open"],
  ["breaker_closed", "closed"],
  ["breaker_isolated", "isolated"],
  ["settings_reloaded", "ok"],
  ["stream_cut", "cut"],
]);

/** @param {Incident[]} incidents */
function showIncidents(incidents) {
  const none = h("li.none", {}, "No incidents since the service started.");
  const rows = incidents.map((incident) =>
    h(
      `li.incident.${incident.what}`, {},
      h("time", {}, timeOfDay(incident.at)),
      icon(INCIDENT_MARKS.get(incident.what) ?? "degraded"),
      h("span", {}, h("strong", {}, incidentLabel(incident)), incident.why ? `: ${incident.why}` : ""),
    ),
  );
  byId("incidents").replaceChildren(...(rows.length ? rows : [none]));
}

/** @param {Recent[]} recent */
function showRecent(recent) {
  const none = h("li.none", {}, "No requests yet. Ask something in the chat.");
  byId("recent").replaceChildren(...(recent.length ? recent.map(row) : [none]));
}

/** @param {Recent} request */
function row(request) {
  const trail = trailEntries(request.attempts);
  const eventful = trail.length > 1 || trail.some((t) => t.reason !== "ok");
  const first = request.first_token_ms && `first ${duration(request.first_token_ms)}`;
  const cost = request.cost_usd && dollars(request.cost_usd);
  const times = [first, `total ${duration(request.total_ms)}`, cost];
  return h(
    `li.request.${request.outcome}`, {},
    h("time", {}, timeOfDay(request.at)),
    h("span.outcome", {}, icon(OUTCOMES.get(request.outcome) ?? "wait"), request.outcome),
    h("span.who", {}, request.target ?? "no target", request.cached ? h("span.badge.cached", {}, "cached") : ""),
    h("span.times", {}, times.filter(Boolean).join(" · ")),
    eventful && trailOf(trail, false),
  );
}
