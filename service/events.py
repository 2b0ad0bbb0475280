"""Events: facts in the past tense, each emitted once by the core. Telemetry subscribes to them.

failover, gateway, resilience, cache, admission --emit--> Events --> telemetry.metrics | .logs | .board
"""

import traceback
from collections.abc import Callable, Mapping
from enum import IntEnum, StrEnum
from types import MethodType
from typing import Any, get_args

from msgspec import Struct

from dub5.service.model import AttemptRecord, Outcome, Usage


class AttemptEnded(Struct, frozen=True):
    """An attempt at a target is over. `attempt.reason` is "ok", "cancelled" or the failure's name."""

    request_id: str
    route: str
    provider: str
    attempt: AttemptRecord
    blame: str  # "target", "host", "key" or "nobody"
    operation: str = "chat"  # or "embeddings"
    key_refused: bool = False  # or its account


class RequestEnded(Struct, frozen=True):
    """A request is over. Durations are seconds.

    `target` gave the answer. `overhead_s`: the gateway's own part of the time until the first byte was sent.
    """

    request_id: str
    caller: str
    route: str
    outcome: Outcome
    code: str | None
    target: str | None
    stream: bool
    cached: bool
    first_token_s: float | None
    total_s: float
    overhead_s: float
    usage: Usage | None
    attempts: tuple[AttemptRecord, ...]
    operation: str = "chat"  # or "embeddings"
    degraded: str | None = None  # the source of a fallback answer: "stale", "template" or "words"
    shared: bool = False  # its attempts and their cost are counted with the request that shares its answer
    session: str | None = None  # eight digits of a hash of its id


class BreakerChanged(Struct, frozen=True):
    """A circuit breaker changed its state. `scope` is a target, a host, "cache", "limits" or "database"."""

    scope: str
    before: str
    after: str
    why: str


class CallerBarred(Struct, frozen=True):
    """A target fails with the requests of one caller alone, which is kept from it for a while."""

    target: str
    caller: str
    why: str


class HealthChanged(Struct, frozen=True):
    """A target became "healthy", "degraded" (healthy targets go first) or "unhealthy" (it is not asked)."""

    target: str
    before: str
    after: str


class KeyChecked(Struct, frozen=True):
    """A provider was asked whether it takes a key: "valid", "refused", or "unknown" where it did not say."""

    provider: str
    key: str
    result: str


class KeyStateChanged(Struct, frozen=True):
    """A key of a provider became "valid" or "refused". `key`: eight digits of its hash.

    `by`: a "call" or a "check" has told. A refused key becomes "unknown" by a "reload" that drops it.
    There is one event for each change, however many requests meet the refusal.
    """

    provider: str
    key: str
    before: str
    after: str
    by: str


class SpendingNoted(Struct, frozen=True):
    """A provider's spending today is near its daily budget ("spending_near": 80 %), or has reached it.

    `what` is "spending_reached" then, and the provider is not asked until midnight UTC.
    """

    provider: str
    what: str
    spent_usd: float
    max_usd: float


class LimitLowered(Struct, frozen=True):
    """A provider was overloaded: its concurrency limit went from `before` to `after`."""

    provider: str
    before: int
    after: int
    why: str


class BudgetSpent(Struct, frozen=True):
    """A retry or hedge was not made, because the retry budget of this provider was spent."""

    provider: str


class QueueLeft(Struct, frozen=True):
    """A request left the queue for providers at capacity.

    `how`: "served" (it got a slot), "left" (its client disconnected), "expired" (the remaining deadline was
    too short for an answer), "overloaded" (it waited too long while the queue stood) or "full" (too many
    requests waited).
    """

    request_id: str
    route: str
    priority: str  # "high", "normal" or "low"
    how: str
    waited_s: float


class RateLimitHit(Struct, frozen=True):
    """A request was refused for a rate limit. `by`: "session", "caller" or "ip".

    `who`: the label of the session, the hash of the caller's key or the address. `blocked`: it did not wait
    when it was told to, and is refused whatever it has sent since.
    """

    by: str
    who: str
    blocked: bool


class LimitCountedLocally(Struct, frozen=True):
    """A request was counted against its rate limits by this process alone: the shared log did not answer."""

    why: str


class Hedged(Struct, frozen=True):
    """A hedge was sent: a second target was asked in parallel with `target`, so that no request waits for it.

    `why`: "probe" (`target` may be down), "degraded" (it fails now and then), "slow" (no first token after
    the usual (p95) time), "silent" (none for much longer than usual) or "late" (half of the request's time is
    gone, and `target` may use up all of it).
    """

    request_id: str
    route: str
    target: str
    why: str


class Shared(Struct, frozen=True):
    """A request shared a provider call with equal requests.

    `what`: "joined" (it joined a call that an equal request had begun), "handed_over" (it had begun the call,
    or been there longest, and left it to the others) or "renewed" (it got a stale answer, and the answer is
    refreshed).
    """

    request_id: str
    route: str
    what: str


class CacheLooked(Struct, frozen=True):
    """A cache lookup. `result`: "hit", "stale" (served after its TTL), "miss" or "error" (storage failed)."""

    route: str
    result: str


class CacheInvalidated(Struct, frozen=True):
    """Stored answers were invalidated. `by`: "model", "route", "caller", "key", "everything"; `which` one."""

    by: str
    which: str


class CacheWarmed(Struct, frozen=True):
    """A route's warm-up file was read: `kept` answers are stored. `problems`: a sentence per other line."""

    route: str
    kept: int
    problems: tuple[str, ...]


class SettingsReloaded(Struct, frozen=True):
    """The settings were read again. `ok`: the new ones are in use; otherwise the old ones stay.

    `problems`: why the new ones cannot be used, or which of them need a restart, one sentence each.
    """

    ok: bool
    problems: tuple[str, ...]


class DrainBegan(Struct, frozen=True):
    """The service began to shut down; `in_flight` requests may still finish."""

    in_flight: int


class Crashed(Struct, frozen=True):
    """A defect of the service was caught. `where`: the exception's type and place, never its message."""

    request_id: str
    where: str


class SecurityKind(StrEnum):
    """What a security event is about."""

    BAD_KEY = "bad_key"  # an unknown caller key
    RATE_ABUSE = "rate_abuse"  # a caller or an address goes on asking while it is refused
    ORIGIN_REFUSED = "origin_refused"  # a page of an origin that is not listed
    HOST_REFUSED = "host_refused"  # a host name that is not ours
    CSRF_REFUSED = "csrf_refused"  # a page of another site used a session's cookie
    BAD_TICKET = "bad_ticket"
    BAD_SESSION = "bad_session"
    INJECTION_FLAGGED = "injection_flagged"  # a question that looks like an attack on the model
    ADMIN_REFUSED = "admin_refused"  # a wrong admin token


class SecurityNoted(Struct, frozen=True):
    """Something happened that attacks begin with.

    `who`: the client's address (of IPv6 its /64 network), or the hash of a caller or session. Only the log
    has it, for an operator who must act. `where`: a path, or what was refused.
    """

    what: SecurityKind
    who: str
    where: str


class StatementEnded(Struct, frozen=True):
    """The database was asked. `statement`: its name; a transaction has that of its first one.

    `result`: "ok", "lost" (the call failed), "late" (nobody waited any longer) or "refused" (it is wrong).
    """

    statement: str
    result: str
    took_s: float


class WritesForgotten(Struct, frozen=True):
    """Writes of conversations were given up, and are not in the database."""

    count: int
    why: str


class MigrationEnded(Struct, frozen=True):
    """A migration of the database was applied, or failed (`why`) and left nothing behind."""

    number: int
    name: str
    ok: bool
    took_ms: float
    why: str = ""


class HistoryPruned(Struct, frozen=True):
    """A question was asked without some of what was said before, which did not fit. `turns`: whole ones."""

    request_id: str
    route: str
    turns: int
    tokens: int


class ResumedFrom(StrEnum):
    """Where the answer of a turn that was resumed came from."""

    MEMORY = "memory"
    DATABASE = "database"
    OTHER_PROCESS = "other_process"


class TurnResumed(Struct, frozen=True):
    """A connection reads a turn that it did not ask."""

    turn: str
    source: ResumedFrom


class RouteMeasure(StrEnum):
    """What a route is watched for: worse than usual is told."""

    NOT_WHOLE = "not_whole"  # the share of requests that were not answered whole
    FIRST_TOKEN = "first_token"  # noqa: S105  # the p95 of the time to the first token of a stream, in seconds


class RouteDegraded(Struct, frozen=True):
    """A route does worse than usual. `usual`: its own of the hour before; None: not known yet."""

    route: str
    what: RouteMeasure
    value: float
    usual: float | None
    words: str


class RouteRecovered(Struct, frozen=True):
    """A route does as usual again, or nobody asks it any more. `value`: None if nobody does."""

    route: str
    what: RouteMeasure
    value: float | None
    usual: float | None
    lasted_s: float
    words: str


class NotificationEnded(Struct, frozen=True):
    """A message to the operator's hook or to Sentry (`to`) was sent, or given up.

    `what`: the kind of incident. `result`: "sent", "failed" or "dropped" (too many waited).
    """

    to: str
    what: str
    result: str
    tries: int
    why: str = ""


class CloseCode(IntEnum):
    """Why a WebSocket is closed: as in RFC 6455, 7.4, and IANA's registry; those from 4000 on are our own."""

    NORMAL = 1000
    GOING_AWAY = 1001
    BAD_FRAME = 1002
    NOT_TEXT = 1003
    NO_STATUS = 1005
    ABNORMAL = 1006
    NOT_UTF8 = 1007
    BAD_MESSAGES = 1008
    TOO_LARGE = 1009
    INTERNAL = 1011
    DRAIN = 1012
    TRY_LATER = 1013
    NO_ACCESS = 4401
    IDLE = 4408


class SocketOpened(Struct, frozen=True):
    """A WebSocket was accepted, and who is at its other end is known."""

    id: str
    caller: str
    session: str | None


class SocketClosed(Struct, frozen=True):
    """A WebSocket is over. `code`: of its close, ours or the client's; `turns`: that it asked or read on."""

    id: str
    code: int
    turns: int
    open_s: float


class TurnEnded(Struct, frozen=True):
    """A turn of a conversation is over. `kept`: it is in the database.

    `memory_lost`: it was asked without what was said before. `repeated`: it had been asked already, and this
    request got its end.
    """

    request_id: str
    route: str
    outcome: Outcome
    kept: bool
    memory_lost: bool = False
    repeated: bool = False
    conversation: str = ""
    turn: str = ""
    session: str | None = None


class DocumentRead(Struct, frozen=True):
    """A file that somebody uploaded was read, or refused.

    `kind`: "pdf", "docx", "md" or "txt"; empty if it was refused. `result`: "read", or why not, of the closed
    list in documents/refusals.py. `size`: its bytes. `why`: more of the reason, for the operator.
    """

    kind: str
    result: str
    took_s: float
    size: int
    why: str = ""


class StepResult(StrEnum):
    """How a step of a job ended in this process."""

    KEPT = "kept"
    RETRY = "retry"  # it is tried again later
    FAILED = "failed"  # and so the job
    LOST = "lost"  # another process has the job, or its owner stopped or deleted it
    GIVEN_BACK = "given_back"  # this process ends, or nobody watches any more


class JobStepEnded(Struct, frozen=True):
    """A step of a job is over in this process. `step`: its number; `tries`: at it, with this one."""

    kind: str
    job: str
    step: int
    result: StepResult
    took_s: float
    tries: int


class JobEnded(Struct, frozen=True):
    """A job is over: "done" or "failed". `took_s`: since it was made; `tries`: at its last step."""

    kind: str
    job: str
    state: str
    took_s: float
    tries: int


class FeedbackGiven(Struct, frozen=True):
    """Somebody said what an answer is worth, or that something is wrong. `value`: 1 or -1 of an answer.

    `note`: what was said, where only the log keeps it.
    """

    id: str
    caller: str
    session: str | None
    kind: str
    value: int | None
    turn: str | None
    request_id: str | None
    route: str | None
    target: str | None
    note: str | None
    kept: bool


Event = (
    AttemptEnded
    | RequestEnded
    | BreakerChanged
    | CallerBarred
    | HealthChanged
    | KeyChecked
    | KeyStateChanged
    | SpendingNoted
    | LimitLowered
    | BudgetSpent
    | QueueLeft
    | RateLimitHit
    | LimitCountedLocally
    | Hedged
    | Shared
    | CacheLooked
    | CacheInvalidated
    | CacheWarmed
    | SettingsReloaded
    | DrainBegan
    | Crashed
    | SecurityNoted
    | StatementEnded
    | WritesForgotten
    | MigrationEnded
    | HistoryPruned
    | TurnEnded
    | TurnResumed
    | SocketOpened
    | SocketClosed
    | DocumentRead
    | JobStepEnded
    | JobEnded
    | FeedbackGiven
    | RouteDegraded
    | RouteRecovered
    | NotificationEnded
)
Subscriber = Callable[[Event], None]


def crash_of(error: BaseException, request_id: str) -> Crashed:
    """Return the event for a defect: the type of its exception, and its place."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename.rsplit('/', 2)[-1]}:{frames[-1].lineno}" if frames else "?"
    return Crashed(request_id, f"{type(error).__name__} at {place}")


class EventHandlers:
    """A subscriber that has a handler for each type of event that it wants, and ignores the others.

    Called, it looks for the handler; `Events` has looked before, and calls the handler itself.
    """

    def __init__(self, by_type: Mapping[type, Callable[[Any], None]]) -> None:
        self.by_type = by_type

    def __call__(self, event: Event) -> None:
        handler = self.by_type.get(type(event))
        if handler is not None:
            handler(event)


def methods_of(
    owner: object, methods: Mapping[type, Callable[[Any, Any], None]]
) -> dict[type, Callable[[Any], None]]:
    """Return the handlers that are methods of one object."""
    return {kind: MethodType(method, owner) for kind, method in methods.items()}


class Events:
    """Hands each event to each subscriber, in their order. Subscribers must not raise or wait."""

    def __init__(self, *subscribers: Subscriber) -> None:
        self._handlers: dict[type, tuple[Subscriber, ...]] = dict.fromkeys(get_args(Event), ())
        for subscriber in subscribers:
            self.subscribe(subscriber)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Add a subscriber, the last one to be told."""
        if isinstance(subscriber, EventHandlers):
            by_type = subscriber.by_type
        else:
            by_type = dict.fromkeys(self._handlers, subscriber)
        for kind, handler in by_type.items():
            self._handlers[kind] += (handler,)

    def emit(self, event: Event) -> None:
        """Pass an event to all subscribers that handle its type."""
        for handler in self._handlers[type(event)]:
            handler(event)
