"""What everybody saw: a record of each request, an observed attempt for each try on the wire; and the trace."""

import hashlib
from collections import Counter, deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from dub5.chaos.run.judge import Ending
from dub5.chaos.simulation.world.requests import PlannedRequest
from dub5.service.events import RequestEnded
from dub5.service.model import AttemptRecord

CURRENT_REQUEST: ContextVar[int | None] = ContextVar(
    "asked", default=None
)  # for whose request the code at hand runs
VIOLATIONS_MAX = 20
TRACE_MAX = 200
HASH_EVERY = 200
FINISHES_IN_BACKGROUND = frozenset(
    {"probe", "degraded"}
)  # why a target got another one beside it: others end when they lose


@dataclass(slots=True, eq=False)
class ObservedAttempt:
    """One try, as the network saw it. `number` is the request's; None: a probe of the service's own."""

    number: int | None
    target: str
    key: str
    began_s: float
    head_s: float | None = None
    status: int | None = None
    retry_after_s: float | None = None
    closed_s: float | None = None
    reported: AttemptRecord | None = None  # what the service says of it
    ended_s: float = 0.0  # when the service said so
    slow_open: bool = False  # its breaker was open, for slowness

    @property
    def provider(self) -> str:
        """Who was asked."""
        return self.target.partition("/")[0]


@dataclass(slots=True, eq=False)
class RequestRecord:
    """One request, as its client and the service saw it."""

    plan: PlannedRequest
    deadline_s: float  # loop seconds; of the request
    began_s: float
    attempts: list[ObservedAttempt] = field(default_factory=list)
    ended: RequestEnded | None = None
    ended_s: float = 0.0
    client_ending: Ending | None = None
    client_ended_s: float = 0.0
    left_s: float | None = None  # when the client left
    text: str = ""
    content_seen: bool = False
    hedged: dict[str, str] = field(default_factory=dict)  # targets that got another one beside them, and why
    refused_by: set[tuple[str, str]] = field(default_factory=set)  # target, and key or ""
    generation: int = 0  # of the settings that hold for it
    headers: dict[str, str] = field(default_factory=dict)  # of the reply
    content_s: float = 0.0  # when its client had the first content
    silent_s: float = 0.0  # the longest that its client heard nothing
    cache_result: str = ""  # what the cache had: "hit", "stale", "miss"
    cache_looked_s: float = 0.0
    leader: "RequestRecord | None" = None  # in whose call it takes part
    subscribers: list["RequestRecord"] = field(default_factory=list)  # who take, or took, part in its call
    waits: list["QueueWait"] = field(default_factory=list)  # in line, of it or its call

    @property
    def leader_or_self(self) -> "RequestRecord":
        """The request whose tries bring its answer."""
        return self.leader or self

    @property
    def is_refresh(self) -> bool:
        """Whether its tries bring an answer for the next one: it has a stale one already."""
        return self.cache_result == "stale"

    def until_s(self, total_s: float) -> float:
        """Until when its tries may go out: those who share them wait for as long as the most patient."""
        return max(
            case.cache_looked_s + total_s if case.is_refresh else case.deadline_s
            for case in (self, *self.subscribers)
        )

    def has_ended(self) -> bool:
        """Whether everybody who waits for its tries has an end."""
        return all(case.ended is not None and not case.is_refresh for case in (self, *self.subscribers))

    def all_left_s(self) -> float | None:
        """When the last one who waits for its tries left; None: somebody stays, or nobody has left."""
        everybody = (self, *self.subscribers)
        if any(case.is_refresh for case in everybody) or all(case.left_s is None for case in everybody):
            return None
        ends = [case.left_s if case.left_s is not None else _end_s(case) for case in everybody]
        return max(ends) if None not in ends else None  # type: ignore[type-var]


@dataclass(frozen=True, slots=True)
class QueueWait:
    """A wait for a place, and how it ended."""

    from_s: float
    to_s: float
    how: str


class RunRecord:
    """The record of one run."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self.requests: dict[int, RequestRecord] = {}
        self.hedges: list[tuple[float, int]] = []  # beside a slow one: when, and by which settings
        self.unsent: list[
            tuple[str, float]
        ] = []  # tries that their target could not carry: its provider, and when
        self.happened: Counter[str] = Counter()  # facts, as /status counts them
        self.probes: list[ObservedAttempt] = []
        self.sometimes: Counter[str] = Counter()
        self.breaker_moves: Counter[str] = Counter()  # of breakers, by where they moved to
        self.worst: dict[str, float] = {}
        self.violations: list[str] = []
        self.trace: deque[str] = deque(maxlen=TRACE_MAX)
        self.before: tuple[str, ...] = ()  # the first violation, and what came before it
        self._now_ns = now_ns
        self._unhashed: list[str] = []
        self._digest = hashlib.blake2b(digest_size=16)

    def log(self, line: str) -> None:
        """Something happened: equal runs tell equal lines at equal times."""
        line = f"{self._now_ns() / 1e9:.9f} {line}"
        self.trace.append(line)
        self._unhashed.append(line)
        if len(self._unhashed) >= HASH_EVERY:
            self._hash()

    def digest(self) -> str:
        """Of all lines."""
        self._hash()
        return self._digest.hexdigest()

    def _hash(self) -> None:
        self._digest.update("\n".join([*self._unhashed, ""]).encode())
        self._unhashed.clear()

    def violated(self, rule: str, what: str) -> None:
        """A promise was broken."""
        self.log(f"VIOLATED {rule}: {what}")
        self.before = self.before or tuple(self.trace)
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(f"{rule} at {self._now_ns() / 1e9:.3f} s: {what}")

    def measured(self, what: str, value: float) -> None:
        """Keeps the worst."""
        self.worst[what] = max(value, self.worst.get(what, 0.0))

    def attempts(self) -> list[ObservedAttempt]:
        """All, by the time they began."""
        found = [attempt for case in self.requests.values() for attempt in case.attempts] + self.probes
        return sorted(found, key=lambda attempt: attempt.began_s)


def _end_s(case: RequestRecord) -> float | None:
    return case.ended_s if case.ended is not None else None
