"""The catalogue of metrics: name, unit, labels, meaning. Dashboards, alerts and docs take names from here.

Where OpenTelemetry's conventions for generative AI have a name, it is used (as of `SCHEMA_URL`; all of them
are still in development). Dots are written as underscores, since Prometheus 2 allows no dots.

Labels are bounded: routes, providers, targets and hosts come from the settings; outcomes, codes, reasons,
kinds and operations are closed sets. Any other value counts as "other".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from dub5.service.errors import every_error
from dub5.service.resilience.classify import CooldownReason
from dub5.service.wire.base import FailureKind, Stage

SCHEMA_URL = "https://opentelemetry.io/schemas/1.38.0"
OTHER = "other"


class MetricKind(StrEnum):
    """The type of a metric: for a rate, a value or a distribution."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


UNIT_SUFFIX = {"s": "_seconds", "By": "_bytes"}


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `unit` is UCUM; `buckets` are upper bounds in that unit."""

    name: str
    kind: MetricKind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """Return the name in Prometheus; the series of a histogram add `_bucket`, `_sum` and `_count`."""
        total = "_total" if self.kind is MetricKind.COUNTER else ""
        return self.name + UNIT_SUFFIX.get(self.unit, "") + total


LONG_S = tuple(0.01 * 2**power for power in range(16))  # 10 ms to 327.68 s
FIRST_MS = (1, 5, 10, 20, 40, 60, 80, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10_000, 20_000, 40_000)
FIRST_S = tuple(ms / 1000 for ms in FIRST_MS)
TOKEN_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
OVERHEAD_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
LAG_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
STORE_S = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
READ_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 45.0)
TOKENS = tuple(4.0**power for power in range(14))

# Seen by clients.
REQUESTS = Metric(
    "gateway_requests",
    MetricKind.COUNTER,
    "{request}",
    "Requests by outcome.",
    ("route", "outcome", "stream"),
)
ERRORS = Metric(
    "gateway_errors",
    MetricKind.COUNTER,
    "{request}",
    "Requests that ended in an error, by error code.",
    ("route", "code"),
)
DURATION = Metric(
    "gen_ai_server_request_duration",
    MetricKind.HISTOGRAM,
    "s",
    "Time from a request's arrival to its last byte.",
    ("route", "outcome"),
    LONG_S,
)
FIRST_TOKEN = Metric(
    "gen_ai_server_time_to_first_token",
    MetricKind.HISTOGRAM,
    "s",
    "Time to the first content of a stream; answers from the cache are labelled.",
    ("route", "cached"),
    FIRST_S,
)
PER_TOKEN = Metric(
    "gen_ai_server_time_per_output_token",
    MetricKind.HISTOGRAM,
    "s",
    "Time between tokens after the first, averaged over each complete stream.",
    ("route",),
    TOKEN_S,
)
OVERHEAD = Metric(
    "gateway_overhead_duration",
    MetricKind.HISTOGRAM,
    "s",
    "The gateway's own share of the time to the first byte.",
    ("route",),
    OVERHEAD_S,
)
FAILOVERS = Metric(
    "gateway_failovers",
    MetricKind.COUNTER,
    "{request}",
    "Requests answered by one target after another target had failed.",
    ("route",),
)
QUEUE = Metric(
    "gateway_queue_left",
    MetricKind.COUNTER,
    "{request}",
    "Requests that had to queue because all providers were at capacity, by how they left the queue.",
    ("route", "priority", "how"),
)
QUEUE_WAIT = Metric(
    "gateway_queue_duration",
    MetricKind.HISTOGRAM,
    "s",
    "Queueing delay of the requests that had to queue.",
    ("route", "how"),
    FIRST_S,
)
QUEUE_WAITING = Metric("gateway_queue_waiting", MetricKind.GAUGE, "{request}", "Requests in the queue now.")
RATE_LIMITED = Metric(
    "gateway_rate_limited",
    MetricKind.COUNTER,
    "{request}",
    "Requests refused for a rate limit, by what the limit counts; blocked: of a client that does not wait.",
    ("by", "blocked"),
)
RATE_LIMIT_LOCAL = Metric(
    "gateway_rate_limit_local",
    MetricKind.COUNTER,
    "{request}",
    "Requests counted by one process alone, because the shared log of rate limits did not answer.",
)
DEGRADED = Metric(
    "gateway_degraded",
    MetricKind.COUNTER,
    "{request}",
    "Requests that received a fallback answer, by its source.",
    ("route", "source"),
)
CACHE = Metric(
    "gateway_cache_lookups",
    MetricKind.COUNTER,
    "{lookup}",
    "Lookups in the answer cache, by result.",
    ("route", "result"),
)
SHARED = Metric(
    "gateway_shared",
    MetricKind.COUNTER,
    "{request}",
    "Requests that joined a shared call, calls handed over to a joined request, refreshes of stale answers.",
    ("route", "what"),
)
TURNS = Metric(
    "gateway_turns",
    MetricKind.COUNTER,
    "{turn}",
    "Turns of conversations, by how they ended, and whether they are in the database.",
    ("route", "outcome", "kept"),
)
TURNS_RESUMED = Metric(
    "gateway_turns_resumed",
    MetricKind.COUNTER,
    "{turn}",
    "Turns that a connection reads on, by where their answer came from.",
    ("source",),
)
TURNS_LIVE = Metric(
    "gateway_turns_live", MetricKind.GAUGE, "{turn}", "Turns that this process is answering.", ()
)
SOCKETS = Metric("gateway_sockets", MetricKind.GAUGE, "{socket}", "Open WebSockets.", ())
SOCKETS_CLOSED = Metric(
    "gateway_sockets_closed",
    MetricKind.COUNTER,
    "{socket}",
    "WebSockets that are over, by close code; 1006: without one.",
    ("code",),
)
HISTORY_PRUNED = Metric(
    "gateway_history_pruned",
    MetricKind.COUNTER,
    "{turn}",
    "Turns asked without some of what was said before, because it did not fit in the model's window.",
    ("route",),
)
FEEDBACK = Metric(
    "gateway_feedback",
    MetricKind.COUNTER,
    "{feedback}",
    "Feedback that people gave, by kind, by value, and by the target that the answer came from.",
    ("kind", "value", "target"),
)

# Done by providers.
PROVIDER_LABELS = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
ATTEMPTS = Metric(
    "gateway_attempts",
    MetricKind.COUNTER,
    "{attempt}",
    "Attempts at a target, by the reason they ended with and their kind.",
    ("target", "reason", "kind"),
)
PASSED_OVER = Metric(
    "gateway_passed_over",
    MetricKind.COUNTER,
    "{attempt}",
    "Targets that a request skipped, by reason.",
    ("target", "reason"),
)
ATTEMPT_DURATION = Metric(
    "gen_ai_client_operation_duration",
    MetricKind.HISTOGRAM,
    "s",
    "Duration of an attempt, without the cancelled ones.",
    (*PROVIDER_LABELS, "error_type"),
    LONG_S,
)
FIRST_CHUNK = Metric(
    "gen_ai_client_operation_time_to_first_chunk",
    MetricKind.HISTOGRAM,
    "s",
    "Time from the start of a streamed attempt to its first content.",
    PROVIDER_LABELS,
    FIRST_S,
)
TOKEN_USAGE = Metric(
    "gen_ai_client_token_usage",
    MetricKind.HISTOGRAM,
    "{token}",
    "Tokens of an answer: the provider's count, or an estimate.",
    (*PROVIDER_LABELS, "gen_ai_token_type"),
    TOKENS,
)
BREAKER_CHANGES = Metric(
    "gateway_breaker_changes",
    MetricKind.COUNTER,
    "{change}",
    "State changes of a circuit breaker, by the new state.",
    ("scope", "after"),
)
BREAKER_STATE = Metric(
    "gateway_breaker_state", MetricKind.GAUGE, "", "0 closed, 1 half open, 2 open, 3 isolated.", ("target",)
)
TARGET_HEALTH = Metric(
    "gateway_target_health", MetricKind.GAUGE, "", "0 healthy, 1 degraded, 2 unhealthy.", ("target",)
)
TARGET_IN_FLIGHT = Metric(
    "gateway_target_in_flight", MetricKind.GAUGE, "{attempt}", "Attempts in flight.", ("target",)
)
HEALTH_CHANGES = Metric(
    "gateway_health_changes",
    MetricKind.COUNTER,
    "{change}",
    "Health changes of a target, by the new health.",
    ("target", "after"),
)
HEDGES = Metric(
    "gateway_hedges",
    MetricKind.COUNTER,
    "{hedge}",
    "Hedges of an attempt at this target, by why they started.",
    ("target", "why"),
)
RETRIES_DENIED = Metric(
    "gateway_retries_denied",
    MetricKind.COUNTER,
    "{attempt}",
    "Retries and hedges denied by the provider's retry budget.",
    ("provider",),
)
LIMIT_LOWERED = Metric(
    "gateway_limit_lowered",
    MetricKind.COUNTER,
    "{change}",
    "Decreases of a provider's concurrency limit after a sign of overload.",
    ("provider",),
)
PROVIDER_LIMIT = Metric(
    "gateway_provider_limit",
    MetricKind.GAUGE,
    "{attempt}",
    "The concurrency limit of a provider.",
    ("provider",),
)
PROVIDER_IN_FLIGHT = Metric(
    "gateway_provider_in_flight",
    MetricKind.GAUGE,
    "{attempt}",
    "Attempts in flight at all targets of a provider.",
    ("provider",),
)

# Cost. "billed": complete answers; "maybe": attempts that failed, were cut or cancelled, and may be billed.
TOKENS_SPENT = Metric(
    "gateway_tokens",
    MetricKind.COUNTER,
    "{token}",
    "Tokens of all attempts, counted by the provider or estimated.",
    ("target", "gen_ai_token_type", "certainty"),
)
COST = Metric(
    "gateway_cost_usd",
    MetricKind.COUNTER,
    "{USD}",
    "Cost of these tokens in US dollars, where the settings name a price.",
    ("target", "certainty"),
)

# The providers' keys. `key`: eight digits of a key's hash.
KEY_STATE = Metric(
    "gateway_key_state",
    MetricKind.GAUGE,
    "",
    "State of a provider's key: 0 unknown, 1 valid, 2 refused.",
    ("provider", "key"),
)
KEY_CHANGES = Metric(
    "gateway_key_changes",
    MetricKind.COUNTER,
    "{change}",
    "Keys that became valid or refused; refused ones that were dropped became unknown.",
    ("provider", "after"),
)
KEY_CHECKS = Metric(
    "gateway_key_checks",
    MetricKind.COUNTER,
    "{check}",
    "Checks of keys, by result; unknown: the provider did not say.",
    ("provider", "result"),
)
KEY_QUOTA_LEFT = Metric(
    "gateway_key_quota_left",
    MetricKind.GAUGE,
    "",
    "What is left of a limit of a key, as the provider's last answers said; the least of all models.",
    ("provider", "key", "what"),
)
KEY_COST = Metric(
    "gateway_key_cost_usd",
    MetricKind.COUNTER,
    "{USD}",
    "Cost of the attempts of this process with a key, in US dollars, where the settings name a price.",
    ("provider", "key"),
)
SPENDING_SHARE = Metric(
    "gateway_spending_share",
    MetricKind.GAUGE,
    "1",
    "Share of a provider's daily budget that was spent today (UTC), by all processes.",
    ("provider",),
)
SPENDING_NOTED = Metric(
    "gateway_spending_events",
    MetricKind.COUNTER,
    "{event}",
    "Daily budgets that were nearly (80 %) or wholly spent.",
    ("provider", "what"),
)

# The database of conversations.
STORE_DURATION = Metric(
    "gateway_store_duration",
    MetricKind.HISTOGRAM,
    "s",
    "Time that the database took for a statement, by its name and result; a transaction has its first one's.",
    ("statement", "result"),
    STORE_S,
)
STORE_OUTBOX = Metric(
    "gateway_store_outbox", MetricKind.GAUGE, "{write}", "Writes that wait for the database."
)
STORE_POOL = Metric(
    "gateway_store_pool",
    MetricKind.GAUGE,
    "{connection}",
    "Connections to PostgreSQL, and how many there may be.",
    ("state",),
)
STORE_FORGOTTEN = Metric(
    "gateway_store_writes_forgotten",
    MetricKind.COUNTER,
    "{write}",
    "Writes that were given up: they are not in the database.",
)
STORE_READY = Metric(
    "gateway_store_ready", MetricKind.GAUGE, "", "1 while requests use the database, 0 while it is lost."
)

# Documents.
DOCUMENT_READ = Metric(
    "gateway_document_read_duration",
    MetricKind.HISTOGRAM,
    "s",
    "Time that reading an uploaded file took, with the wait for a reader, by kind and by what came of it.",
    ("kind", "result"),
    READ_S,
)
# Work in the background.
JOBS_RUNNING = Metric("gateway_jobs_running", MetricKind.GAUGE, "{job}", "Jobs that this process does now.")
JOBS_ENDED = Metric(
    "gateway_jobs_ended",
    MetricKind.COUNTER,
    "{job}",
    "Jobs that are over, by their kind, and whether they are done or have failed.",
    ("kind", "state"),
)
JOB_STEP_DURATION = Metric(
    "gateway_job_step_duration",
    MetricKind.HISTOGRAM,
    "s",
    "Time that a step of a job took, by the job's kind and what became of the step.",
    ("kind", "result"),
    LONG_S,
)

# The process.
IN_FLIGHT = Metric("gateway_requests_in_flight", MetricKind.GAUGE, "{request}", "Requests in flight.")
DRAINING = Metric("gateway_draining", MetricKind.GAUGE, "", "1 once shutdown has begun.")
RELOADS = Metric(
    "gateway_settings_reloads",
    MetricKind.COUNTER,
    "{reload}",
    "Reloads of the settings, by result.",
    ("result",),
)
CRASHES = Metric("gateway_crashes", MetricKind.COUNTER, "{crash}", "Internal errors: defects of the gateway.")
SECURITY_EVENTS = Metric(
    "gateway_security_events",
    MetricKind.COUNTER,
    "{event}",
    "Security events: refused keys, tokens, hosts, origins and sessions, and misuse.",
    ("what",),
)
PROBLEMS = Metric(
    "gateway_problems",
    MetricKind.GAUGE,
    "{problem}",
    "Kinds of errors of this process: now (seen within 5 minutes), or over.",
    ("state",),
)
ROUTE_DEGRADED = Metric(
    "gateway_route_degraded",
    MetricKind.GAUGE,
    "",
    "1 while a route does worse than usual: not_whole (requests not answered whole), first_token (p95).",
    ("route", "what"),
)
NOTIFICATIONS = Metric(
    "gateway_notifications",
    MetricKind.COUNTER,
    "{message}",
    "Messages to the operator's hook or to Sentry, by what they tell of and what became of them.",
    ("to", "what", "result"),
)
CPU = Metric("process_cpu", MetricKind.COUNTER, "s", "User and system time of this process.")
MEMORY = Metric(
    "process_resident_memory",
    MetricKind.GAUGE,
    "By",
    "Resident memory; its peak where only that is available (macOS).",
)
DESCRIPTORS = Metric("process_open_fds", MetricKind.GAUGE, "{descriptor}", "Open file descriptors.")
DESCRIPTORS_MAX = Metric(
    "process_max_fds", MetricKind.GAUGE, "{descriptor}", "File descriptors that the process may have open."
)
CONNECTIONS = Metric(
    "gateway_connections", MetricKind.GAUGE, "{connection}", "Open connections of clients, idle ones too."
)
LOOP_LAG = Metric(
    "process_loop_lag",
    MetricKind.HISTOGRAM,
    "s",
    "How late a timer of the event loop comes, each half second: all requests wait for as long.",
    (),
    LAG_S,
)
GC_PAUSE = Metric(
    "process_gc_pause",
    MetricKind.HISTOGRAM,
    "s",
    "How long a garbage collection stops the process, by its generation.",
    ("generation",),
    LAG_S,
)
MEMORY_USED = Metric(
    "process_memory_used",
    MetricKind.GAUGE,
    "By",
    "Memory in use: of all in the cgroup where that has a limit, else of the host; without idle file pages.",
    ("source",),
)
MEMORY_LIMIT = Metric(
    "process_memory_limit",
    MetricKind.GAUGE,
    "By",
    "Memory that there is: the limit of the cgroup, or the host's. Who needs more is killed.",
    ("source",),
)
CPU_LIMIT = Metric(
    "process_cpu_limit",
    MetricKind.GAUGE,
    "{cpu}",
    "Processors that there are: the quota of the cgroup, or those of the host.",
    ("source",),
)
CPU_THROTTLED = Metric(
    "process_cpu_throttled",
    MetricKind.COUNTER,
    "s",
    "How long the kernel has held the cgroup's processes back, because its quota was used up.",
)
HOST_LOAD = Metric(
    "process_host_load", MetricKind.GAUGE, "{task}", "Tasks of the host that want to run, over a minute."
)
STORE_ROOM = Metric(
    "gateway_store_room", MetricKind.GAUGE, "By", "Free room of the disk that SQLite writes to."
)

ALL = tuple(value for value in tuple(globals().values()) if isinstance(value, Metric))

BREAKER_LEVEL = {"closed": 0, "half_open": 1, "open": 2, "isolated": 3}
KEY_LEVEL = {"unknown": 0, "valid": 1, "refused": 2}
HEALTH_LEVEL = {"healthy": 0, "degraded": 1, "unhealthy": 2}
FEEDBACK_VALUES = {1: "up", -1: "down", None: "none"}
# Why an attempt was made, and why one was hedged.
ATTEMPT_KINDS = frozenset({"first", "retry", "fresh", "key", "plain", "hedge", "probe"})
HEDGE_REASONS = frozenset({"probe", "degraded", "slow", "silent", "late"})


def _reasons() -> Iterator[str]:
    """Yield the reasons of attempts: our own, timeouts, the wire's stages and kinds, common statuses."""
    yield from ("ok", "cancelled", "hedge_lost", "unsupported")
    yield from ("empty_answer", "error_in_answer", "error_event", "truncated", "garbled", "not_json")
    yield from ("not_a_stream", "answer_too_long", "event_too_long", "rejected_content")
    yield from (f"{name}_timeout" for name in ("first_token", "whole_answer", "between_tokens", "deadline"))
    yield from (f"{stage}_{kind}" for stage in Stage for kind in FailureKind)
    client_errors = (400, 401, 402, 403, 404, 408, 409, 413, 422, 424, 429, 498, 499)
    server_errors = (500, 501, 502, 503, 504, 529, 530, *range(520, 528))
    yield from (f"http_{status}" for status in client_errors + server_errors)


PASSED_OVER_REASONS = frozenset(
    {
        "breaker_open",
        "caller_breaker_open",
        "host_breaker_open",
        "isolated",
        "slow_start",
        "provider_full",
        "retry_budget_spent",
        *(rest.value for rest in CooldownReason),
    }
)
REASONS = frozenset(_reasons())
CODES = frozenset(kind.code for kind in every_error())


def reason_label(reason: str) -> str:
    """Return a reason of the closed set, an unknown status by its class (http_4xx), or "other"."""
    if reason in REASONS or reason in PASSED_OVER_REASONS:
        return reason
    head, _, tail = reason.partition("_")
    if head == "unsupported":
        return head
    if head == "http" and len(tail) == 3 and tail[0] in "12345":
        return f"http_{tail[0]}xx"
    return OTHER
