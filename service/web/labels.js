/**
 * Labels: the text that people read for codes, numbers and headers. Pure: data in, text out.
 */

/** @typedef {{target: string, reason: string, ms: number | null, kind?: string}} TrailEntry */
/**
 * @typedef {{target: string, outcome?: string, reason: string, started_ms: number, ended_ms: number,
 *   kind?: string}} Attempt
 * @typedef {{prompt_tokens: number, completion_tokens: number, estimated_tokens: number,
 *   cost_usd: number | null}} Cost
 */

const REASONS = new Map([
  ["ok", "answered"],
  ["cache", "served from the cache"],
  ["cancelled", "cancelled, because the client left"],
  ["hedge_lost", "cancelled, because another target answered first"],
  ["breaker_open", "skipped: its circuit breaker is open"],
  ["caller_breaker_open", "skipped: it fails with this caller's requests alone"],
  ["host_breaker_open", "skipped: the circuit breaker of its host is open"],
  ["retry_after", "skipped: it failed, and its Retry-After has not passed"],
  ["quota_used_up", "skipped: our quota there is exhausted"],
  ["rejected_content", "returned a notice instead of an answer"],
  ["key_refused", "skipped: it rejects our key"],
  ["cooling_down", "skipped: rate limited, its Retry-After has not passed"],
  ["isolated", "skipped: isolated by the settings"],
  ["slow_start", "skipped: slow start after its recovery"],
  ["provider_full", "skipped: its provider is at its concurrency limit"],
  ["retry_budget_spent", "not retried: the retry budget is exhausted"],
  ["first_token_timeout", "no first token in time"],
  ["whole_answer_timeout", "no complete answer in time"],
  ["between_tokens_timeout", "stalled in the middle of the answer"],
  ["deadline_timeout", "the deadline of this request passed"],
  ["empty_answer", "returned an empty answer"],
  ["truncated", "ended before the answer was complete"],
  ["error_event", "sent an error instead of an answer"],
  ["error_in_answer", "sent an error in the form of an answer"],
  ["not_json", "sent data that is not JSON"],
  ["garbled", "sent JSON that is not an answer"],
  ["not_a_stream", "sent a page instead of a stream"],
  ["event_too_long", "sent an event over the size limit"],
  ["answer_too_long", "sent an answer over the size limit"],
  ["http_400", "rejected the request as invalid (400)"],
  ["http_401", "rejected our key (401)"],
  ["http_402", "requires payment (402)"],
  ["http_403", "does not permit this for our key (403)"],
  ["http_404", "does not know the model (404)"],
  ["http_413", "rejected the request as too large (413)"],
  ["http_422", "could not process the request (422)"],
  ["http_429", "reached its rate limit (429)"],
  ["http_500", "internal error (500)"],
  ["http_502", "bad gateway (502)"],
  ["http_503", "is unavailable (503)"],
  ["http_504", "gateway timeout (504)"],
  ["http_529", "is overloaded (529)"],
  ["http_530", "Cloudflare could not find its origin (530)"],
]);

const STAGES = new Map([
  ["pool", "waiting for a free connection"],
  ["resolve", "resolving its name"],
  ["connect", "connecting"],
  ["send", "sending the request"],
  ["wait", "waiting for its response"],
  ["body", "reading its answer"],
]);

const KINDS = new Map([
  ["refused", "refused"],
  ["reset", "connection reset"],
  ["closed", "connection closed"],
  ["timeout", "timed out"],
  ["protocol", "protocol error"],
]);

const SKIPPED = new Set(["breaker_open", "caller_breaker_open", "host_breaker_open", "key_refused", "quota_used_up", "retry_after", "cooling_down", "isolated", "slow_start", "provider_full", "retry_budget_spent"]);

const ATTEMPT_KINDS = new Map([
  ["retry", "retried"],
  ["fresh", "retried on a new connection"],
  ["key", "retried with another key"],
  ["plain", "retried without stream_options"],
  ["hedge", "hedged"],
  ["probe", "probe"],
]);

/** Describe a reason ("http_530"). @param {string} reason */
export function reasonLabel(reason) {
  const known = REASONS.get(reason);
  if (known) return known;
  if (/^http_52\d$/.test(reason)) return `Cloudflare could not reach its origin (${reason.slice(5)})`;
  if (/^http_\d+$/.test(reason)) return `answered with status ${reason.slice(5)}`;
  if (reason.startsWith("unsupported_")) return `does not support the field “${reason.slice(12)}”`;
  const [stage, kind] = reason.split("_");
  if (STAGES.has(stage) && KINDS.has(kind)) return `${KINDS.get(kind)} while ${STAGES.get(stage)}`;
  return reason.replaceAll("_", " ");
}

/** Describe the kind of an attempt; "" for a first attempt. @param {string | undefined} kind */
export function kindLabel(kind) {
  return ATTEMPT_KINDS.get(kind ?? "") ?? "";
}

/** Return the mark of an attempt: "ok", "skip" (skipped or superseded) or "bad". @param {string} reason */
export function markOf(reason) {
  if (reason === "ok" || reason === "cache") return "ok";
  if (reason === "hedge_lost") return "skip";
  return SKIPPED.has(reason) || reason.startsWith("unsupported_") ? "skip" : "bad";
}

/**
 * Parse the `x-dub5-trail` header: "one/gpt-sim=http_530;12ms, two/mistral-sim=ok;40ms".
 * @param {string | null} header
 * @returns {TrailEntry[]}
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

/** Convert the `attempts` of /status. @param {Attempt[] | undefined} attempts @returns {TrailEntry[]} */
export function trailEntries(attempts) {
  return (attempts ?? []).map((a) => ({
    target: a.target,
    reason: a.reason || a.outcome || "unknown",
    ms: a.ended_ms === undefined || a.started_ms === undefined ? null : Math.max(0, a.ended_ms - a.started_ms),
    kind: a.kind,
  }));
}

/** Format a duration: "41 ms", "1.24 s", "12 s", "3 min". @param {number | null | undefined} ms */
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

/** Format a time: 14:03:12. @param {number | string | null | undefined} at epoch seconds, or an ISO date */
export function timeOfDay(at) {
  const date = typeof at === "number" ? new Date(at * 1000) : new Date(at ?? NaN);
  return Number.isNaN(date.getTime()) ? "" : date.toLocaleTimeString("en-GB");
}

/** Format when something was, briefly: 14:03 today, else 12 Nov. @param {number} at epoch seconds */
export function whenLabel(at) {
  const date = new Date(at * 1000);
  const isToday = date.toDateString() === new Date().toDateString();
  if (isToday) return date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  return date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
}

/** Name a conversation; its first question does, once it is asked. @param {string} title */
export function titleLabel(title) {
  return title || "New conversation";
}

/** Say what a conversation is about. @param {string} name of its document */
export function aboutLabel(name) {
  return `This conversation is about “${name}”. Answers show their sources, and say what it does not tell.`;
}

/**
 * Say what the model was not told of the conversation; "" if it was told all.
 * @param {{memoryLost: boolean, pruned: number}} turn
 */
export function memoryLabel({ memoryLost, pruned }) {
  if (memoryLost) return "Answered without your earlier questions: they could not be read.";
  if (!pruned) return "";
  return `${count(pruned)} older exchange${pruned === 1 ? " was" : "s were"} left out, to fit what the model can read.`;
}

const SMALL = new Intl.NumberFormat("en");
const LARGE = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** Format a count: 7, 9,999, 12.3K. @param {number | null | undefined} n */
export function count(n) {
  return n === null || n === undefined ? "–" : (n < 10_000 ? SMALL : LARGE).format(n);
}

/** Format dollars: "$0.0004", "$1.24", "$1,240". @param {number | null | undefined} usd */
export function dollars(usd) {
  if (!usd) return "$0";
  if (usd < 0.0001) return "<$0.0001";
  const digits = usd < 0.1 ? 4 : usd < 1000 ? 2 : 0;
  return `$${usd.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })}`;
}

/**
 * Describe the cost: "$0.0123 for 12.3K tokens, and possibly $0.0004 more for incomplete answers".
 * @param {{billed: Cost, maybe: Cost} | undefined} spent
 * @param {boolean} unpriced whether some target has no price
 */
export function costLabel(spent, unpriced) {
  if (!spent) return "";
  const { billed, maybe } = spent;
  const tokens = billed.prompt_tokens + billed.completion_tokens;
  const more = maybe.cost_usd ? `, and possibly ${dollars(maybe.cost_usd)} more for incomplete answers` : "";
  const estimated = billed.estimated_tokens || (maybe.cost_usd && maybe.estimated_tokens);
  const estimate = estimated ? " (some tokens are estimated)" : "";
  const without = unpriced ? ", some of them without a price" : "";
  return `${dollars(billed.cost_usd)} for ${count(tokens)} tokens${without}${more}${estimate}`;
}

const INCIDENTS = new Map([
  ["breaker_opened", "breaker opened for"],
  ["breaker_half_opened", "breaker half-open, probing"],
  ["breaker_closed", "breaker closed again for"],
  ["breaker_isolated", "isolated by the settings:"],
  ["limit_lowered", "concurrency limit lowered for"],
  ["settings_reloaded", "settings reloaded"],
  ["settings_refused", "new settings rejected"],
  ["stream_cut", "answer cut by"],
  ["failed_over", "failed over from"],
  ["route_degraded", "worse than usual:"],
  ["route_recovered", "as usual again:"],
  ["drained", "shutdown began"],
  ["crashed", "internal error"],
  ["bad_key", "unknown caller key"],
  ["rate_abuse", "client blocked for misuse"],
  ["origin_refused", "foreign origin refused"],
  ["host_refused", "foreign host name refused"],
  ["csrf_refused", "request of a foreign site refused"],
  ["bad_ticket", "invalid ticket"],
  ["bad_session", "invalid session"],
  ["injection_flagged", "suspicious question"],
  ["admin_refused", "wrong admin token"],
  ["writes_forgotten", "conversations not saved"],
  ["key_refused", "a key is refused by"],
  ["key_restored", "a key is accepted again by"],
  ["spending_near", "daily budget nearly spent at"],
  ["spending_reached", "daily budget spent at"],
]);

/**
 * Describe an incident: "breaker opened for one/gpt-sim".
 * @param {{what: string, target?: string | null}} incident
 */
export function incidentLabel({ what, target }) {
  const known = INCIDENTS.get(what);
  target = target?.replace(/^https?:\/\//, "host "); // a breaker of a host, not of a target
  if (!target) return (known ?? what).replaceAll("_", " ").replace(/ (for|by|from|on)$/, "");
  return known ? `${known} ${target}` : `${what.replaceAll("_", " ")}: ${target}`;
}

const COUNTERS = new Map([
  ["failed_over", ["failover", "failovers"]],
  ["breaker_opened", ["breaker opening", "breaker openings"]],
  ["breaker_half_opened", ["probe", "probes"]],
  ["probe_succeeded", ["probe that succeeded", "probes that succeeded"]],
  ["breaker_closed", ["breaker closing", "breaker closings"]],
  ["breaker_isolated", ["isolation by the settings", "isolations by the settings"]],
  ["health_degraded", ["target degraded", "targets degraded"]],
  ["health_restored", ["target recovered", "targets recovered"]],
  ["limit_lowered", ["concurrency limit lowered", "concurrency limits lowered"]],
  ["key_refused", ["refused provider key", "refused provider keys"]],
  ["key_restored", ["provider key accepted again", "provider keys accepted again"]],
  ["spending_near", ["daily budget nearly spent", "daily budgets nearly spent"]],
  ["spending_reached", ["daily budget spent", "daily budgets spent"]],
  ["retried", ["retry", "retries"]],
  ["budget_spent", ["retry denied", "retries denied"]],
  ["hedged", ["hedged request", "hedged requests"]],
  ["queued", ["queued request", "queued requests"]],
  ["shed_full", ["request shed by a full queue", "requests shed by a full queue"]],
  ["shed_overloaded", ["request shed under overload", "requests shed under overload"]],
  ["shed_expired", ["request expired in the queue", "requests expired in the queue"]],
  ["rate_limited", ["request over a rate limit", "requests over a rate limit"]],
  ["rate_limit_local", ["request counted without Redis", "requests counted without Redis"]],
  ["shared", ["request that joined a shared call", "requests that joined a shared call"]],
  ["handed_over", ["shared call handed over", "shared calls handed over"]],
  ["renewed", ["refresh of a stale answer", "refreshes of stale answers"]],
  ["stream_cut", ["cut stream", "cut streams"]],
  ["degraded_stale", ["fallback to a stale answer", "fallbacks to a stale answer"]],
  ["degraded_template", ["fallback to a template", "fallbacks to a template"]],
  ["degraded_words", ["fallback to the generic text", "fallbacks to the generic text"]],
  ["feature_unavailable", ["request for an unavailable feature", "requests for an unavailable feature"]],
  ["cache_hit", ["cache hit", "cache hits"]],
  ["cache_stale", ["stale cache hit", "stale cache hits"]],
  ["cache_invalidated", ["cache invalidation", "cache invalidations"]],
  ["turn", ["turn of a conversation", "turns of conversations"]],
  ["turn_resumed", ["answer that was read on", "answers that were read on"]],
  ["document_read", ["document read", "documents read"]],
  ["document_refused", ["document refused", "documents refused"]],
  ["job_done", ["job done", "jobs done"]],
  ["job_failed", ["failed job", "failed jobs"]],
  ["job_step_kept", ["step of a job kept", "steps of jobs kept"]],
  ["job_step_retry", ["step of a job to be tried again", "steps of jobs to be tried again"]],
  ["job_step_failed", ["failed step of a job", "failed steps of jobs"]],
  ["job_step_lost", ["step of a job lost", "steps of jobs lost"]],
  ["job_step_given_back", ["job given back", "jobs given back"]],
  ["socket_opened", ["WebSocket opened", "WebSockets opened"]],
  ["socket_closed", ["WebSocket closed", "WebSockets closed"]],
  ["turn_not_kept", ["turn that was not saved", "turns that were not saved"]],
  ["history_pruned", ["question without its older exchanges", "questions without their older exchanges"]],
  ["migrated", ["migration of the database", "migrations of the database"]],
  ["migration_failed", ["failed migration", "failed migrations"]],
  ["writes_forgotten", ["write to the database given up", "writes to the database given up"]],
  ["cache_error", ["cache error", "cache errors"]],
  ["settings_reloaded", ["settings reload", "settings reloads"]],
  ["settings_refused", ["rejected settings reload", "rejected settings reloads"]],
  ["route_degraded", ["route that does worse than usual", "routes that do worse than usual"]],
  ["route_recovered", ["route as usual again", "routes as usual again"]],
  ["notification_sent", ["notification of the operator", "notifications of the operator"]],
  ["notification_failed", ["failed notification", "failed notifications"]],
  ["notification_dropped", ["dropped notification", "dropped notifications"]],
  ["feedback", ["opinion or report", "opinions and reports"]],
  ["feedback_down", ["thumb down", "thumbs down"]],
  ["drained", ["shutdown", "shutdowns"]],
  ["crashed", ["internal error", "internal errors"]],
  ["bad_key", ["unknown caller key", "unknown caller keys"]],
  ["rate_abuse", ["block for misuse", "blocks for misuse"]],
  ["origin_refused", ["refused origin", "refused origins"]],
  ["host_refused", ["refused host name", "refused host names"]],
  ["csrf_refused", ["refused request of a foreign site", "refused requests of foreign sites"]],
  ["bad_ticket", ["invalid ticket", "invalid tickets"]],
  ["bad_session", ["invalid session", "invalid sessions"]],
  ["injection_flagged", ["suspicious question", "suspicious questions"]],
  ["admin_refused", ["wrong admin token", "wrong admin tokens"]],
]);

/** Describe a counter: "12 failovers". @param {string} what @param {number} n */
export function counterLabel(what, n) {
  const [one, many] = COUNTERS.get(what) ?? [what.replaceAll("_", " "), what.replaceAll("_", " ")];
  return `${count(n)} ${n === 1 ? one : many}`;
}

const FALLBACKS = new Map([
  ["stale", "No model could answer: this is an older answer to the same question."],
  ["template", "No model could answer: this is an automatic text."],
  ["words", "No model could answer: this is an automatic text."],
]);

/** Describe a fallback answer by its source; "" for an answer of a model. @param {string} source */
export function fallbackLabel(source) {
  return source && (FALLBACKS.get(source) ?? "No model could answer: this is a fallback answer.");
}

/** @typedef {{id: string, personality?: string, title?: string}} Model */

/** Name a model for people: "chat", or "chat: Tutor" with a personality. @param {Model} model */
export function modelLabel({ id, personality, title }) {
  return personality ? `${id.slice(0, -personality.length)} ${title}` : id;
}

/**
 * Describe the unavailable features of the routes: "chat: no tools, vision at the moment"; "" without any.
 * @param {{name: string, features?: Record<string, string>}[]} routes
 */
export function reducedLabel(routes) {
  const lost = routes.flatMap(({ name, features }) => {
    const ofAnother = routes.some((route) => name.startsWith(`${route.name}:`)); // the same, with a personality
    if (!features || ofAnother) return [];
    if (features.chat === "unavailable") return [`${name}: no target can answer at the moment`];
    const missing = Object.keys(features).filter((feature) => features[feature] === "unavailable");
    const names = missing.join(", ").replaceAll("_", " ");
    return missing.length ? [`${name}: no ${names} at the moment, plain chat works`] : [];
  });
  return lost.join(" · ");
}

/**
 * Say which providers are simulated, so that nobody takes their words for a model's; "" without any.
 * @param {{provider: string, simulated?: boolean}[]} targets
 */
export function simulatedLabel(targets) {
  const names = [...new Set(targets.filter((target) => target.simulated).map((target) => target.provider))];
  if (names.length === 0) return "";
  if (targets.every((target) => target.simulated)) {
    return "Simulated providers: no model is behind them, and their answers are made up.";
  }
  return `Simulated, with made-up answers: ${names.join(", ")}.`;
}

/** Describe a finish reason other than "stop"; else "". @param {string} finish */
export function finishLabel(finish) {
  if (finish === "length") return "The model stopped at its length limit; ask it to go on.";
  if (finish === "content_filter") return "The provider’s content filter ended this answer.";
  return "";
}
