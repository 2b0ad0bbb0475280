"""Problems kept in the database, a row for each process and group, so that a restart forgets nothing.

    each 30 s   what this process has counted since -> its rows;  rows of other processes -> `others`

A row holds all that its process has counted, so writing it again changes nothing. Rows of one fingerprint are
united where they are read. Loaded by name where there is a database.
"""

from collections import OrderedDict
from collections.abc import Iterator

from dub5.service import clock
from dub5.service.store.base import Row, Statement
from dub5.service.store.store import Store, StoreLost
from dub5.service.telemetry.problems import Fingerprint, Problem, Problems

WRITE_S = 2.0  # how long a save waits for the database
ROWS_MAX = 1_000  # of other processes, the newest
AT_ONCE = 100  # rows in one transaction
CLOCKS_APART_S = 120.0  # of two machines
DAY_S = 86_400.0
LANE = "problems"

SAVE = Statement(
    "problem_save",
    "INSERT INTO problem (worker, number, what, code, reason, route, target, count, anonymous, people,"
    " requests, first_at, last_at, saved_at)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
    " ON CONFLICT (worker, number) DO UPDATE SET count = excluded.count, anonymous = excluded.anonymous,"
    " people = excluded.people, requests = excluded.requests, last_at = excluded.last_at,"
    " saved_at = excluded.saved_at WHERE problem.saved_at <= excluded.saved_at",
)
READ = Statement(
    "problem_read",
    "SELECT worker, number, what, code, reason, route, target, count, anonymous, people, requests, first_at,"
    " last_at FROM problem WHERE saved_at > $1 AND worker <> $2 ORDER BY saved_at DESC LIMIT $3",
)
DELETE_OLD = Statement(
    "problem_delete_old",
    "DELETE FROM problem WHERE (worker, number) IN"
    " (SELECT worker, number FROM problem WHERE saved_at < $1 ORDER BY saved_at LIMIT $2) RETURNING number",
)


class ProblemRows:
    """The rows of problems, of this process and of others. They are kept as long as conversations are."""

    def __init__(self, store: Store, problems: Problems) -> None:
        self._store = store
        self._problems = problems
        self._others: OrderedDict[tuple[str, int], Problem] = OrderedDict()  # the oldest first
        self._read_at = 0.0
        problems.others = self._others.values()
        store.keeper.deletions += (DELETE_OLD,)

    async def renew(self) -> None:
        """Save what is unsaved, and read what others have saved since; a lost database is asked next time."""
        if self._store.status != "ok":
            return
        await self.save(WRITE_S)
        await self._read()

    async def save(self, within_s: float) -> None:
        """Save what is unsaved; what the database has not taken within this time, it may still take."""
        unsaved, now = self._problems.unsaved(), clock.wall()
        for start in range(0, len(unsaved), AT_ONCE):
            batch = unsaved[start : start + AT_ONCE]
            for problem in batch:
                problem.unsaved = False  # an error that comes meanwhile sets it again
            bounds = [SAVE.bind(*_values(self._store.worker, problem, now)) for problem in batch]
            if await self._store.write(bounds, lane=LANE).kept(within_s) is None:
                for problem in batch:
                    problem.unsaved = True
                return

    async def _read(self) -> None:
        began = clock.wall()
        since = self._read_at or began - self._store.keeper.keep_days * DAY_S
        try:
            rows = await self._store.read(READ.bind(since, self._store.worker, ROWS_MAX), lane=LANE)
        except StoreLost:
            return
        self._read_at = began - CLOCKS_APART_S
        for key, problem in _problems(reversed(rows)):
            self._others[key] = problem
            self._others.move_to_end(key)
        while len(self._others) > ROWS_MAX:
            self._others.popitem(last=False)


def _values(worker: str, problem: Problem, now: float) -> tuple[str | int | float, ...]:
    return (
        worker,
        problem.number,
        *problem.fingerprint,
        problem.count,
        problem.anonymous,
        f"{problem.people:x}",
        " ".join(problem.requests),
        problem.first,
        problem.last,
        now,
    )


def _problems(rows: Iterator[Row]) -> Iterator[tuple[tuple[str, int], Problem]]:
    for row in rows:
        worker, number, *fingerprint, count, anonymous, people, requests, first, last = row
        assert isinstance(number, int | float) and isinstance(count, int | float)
        assert isinstance(anonymous, int | float) and isinstance(first, int | float)
        assert isinstance(last, int | float)
        problem = Problem(
            Fingerprint(*map(str, fingerprint)),
            int(number),
            float(first),
            float(last),
            int(count),
            int(anonymous),
            int(str(people), 16),
            tuple(str(requests).split()),
            unsaved=False,
        )
        yield (str(worker), int(number)), problem
