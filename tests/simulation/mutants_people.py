"""Mutants that break conversations: builds that lose, mix up or ask again what people said.

Run one as those of mutants.py: `dub5 simulate --mutant tests.simulation.mutants_people:owner_missing`.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from msgspec.structs import replace

from dub5.service.api.turn_stream import TurnStream
from dub5.service.conversation import history, statements, turns
from dub5.service.conversation.history import Fitted
from dub5.service.conversation.turns import Turns
from dub5.service.store import opening
from dub5.service.store.base import Statement
from dub5.service.store.outbox import Outbox
from dub5.service.store.store import PendingWrite, StoreOptions

LONG_S = 30.0
EARLY: set[asyncio.Task[Any]] = set()


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
    """Write the end of a stream with its first words."""
    whole = TurnStream.begin

    def begin(self: TurnStream, *args: Any) -> Any:
        messages = whole(self, *args)
        task: asyncio.Task[Any] = asyncio.create_task(self._end())  # type: ignore[arg-type]
        EARLY.add(task)
        task.add_done_callback(EARLY.discard)
        return messages

    with mock.patch.object(TurnStream, "begin", begin):
        yield


@contextlib.contextmanager
def asked_again() -> Iterator[None]:
    """Ask a question that has the id of another one."""

    async def none(self: Turns, *args: Any) -> None:
        return None

    with (
        mock.patch.object(Turns, "wait_for_equal", none),
        mock.patch.object(Turns, "_asked", none),
    ):
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


MUTANTS = (
    conflict_raised,
    owner_missing_in_read,
    owner_missing_in_change,
    owner_missing_in_ask,
    outbox_dropped,
    end_written_early,
    asked_again,
    patience_not_held,
    one_turn_kept,
    turns_reordered,
    told_before_commit,
)
