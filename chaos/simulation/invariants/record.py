"""The record of a simulated run: each request, each attempt seen on the wire, the trace and its digest.

All invariants read this record. `RunRecord.log(line)` writes to the trace; `RunRecord.violated(rule, what)`
reports a broken invariant.
"""

import copy
import hashlib
from collections import Counter, deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from dub5.chaos.run.judge import Ending
from dub5.chaos.simulation.invariants.audience import Audience
from dub5.chaos.simulation.world.requests import PlannedRequest
from dub5.service.events import RequestEnded
from dub5.service.model import AttemptRecord
from dub5.simulators.virtual import Stalls

# The number of the request for which the running code works; None in the service's own tasks.
CURRENT_REQUEST: ContextVar[int | None] = ContextVar("current_request", default=None)
VIOLATIONS_MAX = 20
TRACE_MAX = 200
HASH_EVERY = 200
# Reasons for a hedge whose losing first attempt may finish in the background; other losers are cancelled.
FINISHES_IN_BACKGROUND = frozenset({"probe", "degraded"})


def provider_of(target: str) -> str:
    """Return the name of a target's provider."""
    return target.partition("/")[0]


@dataclass(slots=True, eq=False)
class ObservedAttempt:
    """One attempt, as the network saw it. `number` is the request's; None for one of the service's active
    probes."""

    number: int | None
    target: str
    key: str
    began_s: float
    head_s: float | None = None
    status: int | None = None
    retry_after_s: float | None = None
    closed_s: float | None = None
    reported: AttemptRecord | None = None  # as the service reported it
    ended_s: float = 0.0  # when the service reported it
    slow_open: bool = False  # it was sent although the breaker was open, for slowness alone

    @property
    def provider(self) -> str:
        """Return the name of the provider that was called."""
        return provider_of(self.target)


@dataclass(slots=True, eq=False)
class RequestRecord:
    """One request, as its client and the service saw it."""

    plan: PlannedRequest
    deadline_s: float  # loop seconds
    began_s: float
    attempts: list[ObservedAttempt] = field(default_factory=list)
    ended: RequestEnded | None = None
    ended_s: float = 0.0
    client_ending: Ending | None = None
    client_ended_s: float = 0.0
    left_s: float | None = None  # when the client left
    text: str = ""
    content_seen: bool = False
    hedged: dict[str, str] = field(default_factory=dict)  # target that was hedged -> reason
    hedges: list["ObservedHedge"] = field(default_factory=list)
    tasks: set[object] = field(default_factory=set)  # those that have sent attempts, or started hedges
    refused_by: set[tuple[str, str]] = field(default_factory=set)  # (target, key); (target, ""): any key
    generation: int = 0  # of the settings that apply to it
    headers: dict[str, str] = field(default_factory=dict)  # of the reply
    status: int = 0  # of the reply
    content_s: float = 0.0  # when its client received the first content
    silent_s: float = 0.0  # the longest time without a byte for its client
    received_s: float | None = None  # when its client received the last bytes
    cache_result: str = ""  # "hit", "stale" or "miss"
    cache_looked_s: float = 0.0
    leader: "RequestRecord | None" = None  # the request whose call it shares
    subscribers: list["RequestRecord"] = field(default_factory=list)  # requests that share its call
    waits: list["QueueWait"] = field(default_factory=list)  # its own, or those of its call
    audience: Audience | None = None  # of a turn: it may outlive the connection that asked

    def arrive(self, now_s: float, generation: int) -> None:
        """Record that the request has reached the service: its deadline counts from then."""
        self.deadline_s += now_s - self.began_s
        self.began_s, self.generation = now_s, generation

    def receive(self, now_s: float, *, content_seen: bool) -> None:
        """Record that its client has received bytes. `content_seen`: there is content in what it has."""
        before_s = self.began_s if self.received_s is None else self.received_s
        self.silent_s, self.received_s = max(self.silent_s, now_s - before_s), now_s
        if content_seen and not self.content_s:
            self.content_s = now_s

    @property
    def leader_or_self(self) -> "RequestRecord":
        """Return the request whose attempts bring this one's answer."""
        return self.leader or self

    @property
    def is_refresh(self) -> bool:
        """Say whether its attempts refresh the cache: it was answered with a stale entry already."""
        return self.cache_result == "stale"

    def until_s(self, total_s: float) -> float:
        """Return when its attempts must end: the latest deadline among the requests that share them."""
        return max(
            request.cache_looked_s + total_s if request.is_refresh else request.deadline_s
            for request in (self, *self.subscribers)
        )

    @property
    def gone_s(self) -> float | None:
        """Return from when on nobody waits for its own answer; None while somebody does."""
        return self.left_s if self.audience is None else self.audience.given_up_s()

    def has_ended(self) -> bool:
        """Say whether every request that waits for its attempts has ended."""
        return all(
            request.ended is not None and not request.is_refresh for request in (self, *self.subscribers)
        )

    def all_left_s(self) -> float | None:
        """Return when the last client that waits for its attempts left; None if a client stays or none has
        left."""
        waiting = (self, *self.subscribers)
        gone = [request.gone_s for request in waiting]
        if any(request.is_refresh for request in waiting) or all(gone_s is None for gone_s in gone):
            return None
        ends = [
            gone_s if gone_s is not None else _end_s(request)
            for gone_s, request in zip(gone, waiting, strict=True)
        ]
        return max(ends) if None not in ends else None  # type: ignore[type-var]


@dataclass(slots=True, eq=False)
class ObservedHedge:
    """A hedge: the target that is hedged, why, since when, and the first target of the branch.

    A branch is a task of its own, and sends its first attempt in the same instant. "": it has sent none.
    """

    hedged: str
    why: str
    at_s: float
    target: str = ""


@dataclass(frozen=True, slots=True)
class QueueWait:
    """A wait in the admission queue, and how it ended."""

    from_s: float
    to_s: float
    how: str


class RunRecord:
    """Everything observed in one run: requests, attempts, counters, violations, trace."""

    def __init__(self, now_ns: Callable[[], int], stalls: Stalls | None = None) -> None:
        self._stalls = stalls or Stalls()
        self.requests: dict[int, RequestRecord] = {}
        self.hedges: list[tuple[float, int]] = []  # of slow attempts: (time, generation of the settings)
        # Attempts that were not sent because the target lacks a feature: (provider, time).
        self.unsent: list[tuple[str, float]] = []
        self.happened: Counter[str] = Counter()  # events, as /status counts them
        self.probes: list[ObservedAttempt] = []
        self.sometimes: Counter[str] = Counter()
        self.breaker_moves: Counter[str] = Counter()  # state changes of breakers, by the new state
        self.worst: dict[str, float] = {}
        self.violations: list[str] = []
        self.trace: deque[str] = deque(maxlen=TRACE_MAX)
        self.before: tuple[str, ...] = ()  # the trace up to the first violation
        self._now_ns = now_ns
        self._unhashed: list[str] = []
        self._digest = hashlib.blake2b(digest_size=16)

    def split(self) -> "RunRecord":
        """Begin anew, as for another process. Return what was recorded so far, of the requests that ended.

        Trace, digest, violations and measurements go on.
        """
        past = copy.copy(self)
        past.requests = {
            number: request
            for number, request in self.requests.items()
            if request.ended is not None and request.client_ending is not None
        }
        self.requests, self.hedges, self.unsent, self.probes = {}, [], [], []
        self.happened, self.breaker_moves = Counter(), Counter()
        return past

    def log(self, line: str) -> None:
        """Write one line to the trace. Equal runs log equal lines at equal times."""
        line = f"{self._now_ns() / 1e9:.9f} {line}"
        self.trace.append(line)
        self._unhashed.append(line)
        if len(self._unhashed) >= HASH_EVERY:
            self._hash()

    def digest(self) -> str:
        """Return the digest of all trace lines."""
        self._hash()
        return self._digest.hexdigest()

    def _hash(self) -> None:
        self._digest.update("\n".join([*self._unhashed, ""]).encode())
        self._unhashed.clear()

    def violated(self, rule: str, what: str) -> None:
        """Report that a rule was broken."""
        self.log(f"VIOLATED {rule}: {what}")
        self.before = self.before or tuple(self.trace)
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(f"{rule} at {self._now_ns() / 1e9:.3f} s: {what}")

    def ran_s(self, from_s: float, to_s: float) -> float:
        """Return how long the event loop ran from one moment to a later one: without its stalls.

        A service whose loop stands still can keep no promise about time. Negative if `to_s` is earlier.
        """
        return round(to_s - from_s - self.stalled_s(from_s, to_s), 9)

    def stalled_s(self, from_s: float, to_s: float) -> float:
        """Return how long the event loop stood still between two moments."""
        return self._stalls.between_s(from_s, to_s)

    def measured(self, what: str, value: float) -> None:
        """Keep the largest value of a measurement."""
        self.worst[what] = max(value, self.worst.get(what, 0.0))

    def attempts(self) -> list[ObservedAttempt]:
        """Return all attempts and probes, in the order in which they began."""
        found = [attempt for request in self.requests.values() for attempt in request.attempts] + self.probes
        return sorted(found, key=lambda attempt: attempt.began_s)


def _end_s(request: RequestRecord) -> float | None:
    return request.ended_s if request.ended is not None else None
