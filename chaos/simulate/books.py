"""What everybody saw: one case for each request, one trial for each try at the seam to the network. And the trace."""

import hashlib
from collections import Counter, deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from chaos.judge import Ending
from chaos.simulate.asks import Ask
from service.chat import Attempt
from service.events import RequestEnded

ASKED: ContextVar[int | None] = ContextVar("asked", default=None)  # for whose request the code at hand runs
VIOLATIONS_MAX = 20
TRACE_MAX = 200


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


class Books:
    """The record of one run."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self.cases: dict[int, Case] = {}
        self.probes: list[Trial] = []
        self.sometimes: Counter[str] = Counter()
        self.moves: Counter[str] = Counter()  # of breakers, by where they moved to
        self.worst: dict[str, float] = {}
        self.violations: list[str] = []
        self.trace: deque[str] = deque(maxlen=TRACE_MAX)
        self.before: tuple[str, ...] = ()  # the first violation, and what came before it
        self._now_ns = now_ns
        self._digest = hashlib.blake2b(digest_size=16)

    def tell(self, line: str) -> None:
        """Something happened: equal runs tell equal lines at equal times."""
        line = f"{self._now_ns() / 1e9:.9f} {line}"
        self._digest.update(line.encode())
        self.trace.append(line)

    def digest(self) -> str:
        """Of all lines."""
        return self._digest.hexdigest()

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
