"""Every metric there is: name, unit, labels, meaning. Dashboards, alerts and docs take their names from here.

Where OpenTelemetry's conventions for generative AI have a name, it is used (as of `SCHEMA_URL`; all of them are still
in development). Dots are written as underscores, since Prometheus 2 knows no others.

Labels are bounded: routes, providers, targets and hosts come from the settings; outcomes, codes, reasons, kinds and
operations are closed sets. What is in none of them counts as "other".
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
    """What may be asked of a metric: a rate, a value, or a distribution."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


UNIT_SUFFIX = {"s": "_seconds", "By": "_bytes"}


@dataclass(frozen=True, slots=True)
class Metric:
    """One row. `unit` is UCUM; `buckets` are upper bounds in that unit."""

    name: str
    kind: MetricKind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """The name as Prometheus sees it; a histogram's series add `_bucket`, `_sum` and `_count`."""
        total = "_total" if self.kind is MetricKind.COUNTER else ""
        return self.name + UNIT_SUFFIX.get(self.unit, "") + total


LONG_S = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
    163.84,
    327.68,
)
FIRST_S = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
)
TOKEN_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
OVERHEAD_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
TOKENS = tuple(4.0**power for power in range(14))

# What clients see.
REQUESTS = Metric(
    "gateway_requests",
    MetricKind.COUNTER,
    "{request}",
    "Requests by how they ended.",
    ("route", "outcome", "stream"),
)
ERRORS = Metric(
    "gateway_errors",
    MetricKind.COUNTER,
    "{request}",
    "Requests that ended in an error, by its code.",
    ("route", "code"),
)
DURATION = Metric(
    "gen_ai_server_request_duration",
    MetricKind.HISTOGRAM,
    "s",
    "From a request's arrival to its last byte.",
    ("route", "outcome"),
    LONG_S,
)
FIRST_TOKEN = Metric(
    "gen_ai_server_time_to_first_token",
    MetricKind.HISTOGRAM,
    "s",
    "From a stream's request to its first content; answers from the cache apart.",
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
    "Our own share of the time before the first byte went out.",
    ("route",),
    OVERHEAD_S,
)
FAILOVERS = Metric(
    "gateway_failovers",
    MetricKind.COUNTER,
    "{request}",
    "Requests answered by one target after another one had failed.",
    ("route",),
)
QUEUE = Metric(
    "gateway_queue_left",
    MetricKind.COUNTER,
    "{request}",
    "Requests that waited, or would have had to, as every provider was full; and how they left the queue.",
    ("route", "priority", "how"),
)
QUEUE_WAIT = Metric(
    "gateway_queue_duration",
    MetricKind.HISTOGRAM,
    "s",
    "Time in the queue of those who had to wait.",
    ("route", "how"),
    FIRST_S,
)
QUEUE_WAITING = Metric(
    "gateway_queue_waiting", MetricKind.GAUGE, "{request}", "Requests that wait while every provider is full."
)
DEGRADED = Metric(
    "gateway_degraded",
    MetricKind.COUNTER,
    "{request}",
    "Requests that got a labelled substitute, by where it came from.",
    ("route", "source"),
)
CACHE = Metric(
    "gateway_cache_lookups",
    MetricKind.COUNTER,
    "{lookup}",
    "Looks into the answer cache.",
    ("route", "result"),
)
SHARED = Metric(
    "gateway_shared",
    MetricKind.COUNTER,
    "{request}",
    "Requests that joined an equal one's call, calls handed over to those who had joined, calls behind a stale answer.",
    ("route", "what"),
)

# What providers do.
PROVIDER_LABELS = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
ATTEMPTS = Metric(
    "gateway_attempts",
    MetricKind.COUNTER,
    "{attempt}",
    "Tries at a target, by how they ended and why they were made.",
    ("target", "reason", "kind"),
)
PASSED_OVER = Metric(
    "gateway_passed_over",
    MetricKind.COUNTER,
    "{attempt}",
    "Targets left alone on a request's way, and why.",
    ("target", "reason"),
)
ATTEMPT_DURATION = Metric(
    "gen_ai_client_operation_duration",
    MetricKind.HISTOGRAM,
    "s",
    "From a try's start to its end; cancelled and hedge_lost ones left out.",
    (*PROVIDER_LABELS, "error_type"),
    LONG_S,
)
FIRST_CHUNK = Metric(
    "gen_ai_client_operation_time_to_first_chunk",
    MetricKind.HISTOGRAM,
    "s",
    "From the start of a streamed try to its first content.",
    PROVIDER_LABELS,
    FIRST_S,
)
TOKEN_USAGE = Metric(
    "gen_ai_client_token_usage",
    MetricKind.HISTOGRAM,
    "{token}",
    "Tokens of an answer, as the provider counted them.",
    (*PROVIDER_LABELS, "gen_ai_token_type"),
    TOKENS,
)
BREAKER_CHANGES = Metric(
    "gateway_breaker_changes",
    MetricKind.COUNTER,
    "{change}",
    "Moves of a breaker, by the state it moved to.",
    ("scope", "after"),
)
BREAKER_STATE = Metric(
    "gateway_breaker_state", MetricKind.GAUGE, "", "0 closed, 1 half open, 2 open, 3 isolated.", ("target",)
)
TARGET_HEALTH = Metric(
    "gateway_target_health", MetricKind.GAUGE, "", "0 healthy, 1 degraded, 2 unhealthy.", ("target",)
)
TARGET_IN_FLIGHT = Metric(
    "gateway_target_in_flight", MetricKind.GAUGE, "{attempt}", "Open tries.", ("target",)
)
HEALTH_CHANGES = Metric(
    "gateway_health_changes",
    MetricKind.COUNTER,
    "{change}",
    "Moves of a target's health, by what it moved to.",
    ("target", "after"),
)
HEDGES = Metric(
    "gateway_hedges",
    MetricKind.COUNTER,
    "{hedge}",
    "Requests that went to a second target beside this one, and why.",
    ("target", "why"),
)
RETRIES_DENIED = Metric(
    "gateway_retries_denied",
    MetricKind.COUNTER,
    "{attempt}",
    "Retries and hedges not made, because the provider's budget for them was spent.",
    ("provider",),
)
LIMIT_LOWERED = Metric(
    "gateway_limit_lowered",
    MetricKind.COUNTER,
    "{change}",
    "How often a provider was given fewer requests at one time, because it showed that it has less room.",
    ("provider",),
)
PROVIDER_LIMIT = Metric(
    "gateway_provider_limit",
    MetricKind.GAUGE,
    "{attempt}",
    "Requests that a provider is given at one time, at most.",
    ("provider",),
)
PROVIDER_IN_FLIGHT = Metric(
    "gateway_provider_in_flight",
    MetricKind.GAUGE,
    "{attempt}",
    "Open tries at all targets of a provider.",
    ("provider",),
)

# What it costs. "billed": the answer came whole; "maybe": given up, cut or left, and perhaps billed all the same.
TOKENS_SPENT = Metric(
    "gateway_tokens",
    MetricKind.COUNTER,
    "{token}",
    "Tokens of all tries, counted by the provider or estimated.",
    ("target", "gen_ai_token_type", "certainty"),
)
COST = Metric(
    "gateway_cost_usd",
    MetricKind.COUNTER,
    "{USD}",
    "What these tokens cost in US dollars, where settings name a price.",
    ("target", "certainty"),
)

# The process.
IN_FLIGHT = Metric("gateway_requests_in_flight", MetricKind.GAUGE, "{request}", "Requests being answered.")
DRAINING = Metric("gateway_draining", MetricKind.GAUGE, "", "1 once the service was told to end.")
RELOADS = Metric(
    "gateway_settings_reloads",
    MetricKind.COUNTER,
    "{reload}",
    "Settings read again, and what came of it.",
    ("result",),
)
CRASHES = Metric("gateway_crashes", MetricKind.COUNTER, "{crash}", "Defects of ours, caught at the edge.")
CPU = Metric("process_cpu", MetricKind.COUNTER, "s", "User and system time of this process.")
MEMORY = Metric(
    "process_resident_memory",
    MetricKind.GAUGE,
    "By",
    "Memory in use; its highest value where unknown (macOS).",
)
DESCRIPTORS = Metric("process_open_fds", MetricKind.GAUGE, "{descriptor}", "Open file descriptors.")

ALL = tuple(value for value in tuple(globals().values()) if isinstance(value, Metric))

BREAKER_LEVEL = {"closed": 0, "half_open": 1, "open": 2, "isolated": 3}
HEALTH_LEVEL = {"healthy": 0, "degraded": 1, "unhealthy": 2}
ATTEMPT_KINDS = frozenset({"first", "retry", "fresh", "key", "hedge", "probe"})  # why a try was made
HEDGE_REASONS = frozenset({"probe", "degraded", "slow", "late"})


def _reasons() -> Iterator[str]:
    """Why a try may end: our own words, the clocks, the wire's stages and kinds, and statuses seen in the field."""
    yield from ("ok", "cancelled", "hedge_lost", "unsupported")
    yield from ("empty_answer", "error_in_answer", "error_event", "truncated", "garbled", "not_json")
    yield from ("not_a_stream", "answer_too_long", "event_too_long", "rejected_content")
    yield from (f"{name}_timeout" for name in ("first_token", "whole_answer", "between_tokens", "deadline"))
    yield from (f"{stage}_{kind}" for stage in Stage for kind in FailureKind)
    yield from (
        f"http_{status}" for status in (400, 401, 402, 403, 404, 408, 409, 413, 422, 424, 429, 498, 499)
    )
    yield from (f"http_{status}" for status in (500, 501, 502, 503, 504, 529, 530, *range(520, 528)))


PASSED_OVER_REASONS = frozenset(
    {
        "breaker_open",
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
    """The reason, if it is one of the set; a stranger's status by its class, everything else as "other"."""
    if reason in REASONS or reason in PASSED_OVER_REASONS:
        return reason
    head, _, tail = reason.partition("_")
    if head == "unsupported":
        return head
    if head == "http" and len(tail) == 3 and tail[0] in "12345":
        return f"http_{tail[0]}xx"
    return OTHER
