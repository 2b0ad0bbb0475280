/** What an operator looks after: problems, routes that do worse than usual, and the keys of providers. */

import { h, icon, onChange } from "./dom.js";
import { count, dollars, duration, reasonLabel, timeOfDay } from "./labels.js";

/**
 * @typedef {{id: string, what: string, code: string, reason: string, route: string, target: string, count: number,
 *   people: number, more_people: boolean, anonymous: number, first: number, last: number, now: boolean,
 *   requests: string[]}} Problem
 * @typedef {{route: string, what: string, value: number, usual: number | null, since: number}} Degraded
 * @typedef {{provider: string, key: string, state: string, checked_at: number | null, refused_since: number | null,
 *   quota: Record<string, {left: number, reset_at: number | null}>, spent_usd_today: number | null,
 *   provider_spent_usd_today: number | null, spend_max_usd_per_day: number | null}} Key
 * @typedef {{problems?: {now: number, over: number, worst: Problem[]}, degraded?: Degraded[], keys?: Key[],
 *   happened?: Record<string, number>}} Watched
 */

const PROBLEMS_SHOWN = 12;
const NEAR = 0.8; // of a budget

const WHATS = new Map([
  ["failed", "Failed"], ["cut", "Cut"], ["degraded", "Answered by a fallback"], ["refused", "Refused under overload"],
  ["crash", "Internal error"], ["writes_forgotten", "Conversations not saved"], ["migration_failed", "Failed migration"],
]);
const STATES = new Map([["valid", "valid"], ["refused", "refused by the provider"], ["unknown", "not used or checked yet"]]);

export class Operator {
  /** @param {HTMLElement} place */
  constructor(place) {
    this.sections = [
      section(place, "Worse than usual", (/** @type {Watched} */ { degraded }) => [degraded ?? [], worse, ""]),
      section(place, "Problems", (/** @type {Watched} */ { problems }) => [
        (problems?.worst ?? []).slice(0, PROBLEMS_SHOWN), problem, problems ? `${count(problems.now)} now, ${count(problems.over)} over` : "",
      ]),
      section(place, "Keys of providers", (/** @type {Watched} */ { keys }) => [keys ?? [], key, ""]),
      section(place, "Feedback", (/** @type {Watched} */ { happened }) => [happened?.feedback ? [happened] : [], feedback, ""]),
    ];
  }

  /** @param {Watched} status */
  update(status) {
    for (const show of this.sections) show(status);
  }
}

/**
 * Make a list with a heading, which is there while it has rows; return what updates it.
 * @param {HTMLElement} place @param {string} title
 * @param {(status: Watched) => [any[], (row: any) => Node, string]} read the rows, what makes one, and an aside
 * @returns {(status: Watched) => void}
 */
function section(place, title, read) {
  const aside = h("span.aside");
  const heading = h("h3", { hidden: true }, title, " ", aside);
  const list = h("ul.incidents.watched", { hidden: true, ariaLabel: title });
  place.append(heading, list);
  let make = read({})[1];
  const build = onChange((/** @type {[any[], string]} */ [rows, text]) => {
    heading.hidden = list.hidden = rows.length === 0;
    aside.textContent = text;
    list.replaceChildren(...rows.map((row) => make(row)));
  });
  return (status) => {
    const [rows, row, text] = read(status);
    make = row;
    build([rows, text]);
  };
}

/** @param {Degraded} degraded */
function worse({ route, what, value, usual, since }) {
  const percent = (/** @type {number} */ share) => `${(100 * share).toPrecision(share < 0.1 ? 2 : 3).replace(/\.0+$/, "")} %`;
  const isTime = what === "first_token";
  const number = (/** @type {number} */ n) => (isTime ? duration(n * 1000) : percent(n));
  const said = isTime ? `one stream in 20 waits ${number(value)} or longer for its first token` : `${number(value)} of requests are not answered whole`;
  const before = usual === null ? "" : `, ${number(usual)} in the hour before`;
  return h("li", {}, icon("degraded"), " ", h("strong", {}, route), `: ${said}${before}. `, h("time", {}, `Since ${timeOfDay(since)}.`));
}

/** @param {Problem} problem */
function problem({ what, code, reason, route, target, count: times, people, more_people, anonymous, first, last, now, requests }) {
  const who = [
    people > 0 && `${count(people)}${more_people ? " or more" : ""} ${people === 1 ? "person" : "people"}`,
    anonymous > 0 && `${count(anonymous)} without a session or key`,
  ].filter(Boolean);
  const facts = [`${count(times)} ${times === 1 ? "time" : "times"}`, ...who, `since ${timeOfDay(first)}`];
  const isReason = !["crash", "writes_forgotten", "migration_failed"].includes(what);
  const why = reason && (isReason ? reasonLabel(reason) : reason);
  return h(
    "li", {},
    h(now ? "span.badge.unfinished" : "span.badge", {}, now ? "now" : `over, last ${timeOfDay(last)}`), " ",
    h("strong", {}, WHATS.get(what) ?? what.replaceAll("_", " ")), route && ` on ${route}`,
    (why || target) && `: ${[target, why].filter(Boolean).join(" ")}`, code && h("span.small", {}, ` (${code})`),
    h("p.facts", {}, facts.join(" · ")),
    requests.length > 0 && h("details", {}, h("summary", {}, "Last requests"), h("p.small", {}, requests.join(", "))),
  );
}

/** @param {Key} key */
function key({ provider, key: label, state, checked_at, refused_since, quota, spent_usd_today, provider_spent_usd_today, spend_max_usd_per_day }) {
  const known = STATES.get(state) ?? state;
  const when = refused_since ? ` since ${timeOfDay(refused_since)}` : checked_at ? `, checked ${timeOfDay(checked_at)}` : "";
  const left = Object.entries(quota).map(([what, one]) => `${count(one.left)} ${what.replaceAll("_", " ")}`);
  const spent = spent_usd_today === null ? "" : `${dollars(spent_usd_today)} today`;
  const max = spend_max_usd_per_day;
  const share = max ? (provider_spent_usd_today ?? 0) / max : 0;
  const budget = max ? `${provider}: ${dollars(provider_spent_usd_today)} of ${dollars(max)} for today` : "";
  const facts = [left.length > 0 && `${left.join(", ")} left`, spent, budget].filter(Boolean);
  const isBad = state === "refused" || share >= 1;
  return h(
    "li", {},
    icon(isBad ? "bad" : share >= NEAR ? "degraded" : state === "valid" ? "ok" : "wait"), " ",
    h("strong", {}, provider), label ? ` key ${label}: ` : ": ", `${known}${when}`,
    facts.length > 0 && h("p.facts", {}, facts.join(" · ")),
  );
}

/** @param {Record<string, number>} happened */
function feedback({ feedback: all, feedback_down: down }) {
  return h("li", {}, `${count(down ?? 0)} thumbs down among ${count(all)} opinions and reports since the start of this process.`);
}
