"""Mutants that break conversations: builds that lose, mix up or ask again what people said.

Run one as those of mutants.py: `dub5 simulate --mutant tests.simulation.mutants_people:owner_missing`.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from msgspec.structs import replace

from dub5.service.api.chat import EndedBy
from dub5.service.api.socket import Socket
from dub5.service.api.turns import TurnExchange
from dub5.service.conversation import history, statements, turns
from dub5.service.conversation.history import Fitted
from dub5.service.conversation.live_turn import LiveTurn
from dub5.service.conversation.live_turns import LiveTurns
from dub5.service.conversation.turns import Turns
from dub5.service.jobs import job_run, worker
from dub5.service.jobs import statements as job_statements
from dub5.service.jobs.job_run import JobRun
from dub5.service.model import Outcome
from dub5.service.store import opening
from dub5.service.store.base import Statement
from dub5.service.store.outbox import Outbox
from dub5.service.store.store import PendingWrite, StoreOptions

LONG_S = 30.0
FOR_EVER_S = 1e9


@contextlib.contextmanager
def _without(part: str, *names: str) -> Iterator[None]:
    """Leave a part out of statements."""
    with contextlib.ExitStack() as stack:
        for name in names:
            known: Statement = getattr(statements, name)
            assert part in known.sql, f"{name} has no such part"
            broken = replace(known, sql=known.sql.replace(part, " "))
            stack.enter_context(mock.patch.object(statements, name, broken))
        yield


@contextlib.contextmanager
def conflict_raised() -> Iterator[None]:
    """Insert a question or a conversation without `ON CONFLICT`: what is sent again is refused."""
    with _without("ON CONFLICT DO NOTHING", "ASK", "CREATE"):
        yield


@contextlib.contextmanager
def owner_missing_in_read() -> Iterator[None]:
    """Read a conversation whoever owns it."""
    with _without("c.owner = $1 AND ", "READ"):
        yield


@contextlib.contextmanager
def owner_missing_in_change() -> Iterator[None]:
    """Rename and delete a conversation whoever owns it."""
    with _without("owner = $1 AND ", "RENAME", "DELETE"):
        yield


@contextlib.contextmanager
def owner_missing_in_ask() -> Iterator[None]:
    """Ask in a conversation whoever owns it."""
    with _without("owner = $1 AND ", "HISTORY", "ASK", "USE"):
        yield


@contextlib.contextmanager
def outbox_dropped() -> Iterator[None]:
    """Forget a write that found the database lost."""

    def put_back(self: Outbox[PendingWrite], write: PendingWrite) -> None:
        self.remove(write)
        write.end(None)

    with mock.patch.object(Outbox, "put_back", put_back):
        yield


@contextlib.contextmanager
def end_written_early() -> Iterator[None]:
    """Write the end of an answer with its first words."""
    whole = TurnExchange._begin

    def begin(self: TurnExchange, answer: Any) -> LiveTurn:
        live, turn = whole(self, answer), self._open_turn
        self._turns.end(turn, self._end_of(turn, Outcome.COMPLETE))
        return live

    with mock.patch.object(TurnExchange, "_begin", begin):
        yield


@contextlib.contextmanager
def asked_again() -> Iterator[None]:
    """Ask a question that has the id of another one, wherever that is."""

    async def none(self: Turns, *args: Any) -> None:
        return None

    with (
        mock.patch.object(Turns, "find", lambda self, *args: None),
        mock.patch.object(Turns, "_equal", none),
    ):
        yield


@contextlib.contextmanager
def resumed_off_by_one() -> Iterator[None]:
    """Read a turn on one byte too late."""
    whole = LiveTurn.text_after

    def text_after(self: LiveTurn, position: int) -> str:
        return whole(self, position + 1)

    with mock.patch.object(LiveTurn, "text_after", text_after):
        yield


@contextlib.contextmanager
def linger_forgotten() -> Iterator[None]:
    """Answer a turn that nobody listens to."""
    with mock.patch.object(TurnExchange, "_begin_to_linger", lambda self: None):
        yield


@contextlib.contextmanager
def linger_cut_short() -> Iterator[None]:
    """End a turn as soon as nobody listens to it."""

    async def linger(self: TurnExchange) -> None:
        self._cancel(EndedBy.CLIENT)

    with mock.patch.object(TurnExchange, "_linger", linger):
        yield


@contextlib.contextmanager
def owner_missing_in_memory() -> Iterator[None]:
    """Find a turn of this process whoever owns it."""

    def get(self: LiveTurns, owner: str, id_: str) -> LiveTurn | None:
        return self._by_id.get(id_)

    with mock.patch.object(LiveTurns, "get", get):
        yield


@contextlib.contextmanager
def bye_forgotten() -> Iterator[None]:
    """Close WebSockets without a word in a drain."""

    def drain(self: Socket) -> None:
        self._bye = ""
        self._wake()

    with mock.patch.object(Socket, "drain", drain):
        yield


@contextlib.contextmanager
def patience_not_held() -> Iterator[None]:
    """Wait for a slow database for as long as it takes."""

    def options(patience_s: float, keep_s: float, calls_max: int, keep_days: int) -> StoreOptions:
        return StoreOptions(LONG_S, LONG_S, calls_max, keep_days)

    with mock.patch.object(opening, "StoreOptions", options):
        yield


@contextlib.contextmanager
def one_turn_kept() -> Iterator[None]:
    """Keep only the last turn where more do not fit."""
    with mock.patch.object(history, "ALWAYS_KEPT", 1):
        yield


@contextlib.contextmanager
def turns_reordered() -> Iterator[None]:
    """Say the turns before the question in the wrong order."""

    def fit(*args: Any) -> Fitted:
        fitted = history.fit(*args)
        return replace(fitted, exchanges=fitted.exchanges[::-1])

    with mock.patch.object(turns, "fit", fit):
        yield


@contextlib.contextmanager
def told_before_commit() -> Iterator[None]:
    """Say that a write is kept as soon as it is on its way."""

    async def kept(self: PendingWrite, within_s: float) -> Any:
        await asyncio.sleep(0)
        return [[("told",)] for _ in self.bounds]

    with mock.patch.object(PendingWrite, "kept", kept):
        yield


@contextlib.contextmanager
def lease_for_ever() -> Iterator[None]:
    """Give leases that never run out: nobody goes on with the job of a process that has died."""
    claim = job_statements.CLAIM
    believed = claim.sql.replace(str(job_statements.AHEAD_MAX_S), str(2 * FOR_EVER_S))
    with (
        mock.patch.object(job_run, "LEASE_S", FOR_EVER_S),
        mock.patch.object(worker, "LEASE_S", FOR_EVER_S),
        mock.patch.object(job_statements, "CLAIM", Statement(claim.name, believed)),
    ):
        yield


@contextlib.contextmanager
def result_given_up() -> Iterator[None]:
    """Do a step again that ended while the database was lost."""
    whole = JobRun._kept

    async def kept(self: JobRun, bounds: Any) -> Any:
        return await whole(self, bounds) if self._store.is_ok() else None

    with mock.patch.object(JobRun, "_kept", kept):
        yield


@contextlib.contextmanager
def position_forgotten() -> Iterator[None]:
    """Begin a job that is taken over from its first step."""
    broken = replace(
        job_statements.CLAIM,
        sql=job_statements.CLAIM.sql.replace("SET state", "SET done = 0, state"),
    )
    with mock.patch.object(job_statements, "CLAIM", broken):
        yield


MUTANTS = (
    lease_for_ever,
    result_given_up,
    position_forgotten,
    conflict_raised,
    owner_missing_in_read,
    owner_missing_in_change,
    owner_missing_in_ask,
    outbox_dropped,
    end_written_early,
    asked_again,
    resumed_off_by_one,
    linger_forgotten,
    linger_cut_short,
    owner_missing_in_memory,
    bye_forgotten,
    patience_not_held,
    one_turn_kept,
    turns_reordered,
    told_before_commit,
)
