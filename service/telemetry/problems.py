"""Problems: errors grouped by fingerprint, in bounded memory. Subscribe `note`; read `snapshot()`.

    event --fingerprint--> Problem: how often, first, last, the last requests, how many people
    rows of the database --problem_rows.py--> `others`: of other processes, and of this one before its restart

A problem is what was not answered as it should be, and no client's fault. A request that was answered whole
costs one look at its outcome.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from dub5.service import clock
from dub5.service.errors import Internal, Overloaded
from dub5.service.events import (
    Crashed,
    EventHandlers,
    JobStepEnded,
    MigrationEnded,
    RequestEnded,
    StepResult,
    WritesForgotten,
    methods_of,
)
from dub5.service.model import ANONYMOUS, Outcome
from dub5.service.telemetry.attempt_views import failed
from dub5.service.terminal import printable

PROBLEMS_MAX = 500
SHOWN_MAX = 50
REQUESTS_MAX = 5
CRASHES_MAX = 100  # whose request has not ended yet
NOW_S = 300.0  # a problem that was not seen for longer is over
TEXT_CHARS_MAX = 200
PEOPLE_BITS = 4096
PEOPLE_MAX = 1_000  # more are "1,000 or more"
COMPLETE = Outcome.COMPLETE
ANSWERED_BADLY = (Outcome.FAILED, Outcome.CUT, Outcome.DEGRADED)
CRASH, FORGOTTEN, MIGRATION, JOB = "crash", "writes_forgotten", "migration_failed", "job_failed"


class Fingerprint(NamedTuple):
    """What errors of one group have in common. `what`: an outcome, or what else went wrong.

    `reason`: that of the last attempt which failed; of a crash, its place.
    """

    what: str
    code: str
    reason: str
    route: str
    target: str

    @property
    def id(self) -> str:
        """Twelve digits of a hash."""
        return hashlib.sha256("\0".join(self).encode()).hexdigest()[:12]


@dataclass(slots=True)
class Problem:
    """One group of errors. Times are epoch seconds. `number`: of this process, counting up.

    `people`: a bit for the hash of each session or caller, so no label is kept, and groups of several
    processes can be united. `anonymous`: errors of nobody known. `unsaved`: the database has not got it.
    """

    fingerprint: Fingerprint
    number: int
    first: float
    last: float
    count: int = 0
    anonymous: int = 0
    people: int = 0
    requests: tuple[str, ...] = ()  # the newest last
    unsaved: bool = True

    def add(self, at: float, request_id: str, count: int = 1) -> None:
        """Count an error."""
        self.count, self.last, self.unsaved = self.count + count, at, True
        if request_id:
            self.requests = (*self.requests, request_id)[-REQUESTS_MAX:]

    def add_person(self, event: RequestEnded) -> None:
        """Count who asked, once."""
        label = event.session or event.caller
        if label == ANONYMOUS.key:
            self.anonymous += 1
        else:
            self.people |= 1 << person_bit(label)
        self.unsaved = True

    def united(self, other: "Problem") -> "Problem":
        """Return one group of this one and another one of the same fingerprint."""
        older, newer = sorted((self, other), key=lambda each: each.last)
        return Problem(
            self.fingerprint,
            self.number,
            min(self.first, other.first),
            newer.last,
            self.count + other.count,
            self.anonymous + other.anonymous,
            self.people | other.people,
            (*older.requests, *newer.requests)[-REQUESTS_MAX:],
        )

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the group in /status format."""
        people = count_people(self.people)
        return {
            "id": self.fingerprint.id,
            **self.fingerprint._asdict(),
            "count": self.count,
            "people": min(people, PEOPLE_MAX),
            "more_people": people >= PEOPLE_MAX,
            "anonymous": self.anonymous,
            "first": round(self.first, 3),
            "last": round(self.last, 3),
            "now": self.is_now(now),
            "requests": list(reversed(self.requests)),
        }

    def is_now(self, now: float) -> bool:
        """Return whether it was seen within the last `NOW_S`."""
        return now - self.last < NOW_S


def person_bit(label: str) -> int:
    """Return the bit of a session or a caller: the same one in every process."""
    return int.from_bytes(hashlib.sha256(label.encode()).digest()[:4], "big") % PEOPLE_BITS


def count_people(bits: int) -> int:
    """Return how many labels have set these bits (linear counting): exact for a few, within 5 % for 1,000."""
    free = PEOPLE_BITS - bits.bit_count()
    return PEOPLE_MAX if not free else round(-PEOPLE_BITS * math.log(free / PEOPLE_BITS))


def unite(problems: Iterable[Problem]) -> dict[Fingerprint, Problem]:
    """Return one group for each fingerprint."""
    found: dict[Fingerprint, Problem] = {}
    for problem in problems:
        known = found.get(problem.fingerprint)
        found[problem.fingerprint] = problem if known is None else known.united(problem)
    return found


class Problems:
    """A subscriber of events that groups what went wrong. Subscribe `note`."""

    def __init__(self) -> None:
        self.others: Iterable[Problem] = ()  # of the database, where there is one
        self._own: OrderedDict[Fingerprint, Problem] = OrderedDict()  # the least recent first
        self._crashes: OrderedDict[str, Fingerprint] = OrderedDict()  # by the request that crashed
        self._made = 0
        self.note = EventHandlers(methods_of(self, self.METHODS))

    def unsaved(self) -> list[Problem]:
        """Return the groups of this process that the database has not got as they are."""
        return [problem for problem in self._own.values() if problem.unsaved]

    def own(self) -> list[Problem]:
        """Return the groups of this process."""
        return list(self._own.values())

    def all(self) -> list[Problem]:
        """Return one group for each fingerprint: of this process and of the others."""
        return list(unite([*self._own.values(), *self.others]).values())

    def counts(self) -> dict[str, int]:
        """Return how many groups of this process are there now, and how many are over."""
        now = clock.wall()
        there = sum(problem.is_now(now) for problem in self._own.values())
        return {"now": there, "over": len(self._own) - there}

    def snapshot(self) -> dict[str, Any]:
        """Return plain data for /status: the worst first, what is there now before what is over."""
        now, found = clock.wall(), self.all()
        found.sort(key=lambda problem: (problem.is_now(now), problem.count, problem.last), reverse=True)
        there = sum(problem.is_now(now) for problem in found)
        return {
            "now": there,
            "over": len(found) - there,
            "worst": [problem.snapshot(now) for problem in found[:SHOWN_MAX]],
        }

    def _request(self, event: RequestEnded) -> None:
        if event.outcome is not COMPLETE:
            self._not_whole(event)

    def _not_whole(self, event: RequestEnded) -> None:
        if (crashed := self._crashes.pop(event.request_id, None)) is not None:
            if crashed in self._own:
                self._own[crashed].add_person(event)
        elif event.outcome in ANSWERED_BADLY or event.code == Overloaded.code:
            self._add(_fingerprint(event), event.request_id).add_person(event)

    def _crash(self, event: Crashed) -> None:
        fingerprint = Fingerprint(CRASH, Internal.code, event.where, "", "")
        self._add(fingerprint, event.request_id)
        if event.request_id:
            self._crashes[event.request_id] = fingerprint
            if len(self._crashes) > CRASHES_MAX:
                self._crashes.popitem(last=False)

    def _writes(self, event: WritesForgotten) -> None:
        self._add(Fingerprint(FORGOTTEN, "", event.why, "", ""), "", event.count)

    def _migration(self, event: MigrationEnded) -> None:
        if not event.ok:
            self._add(Fingerprint(MIGRATION, "", event.name, "", ""), "")

    def _job(self, event: JobStepEnded) -> None:
        if event.result is StepResult.FAILED:
            self._add(Fingerprint(JOB, "", event.kind, "", ""), event.job)

    def _add(self, fingerprint: Fingerprint, request_id: str, count: int = 1) -> Problem:
        fingerprint = Fingerprint(*(printable(text[:TEXT_CHARS_MAX]) for text in fingerprint))
        at, problem = clock.wall(), self._own.get(fingerprint)
        if problem is None:
            self._made += 1
            problem = self._own[fingerprint] = Problem(fingerprint, self._made, at, at)
            if len(self._own) > PROBLEMS_MAX:
                self._own.popitem(last=False)
        self._own.move_to_end(fingerprint)
        problem.add(at, request_id, count)
        return problem

    METHODS: ClassVar[Mapping[type, Callable[["Problems", Any], None]]] = {
        Crashed: _crash,
        JobStepEnded: _job,
        MigrationEnded: _migration,
        RequestEnded: _request,
        WritesForgotten: _writes,
    }


def _fingerprint(event: RequestEnded) -> Fingerprint:
    """Return the fingerprint of a request that was not answered whole."""
    last = next((attempt for attempt in reversed(event.attempts) if failed(attempt)), None)
    if last is None:  # no target was called: say why the last one was passed over
        last = event.attempts[-1] if event.attempts else None
    code = event.code or (f"degraded_{event.degraded}" if event.degraded else "")
    reason, target = ("", event.target or "") if last is None else (last.reason, last.target)
    return Fingerprint(event.outcome, code, reason, event.route, target)
