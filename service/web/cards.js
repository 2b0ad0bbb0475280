/** A card per target, updated in place, with a bar chart of the last minute. */

import { h, icon, put } from "./dom.js";
import { count, dollars, duration, reasonLabel } from "./labels.js";

/**
 * @typedef {{name: string, provider: string, dialect: string, health: string, breaker: string,
 *   cooling_s: number, wait_s?: number, limit?: number, limit_max?: number, provider_in_flight?: number,
 *   priced?: boolean, simulated?: boolean,
 *   spent?: {billed: import("./labels.js").Cost, maybe: import("./labels.js").Cost}, answered: number,
 *   failed: number, failed_in_a_row: number, few_calls: boolean, mistake: string | null, in_flight: number, last_reason: string | null, first_token_ms: number | null}} Target
 */

const FAILS_MIN = 3; // as the service has it for routes
const BARS = 60; // one per poll: about a minute
const BREAKERS = new Map([
  ["closed", "breaker closed"],
  ["open", "breaker open"],
  ["half_open", "breaker half-open"],
  ["isolated", "isolated by the settings"],
]);

export class Card {
  constructor() {
    this.name = h("strong.name");
    this.health = h("span.health");
    this.breaker = h("p.breaker");
    this.reason = h("p.reason");
    this.numbers = h("p.numbers");
    this.room = h("p.room");
    this.bars = bars();
    this.node = h(
      "li.target", {},
      h("div.head", {}, this.name, this.health),
      h("div.body", {}, this.breaker, this.bars.node),
      this.numbers,
      this.room,
      this.reason,
    );
    /** @type {{ok: number, bad: number}[]} */
    this.minute = [];
    /** @type {Target | null} */
    this.before = null;
  }

  /** @param {Target} target */
  update(target) {
    this.node.dataset.breaker = target.breaker;
    const failing = target.health === "healthy" && target.failed_in_a_row >= FAILS_MIN;
    const health = failing ? "degraded" : target.health; // it is tried as before, but nobody should call it well
    this.node.dataset.health = health;
    put(this.name, target.name);
    setMarked(this.health, health, failing ? `the last ${count(target.failed_in_a_row)} failed` : health);
    const breaker = BREAKERS.get(target.breaker) ?? target.breaker.replaceAll("_", " ");
    setMarked(this.breaker, target.breaker, breaker);
    const left = Math.ceil(Math.max(target.cooling_s, target.wait_s ?? 0));
    const cooling = target.breaker === "open" ? `probed in ${left} s` : `cooling down, ${left} s left`;
    if (left > 0) this.breaker.append(h("span.cooling", {}, cooling));
    const bad = target.last_reason && target.last_reason !== "ok";
    const last = bad ? `Last: ${reasonLabel(target.last_reason ?? "")}.` : "";
    put(this.reason, [last, target.mistake].filter(Boolean).join(" "));
    put(this.numbers, numbersOf(target));
    put(this.room, limitOf(target));
    this.room.dataset.lowered = String((target.limit ?? 0) < (target.limit_max ?? 0));
    this.count(target);
  }

  /** @param {Target} target */
  count(target) {
    const { before } = this;
    const fresh = !before || target.answered < before.answered; // the first poll, or a restart of the service
    const since = fresh ? target : before;
    this.minute.push({ ok: target.answered - since.answered, bad: target.failed - since.failed });
    if (this.minute.length > BARS) this.minute.shift();
    this.before = target;
    this.bars.draw(this.minute);
  }
}

/** @param {HTMLElement} node @param {string} mark @param {string} text */
function setMarked(node, mark, text) {
  node.replaceChildren(icon(mark), h("span", {}, text));
}

/** @param {Target} target */
function numbersOf({ answered, failed, few_calls: few, in_flight: flying, first_token_ms: firstMs, priced, spent }) {
  if (!answered && !failed && !flying) return "no requests yet";
  const numbers = [`${count(answered)} answered`, `${count(failed)} failed`];
  if (few) numbers.push("few calls");
  if (flying) numbers.push(`${count(flying)} in flight`);
  if (firstMs) numbers.push(`first token ${duration(firstMs)}`);
  if (priced && spent) numbers.push(dollars(spent.billed.cost_usd));
  return numbers.join(" · ");
}

/** Describe the provider's concurrency limit, which its targets share. @param {Target} target */
function limitOf({ provider, limit, limit_max: most, provider_in_flight: flying }) {
  if (limit === undefined || most === undefined) return "";
  const lowered = limit < most ? `, lowered from ${count(most)}` : "";
  return `${provider}: ${count(flying)} of at most ${count(limit)} concurrent requests${lowered}`;
}

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 22;

function bars() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "bars");
  svg.setAttribute("viewBox", `0 0 ${BARS * 2} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const ok = document.createElementNS(SVG, "path");
  const bad = document.createElementNS(SVG, "path");
  ok.setAttribute("class", "ok");
  bad.setAttribute("class", "bad");
  svg.append(ok, bad);
  return { node: svg, draw: (/** @type {{ok: number, bad: number}[]} */ minute) => draw(svg, ok, bad, minute) };
}

/**
 * Draw answered requests above the line and failed ones below it, so that they differ without colour.
 * @param {Element} svg @param {Element} ok @param {Element} bad @param {{ok: number, bad: number}[]} minute
 */
function draw(svg, ok, bad, minute) {
  const most = Math.max(1, ...minute.map((m) => Math.max(m.ok, m.bad)));
  const line = HEIGHT * 0.6;
  /** @param {"ok" | "bad"} which @param {number} room @param {number} sign */
  const path = (which, room, sign) =>
    minute
      .map((m, i) => [(BARS - minute.length + i) * 2 + 0.2, m[which] && Math.max(1, (room * m[which]) / most)])
      .filter(([, tall]) => tall > 0)
      .map(([x, tall]) => `M${x} ${line}v${(sign * tall).toFixed(1)}h1.5v${(-sign * tall).toFixed(1)}z`)
      .join("");
  ok.setAttribute("d", path("ok", line - 1, -1) || "M0 0");
  bad.setAttribute("d", path("bad", HEIGHT - line - 1, 1) || "M0 0");
  const sum = (/** @type {"ok" | "bad"} */ which) => minute.reduce((n, m) => n + m[which], 0);
  svg.setAttribute("aria-label", `Last minute: ${sum("ok")} answered, ${sum("bad")} failed`);
}
