"""What everybody saw: one case for each request, one trial for each try at the seam to the network. And the trace."""

import hashlib
from collections import Counter, deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from dub5.chaos.run.judge import Ending
from dub5.chaos.simulation.world.requests import Ask
from dub5.service.events import RequestEnded
from dub5.service.model import Attempt

ASKED: ContextVar[int | None] = ContextVar("asked", default=None)  # for whose request the code at hand runs
VIOLATIONS_MAX = 20
TRACE_MAX = 200
HASH_EVERY = 200
HEARD_OUT = frozenset(
    {"probe", "degraded"}
)  # why a target got another one beside it: others end when they lose


@dataclass(slots=True, eq=False)
class Trial:
    """One try, as the network saw it. `number` is the request's; None: a probe of the service's own."""

    number: int | None
    target: str
    key: str
    began_s: float
    head_s: float | None = None
    status: int | None = None
    retry_after_s: float | None = None
    closed_s: float | None = None
    attempt: Attempt | None = None  # what the service says of it
    ended_s: float = 0.0  # when the service said so
    slow_open: bool = False  # its breaker was open, for slowness

    @property
    def provider(self) -> str:
        """Who was asked."""
        return self.target.partition("/")[0]


@dataclass(slots=True, eq=False)
class Case:
    """One request, as its client and the service saw it."""

    ask: Ask
    deadline_s: float  # loop seconds; of the request
    began_s: float
    trials: list[Trial] = field(default_factory=list)
    ended: RequestEnded | None = None
    ended_s: float = 0.0
    ending: Ending | None = None
    ending_s: float = 0.0
    left_s: float | None = None  # when the client left
    text: str = ""
    content_seen: bool = False
    hedged: dict[str, str] = field(default_factory=dict)  # targets that got another one beside them, and why
    refused_by: set[tuple[str, str]] = field(default_factory=set)  # target, and key or ""
    generation: int = 0  # of the settings that hold for it
    headers: dict[str, str] = field(default_factory=dict)  # of the reply
    content_s: float = 0.0  # when its client had the first content
    silent_s: float = 0.0  # the longest that its client heard nothing
    looked: str = ""  # what the cache had: "hit", "stale", "miss"
    looked_s: float = 0.0
    leader: "Case | None" = None  # in whose call it takes part
    sharers: list["Case"] = field(default_factory=list)  # who take, or took, part in its call
    waits: list["Wait"] = field(default_factory=list)  # in line, of it or its call

    @property
    def lead(self) -> "Case":
        """The request whose tries bring its answer."""
        return self.leader or self

    @property
    def refreshes(self) -> bool:
        """Whether its tries bring an answer for the next one: it has a stale one already."""
        return self.looked == "stale"

    def until_s(self, total_s: float) -> float:
        """Until when its tries may go out: those who share them wait for as long as the most patient."""
        return max(
            case.looked_s + total_s if case.refreshes else case.deadline_s for case in (self, *self.sharers)
        )

    def over(self) -> bool:
        """Whether everybody who waits for its tries has an end."""
        return all(case.ended is not None and not case.refreshes for case in (self, *self.sharers))

    def gone_s(self) -> float | None:
        """When the last one who waits for its tries left; None: somebody stays, or nobody has left."""
        everybody = (self, *self.sharers)
        if any(case.refreshes for case in everybody) or all(case.left_s is None for case in everybody):
            return None
        ends = [case.left_s if case.left_s is not None else _end_s(case) for case in everybody]
        return max(ends) if None not in ends else None  # type: ignore[type-var]


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait for a place, and how it ended."""

    from_s: float
    to_s: float
    how: str


class Books:
    """The record of one run."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self.cases: dict[int, Case] = {}
        self.hedges: list[tuple[float, int]] = []  # beside a slow one: when, and by which settings
        self.unsent: list[
            tuple[str, float]
        ] = []  # tries that their target could not carry: its provider, and when
        self.told: Counter[str] = Counter()  # facts, as /status counts them
        self.probes: list[Trial] = []
        self.sometimes: Counter[str] = Counter()
        self.moves: Counter[str] = Counter()  # of breakers, by where they moved to
        self.worst: dict[str, float] = {}
        self.violations: list[str] = []
        self.trace: deque[str] = deque(maxlen=TRACE_MAX)
        self.before: tuple[str, ...] = ()  # the first violation, and what came before it
        self._now_ns = now_ns
        self._untold: list[str] = []
        self._digest = hashlib.blake2b(digest_size=16)

    def tell(self, line: str) -> None:
        """Something happened: equal runs tell equal lines at equal times."""
        line = f"{self._now_ns() / 1e9:.9f} {line}"
        self.trace.append(line)
        self._untold.append(line)
        if len(self._untold) >= HASH_EVERY:
            self._hash()

    def digest(self) -> str:
        """Of all lines."""
        self._hash()
        return self._digest.hexdigest()

    def _hash(self) -> None:
        self._digest.update("\n".join([*self._untold, ""]).encode())
        self._untold.clear()

    def violated(self, rule: str, what: str) -> None:
        """A promise was broken."""
        self.tell(f"VIOLATED {rule}: {what}")
        self.before = self.before or tuple(self.trace)
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(f"{rule} at {self._now_ns() / 1e9:.3f} s: {what}")

    def measured(self, what: str, value: float) -> None:
        """Keeps the worst."""
        self.worst[what] = max(value, self.worst.get(what, 0.0))

    def trials(self) -> list[Trial]:
        """All, by the time they began."""
        found = [trial for case in self.cases.values() for trial in case.trials] + self.probes
        return sorted(found, key=lambda trial: trial.began_s)


def _end_s(case: Case) -> float | None:
    return case.ended_s if case.ended is not None else None
