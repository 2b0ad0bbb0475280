/**
 * What codes, numbers and headers are called for a person. Pure: text in, text out.
 */

/** @typedef {{target: string, reason: string, ms: number | null, kind?: string}} Try */
/** @typedef {{target: string, outcome?: string, reason: string, started_ms: number, ended_ms: number, kind?: string}} Attempt */
/** @typedef {{prompt_tokens: number, completion_tokens: number, estimated_tokens: number, cost_usd: number | null}} Spent */

const REASONS = new Map([
  ["ok", "answered"],
  ["cache", "kept from an earlier answer"],
  ["cancelled", "stopped, because the reader left"],
  ["hedge_lost", "stopped, because another target was faster"],
  ["breaker_open", "passed over: its breaker is open"],
  ["host_breaker_open", "passed over: the breaker of its host is open"],
  ["retry_after", "passed over: it failed, and asked to be left alone for a while"],
  ["quota_used_up", "passed over: our quota there is used up"],
  ["rejected_content", "it sold a notice as an answer"],
  ["key_refused", "passed over: it does not accept our key"],
  ["cooling_down", "passed over: it asked to be left alone for a while"],
  ["isolated", "passed over: the settings isolate it"],
  ["slow_start", "passed over: it has just come back, and gets few requests at first"],
  ["provider_full", "passed over: it has as many requests as it can take"],
  ["retry_budget_spent", "not asked again: it has had its share of retries"],
  ["first_token_timeout", "no first token in time"],
  ["whole_answer_timeout", "no answer in time"],
  ["between_tokens_timeout", "fell silent in mid-answer"],
  ["deadline_timeout", "the time for this request ran out"],
  ["empty_answer", "answered with nothing"],
  ["truncated", "ended before the answer was whole"],
  ["error_event", "sent an error instead of an answer"],
  ["error_in_answer", "sent an error dressed as an answer"],
  ["not_json", "sent something that is not JSON"],
  ["garbled", "sent JSON that is no answer"],
  ["not_a_stream", "sent a page instead of a stream"],
  ["event_too_long", "sent more in one piece than is allowed"],
  ["answer_too_long", "sent more than is allowed"],
  ["http_400", "found the request at fault (400)"],
  ["http_401", "did not accept our key (401)"],
  ["http_402", "wants to be paid first (402)"],
  ["http_403", "does not allow our key this (403)"],
  ["http_404", "does not know the model (404)"],
  ["http_413", "found the request too large (413)"],
  ["http_422", "could not work with the request (422)"],
  ["http_429", "reached its rate limit (429)"],
  ["http_500", "failed inside (500)"],
  ["http_502", "its gateway got no proper answer (502)"],
  ["http_503", "is not available (503)"],
  ["http_504", "its gateway waited in vain (504)"],
  ["http_529", "is overloaded (529)"],
  ["http_530", "Cloudflare could not find its origin (530)"],
]);

const STAGES = new Map([
  ["pool", "waiting for a free connection"],
  ["resolve", "looking up its address"],
  ["connect", "connecting"],
  ["send", "sending the question"],
  ["wait", "waiting for it to begin"],
  ["body", "reading its answer"],
]);

const KINDS = new Map([
  ["refused", "refused"],
  ["reset", "connection reset"],
  ["closed", "connection closed"],
  ["timeout", "took too long"],
  ["protocol", "broke the protocol"],
]);

const PASSED_OVER = new Set(["breaker_open", "host_breaker_open", "key_refused", "quota_used_up", "retry_after", "cooling_down", "isolated", "slow_start", "provider_full", "retry_budget_spent"]);

const TRY_KINDS = new Map([
  ["retry", "asked again"],
  ["fresh", "asked again on a new connection"],
  ["key", "asked again with another key"],
  ["hedge", "asked at once, beside the one before"],
  ["probe", "a probe"],
]);

/** A reason ("http_530") in plain words. @param {string} reason */
export function reasonInWords(reason) {
  const known = REASONS.get(reason);
  if (known) return known;
  if (/^http_52\d$/.test(reason)) return `Cloudflare could not reach its origin (${reason.slice(5)})`;
  if (/^http_\d+$/.test(reason)) return `answered with status ${reason.slice(5)}`;
  if (reason.startsWith("unsupported_")) return `cannot carry the field “${reason.slice(12)}”`;
  const [stage, kind] = reason.split("_");
  if (STAGES.has(stage) && KINDS.has(kind)) return `${KINDS.get(kind)} while ${STAGES.get(stage)}`;
  return reason.replaceAll("_", " ");
}

/** Why a try was made, where it was not simply the target's turn; else nothing. @param {string | undefined} kind */
export function tryInWords(kind) {
  return TRY_KINDS.get(kind ?? "") ?? "";
}

/** What became of a try: "ok", "skip" (not asked, or not needed any more) or "bad". @param {string} reason */
export function kindOfTry(reason) {
  if (reason === "ok" || reason === "cache") return "ok";
  if (reason === "hedge_lost") return "skip";
  return PASSED_OVER.has(reason) || reason.startsWith("unsupported_") ? "skip" : "bad";
}

/**
 * The `x-dub5-trail` header: "one/gpt-sim=http_530;12ms, two/mistral-sim=ok;40ms".
 * @param {string | null} header
 * @returns {Try[]}
 */
export function parseTrail(header) {
  return (header ?? "").split(",").flatMap((part) => {
    const cut = part.lastIndexOf("=");
    if (cut < 1) return [];
    const [reason, ...rest] = part.slice(cut + 1).split(";").map((s) => s.trim());
    const took = rest.find((s) => /^\d+(\.\d+)?ms$/.test(s));
    return [{ target: part.slice(0, cut).trim(), reason, ms: took ? parseFloat(took) : null }];
  });
}

/** The `attempts` of an error or of a recent request. @param {Attempt[] | undefined} attempts @returns {Try[]} */
export function triesOf(attempts) {
  return (attempts ?? []).map((a) => ({
    target: a.target,
    reason: a.reason || a.outcome || "unknown",
    ms: a.ended_ms === undefined || a.started_ms === undefined ? null : Math.max(0, a.ended_ms - a.started_ms),
    kind: a.kind,
  }));
}

/** "41 ms", "1.24 s", "12 s", "3 min". @param {number | null | undefined} ms */
export function duration(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "–";
  if (ms < 10 && ms > 0) return `${ms < 1 ? "<1" : ms.toFixed(0)} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 9_995) return `${(ms / 1000).toFixed(2)} s`;
  if (ms < 99_500) return `${(ms / 1000).toFixed(1)} s`;
  const minutes = ms / 60_000;
  if (minutes < 90) return `${Math.round(minutes)} min`;
  return minutes < 2_880 ? `${Math.round(minutes / 60)} h` : `${Math.round(minutes / 1440)} days`;
}

/** 14:03:12. @param {number | string | null | undefined} at epoch seconds, or an ISO date */
export function timeOfDay(at) {
  const date = typeof at === "number" ? new Date(at * 1000) : new Date(at ?? NaN);
  return Number.isNaN(date.getTime()) ? "" : date.toLocaleTimeString("en-GB");
}

const SMALL = new Intl.NumberFormat("en");
const LARGE = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** 7, 9,999, 12.3K. @param {number | null | undefined} n */
export function count(n) {
  return n === null || n === undefined ? "–" : (n < 10_000 ? SMALL : LARGE).format(n);
}

/** "$0.0004", "$1.24", "$1,240". @param {number | null | undefined} usd */
export function dollars(usd) {
  if (!usd) return "$0";
  if (usd < 0.0001) return "<$0.0001";
  const digits = usd < 0.1 ? 4 : usd < 1000 ? 2 : 0;
  return `$${usd.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })}`;
}

/**
 * "$0.0123 for 12.3K tokens, and perhaps $0.0004 more for answers that did not come whole".
 * @param {{billed: Spent, maybe: Spent} | undefined} spent @param {boolean} unpriced whether some target has no price
 */
export function spentInWords(spent, unpriced) {
  if (!spent) return "";
  const { billed, maybe } = spent;
  const tokens = billed.prompt_tokens + billed.completion_tokens;
  const more = maybe.cost_usd ? `, and perhaps ${dollars(maybe.cost_usd)} more for answers that did not come whole` : "";
  const guessed = billed.estimated_tokens || (maybe.cost_usd && maybe.estimated_tokens) ? " (some tokens are estimated)" : "";
  const without = unpriced ? ", some of them without a price" : "";
  return `${dollars(billed.cost_usd)} for ${count(tokens)} tokens${without}${more}${guessed}`;
}

const INCIDENTS = new Map([
  ["breaker_opened", "breaker opened for"],
  ["breaker_half_opened", "breaker half-open, probing"],
  ["breaker_closed", "breaker closed again for"],
  ["breaker_isolated", "isolated by the settings:"],
  ["limit_lowered", "fewer requests at one time for"],
  ["settings_reloaded", "settings read again"],
  ["settings_refused", "new settings refused"],
  ["stream_cut", "answer cut by"],
  ["failed_over", "failed over from"],
  ["drained", "told to shut down"],
  ["crashed", "a defect of ours was caught"],
]);

/** "breaker opened for one/gpt-sim". @param {{what: string, target?: string | null}} incident */
export function incidentInWords({ what, target }) {
  const said = INCIDENTS.get(what);
  target = target?.replace(/^https?:\/\//, "host "); // a breaker of a host, not of a target
  if (!target) return (said ?? what).replaceAll("_", " ").replace(/ (for|by|from|on)$/, "");
  return said ? `${said} ${target}` : `${what.replaceAll("_", " ")}: ${target}`;
}

const HAPPENED = new Map([
  ["failed_over", ["failover", "failovers"]],
  ["breaker_opened", ["breaker opening", "breaker openings"]],
  ["breaker_half_opened", ["probe", "probes"]],
  ["probe_succeeded", ["probe that succeeded", "probes that succeeded"]],
  ["breaker_closed", ["breaker closing", "breaker closings"]],
  ["breaker_isolated", ["isolation by hand", "isolations by hand"]],
  ["health_degraded", ["target that began to fail", "times that a target began to fail"]],
  ["health_restored", ["target healthy again", "times that a target was healthy again"]],
  ["limit_lowered", ["limit lowered", "limits lowered"]],
  ["retried", ["retry", "retries"]],
  ["budget_spent", ["retry denied", "retries denied"]],
  ["hedged", ["request asked of two at once", "requests asked of two at once"]],
  ["queued", ["request that waited for a place", "requests that waited for a place"]],
  ["shed_full", ["request refused by a full queue", "requests refused by a full queue"]],
  ["shed_overloaded", ["request refused under overload", "requests refused under overload"]],
  ["shed_expired", ["request that waited too long", "requests that waited too long"]],
  ["shared", ["request that shared an answer", "requests that shared an answer"]],
  ["handed_over", ["shared answer handed over", "shared answers handed over"]],
  ["renewed", ["older answer asked for anew", "older answers asked for anew"]],
  ["stream_cut", ["cut stream", "cut streams"]],
  ["degraded_stale", ["older answer given as a substitute", "older answers given as substitutes"]],
  ["degraded_template", ["fitting text given as a substitute", "fitting texts given as substitutes"]],
  ["degraded_words", ["plain excuse given as a substitute", "plain excuses given as substitutes"]],
  ["feature_unavailable", ["request for a feature out of reach", "requests for features out of reach"]],
  ["cache_hit", ["cache hit", "cache hits"]],
  ["cache_stale", ["older answer from the cache", "older answers from the cache"]],
  ["cache_invalidated", ["invalidation of the cache", "invalidations of the cache"]],
  ["cache_error", ["cache error", "cache errors"]],
  ["settings_reloaded", ["change of settings", "changes of settings"]],
  ["settings_refused", ["refusal of new settings", "refusals of new settings"]],
  ["drained", ["shutdown", "shutdowns"]],
  ["crashed", ["defect of ours", "defects of ours"]],
]);

/** "12 failovers". @param {string} what @param {number} n */
export function happenedInWords(what, n) {
  const [one, many] = HAPPENED.get(what) ?? [what.replaceAll("_", " "), what.replaceAll("_", " ")];
  return `${count(n)} ${n === 1 ? one : many}`;
}

const SUBSTITUTES = new Map([
  ["stale", "No model could answer: this is an older answer to the same question."],
  ["template", "No model could answer: this is an automatic text."],
  ["words", "No model could answer: this is an automatic text."],
]);

/** What a substitute is ("" for an answer). @param {string} source */
export function substituteInWords(source) {
  return source && (SUBSTITUTES.get(source) ?? "No model could answer: this is a substitute.");
}

/**
 * "chat: no tools, vision at the moment" for each route that has lost something; "" where nothing is out of reach.
 * @param {{name: string, features?: Record<string, string>}[]} routes
 */
export function reducedInWords(routes) {
  const lost = routes.flatMap(({ name, features }) => {
    if (!features || features.chat === "unavailable") return features ? [`${name}: nobody can answer at the moment`] : [];
    const missing = Object.keys(features).filter((feature) => features[feature] === "unavailable");
    return missing.length ? [`${name}: no ${missing.join(", ").replaceAll("_", " ")} at the moment, plain chat works`] : [];
  });
  return lost.join(" · ");
}

/** A finish that is not simply "stop", in words; "" where nothing is to say. @param {string} finish */
export function finishInWords(finish) {
  if (finish === "length") return "The model stopped at its length limit; ask it to go on.";
  if (finish === "content_filter") return "The provider’s content filter ended this answer.";
  return "";
}
