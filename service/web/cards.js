/** A card per target, kept up to date in place; with the last minute as small bars. */

import { h, icon, put } from "./dom.js";
import { count, dollars, duration, reasonInWords } from "./words.js";

/**
 * @typedef {{name: string, provider: string, dialect: string, health: string, breaker: string, cooling_s: number,
 *   wait_s?: number, limit?: number, limit_max?: number, provider_in_flight?: number, priced?: boolean,
 *   spent?: {billed: import("./words.js").Spent, maybe: import("./words.js").Spent}, answered: number, failed: number, in_flight: number, last_reason: string | null, first_token_ms: number | null}} Target
 */

const BARS = 60; // one a poll: about a minute
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
    this.node.dataset.health = target.health;
    put(this.name, target.name);
    setMarked(this.health, target.health, target.health);
    setMarked(this.breaker, target.breaker, BREAKERS.get(target.breaker) ?? target.breaker.replaceAll("_", " "));
    const left = Math.ceil(Math.max(target.cooling_s, target.wait_s ?? 0));
    const cooling = target.breaker === "open" ? `asked again in ${left} s` : `cooling, ${left} s left`;
    if (left > 0) this.breaker.append(h("span.cooling", {}, cooling));
    const bad = target.last_reason && target.last_reason !== "ok";
    put(this.reason, bad ? `Last: ${reasonInWords(target.last_reason ?? "")}.` : "");
    put(this.numbers, numbersOf(target));
    put(this.room, limitOf(target));
    this.room.dataset.lowered = String((target.limit ?? 0) < (target.limit_max ?? 0));
    this.count(target);
  }

  /** @param {Target} target */
  count(target) {
    const { before } = this;
    const fresh = !before || target.answered < before.answered; // the first look, or the service began anew
    this.minute.push(fresh ? { ok: 0, bad: 0 } : { ok: target.answered - before.answered, bad: target.failed - before.failed });
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
function numbersOf({ answered, failed, in_flight: flying, first_token_ms: firstMs, priced, spent }) {
  if (!answered && !failed && !flying) return "not asked yet";
  const numbers = [`${count(answered)} answered`, `${count(failed)} failed`];
  if (flying) numbers.push(`${count(flying)} under way`);
  if (firstMs) numbers.push(`first token ${duration(firstMs)}`);
  if (priced && spent) numbers.push(dollars(spent.billed.cost_usd));
  return numbers.join(" · ");
}

/** How much its provider is given at one time; targets of one provider share it. @param {Target} target */
function limitOf({ provider, limit, limit_max: most, provider_in_flight: flying }) {
  if (limit === undefined || most === undefined) return "";
  const lowered = limit < most ? `, lowered from ${count(most)}` : "";
  return `${provider}: ${count(flying)} of at most ${count(limit)} requests at one time${lowered}`;
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

/** Answered stands on the line, failed hangs from it: told apart without colour. @param {Element} svg @param {Element} ok @param {Element} bad @param {{ok: number, bad: number}[]} minute */
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
