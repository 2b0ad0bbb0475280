"""A database in virtual time: SQLite in memory, executed inline, with waits and faults that a seed draws.

call -> fault? -> wait -> execute in one transaction, without an await -> wait -> answer, or it is lost

A process that dies (`kill`) leaves what it has committed; another one opens the same storage (`reopen`).
"""

import asyncio
import random
import sqlite3
import weakref
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from dub5.service.store.base import BoundStatement, DatabaseLost, Row, Value
from dub5.service.store.sqlite import ERRORS, execute, question_marks, understood

DatabaseFaultKind = Literal["lost", "slow", "silent", "unsure", "full"]

ANSWER_S = (0.0001, 0.001)  # each of the two waits of a call: 0.2 to 2 ms in all
SILENT_COMMITTED_SHARE = 0.5  # of the writes that get no answer
PATH = Path(":memory:")


class DatabaseFault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is wrong with a database from `at_s` on, for `for_s` seconds, for a drawn share of the calls.

    lost: refused at once, and no answer to what is under way; slow: answers after `wait_s`; silent: never
    answers; unsure: commits a write, but the answer is lost; full: writes are refused as lost, reads work.
    """

    kind: DatabaseFaultKind
    at_s: Annotated[float, Meta(ge=0)] = 0.0
    for_s: Annotated[float, Meta(gt=0)] = float("inf")
    share: Annotated[float, Meta(ge=0, le=1)] = 1.0
    wait_s: Annotated[float, Meta(ge=0)] = 1.0

    def strikes(self, at_s: float, chance: float) -> bool:
        """Return whether it is in force at a moment, for a call that has drawn `chance`."""
        return self.at_s <= at_s < self.at_s + self.for_s and chance < self.share


class VirtualStorage:
    """What stays when a process dies: the tables. `faults` may be changed at any time.

    `repeated`: how many statements of a write whose answer was lost were sent again.
    """

    def __init__(self, schema_sql: str, faults: Sequence[DatabaseFault] = ()) -> None:
        self.faults = tuple(faults)
        self.repeated = 0
        self._unsure: set[BoundStatement] = set()
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.executescript(schema_sql)
        weakref.finalize(self, self._connection.close)

    def rows(self, sql: str, *values: Value) -> list[tuple[Any, ...]]:
        """Execute one statement at once, whatever the faults are. For those who check."""
        return self._connection.execute(question_marks(sql), values).fetchall()

    def transaction(self, bounds: Sequence[BoundStatement], *, unsure: bool = False) -> list[list[Row]]:
        """Execute all of them or none. Raises StatementRefused, DatabaseLost. `unsure`: nobody hears it."""
        self.repeated += sum(bound in self._unsure for bound in bounds)
        if unsure:
            self._unsure.update(bounds)
        self._connection.execute("BEGIN")
        try:
            results = [execute(self._connection, bound) for bound in bounds]
        except ERRORS as error:
            self._connection.execute("ROLLBACK")
            raise understood(error, PATH) from error
        self._connection.execute("COMMIT")
        return results


class VirtualDatabase:
    """A `dub5.service.store.base.Database` on a storage: a process's connection to it.

    `struck` counts the calls that each kind of fault has struck.
    """

    def __init__(
        self,
        storage: VirtualStorage | str,
        rng: random.Random,
        faults: Sequence[DatabaseFault] = (),
    ) -> None:
        """Open a storage, or make one from the SQL of a schema."""
        self.storage = VirtualStorage(storage, faults) if isinstance(storage, str) else storage
        self.struck: Counter[DatabaseFaultKind] = Counter()
        self._rng = rng
        self._killed = False
        self._closed = False

    def kill(self) -> None:
        """Let nothing that this process sends from now on arrive. Nothing is answered, either."""
        self._killed = True

    def reopen(self) -> "VirtualDatabase":
        """Return the connection of another process to the same storage."""
        return VirtualDatabase(self.storage, self._rng)

    async def read(self, bound: BoundStatement) -> list[Row]:
        """Return the rows of a query. Raises DatabaseLost, StatementRefused."""
        (rows,) = await self._call([bound], write=False)
        return rows

    async def write(self, bounds: list[BoundStatement]) -> list[list[Row]]:
        """Execute all of them in one transaction, or none; return the rows of each.

        Raises DatabaseLost, StatementRefused.
        """
        return await self._call(bounds, write=True)

    async def aclose(self) -> None:
        """Close the connection. What it is asked from now on is lost; the storage stays."""
        self._closed = True

    async def _call(self, bounds: list[BoundStatement], *, write: bool) -> list[list[Row]]:
        chance = self._rng.random()
        fault = self._fault(chance, write)
        if fault is not None:
            self.struck[fault.kind] += 1
        await self._arrive(fault)
        self._check_connected(chance)
        if fault is not None and fault.kind == "silent":
            if write and self._rng.random() < SILENT_COMMITTED_SHARE:
                self.storage.transaction(bounds, unsure=True)
            await _for_ever()
        results = self.storage.transaction(bounds, unsure=fault is not None and fault.kind == "unsure")
        await asyncio.sleep(self._rng.uniform(*ANSWER_S))
        if self._killed:
            await _for_ever()
        if fault is not None and fault.kind == "unsure":
            raise DatabaseLost("the connection was lost before the answer")
        self._check_connected(chance)
        return results

    async def _arrive(self, fault: DatabaseFault | None) -> None:
        """Wait until the call is at the database. Raises DatabaseLost if it is refused there."""
        if self._closed or (fault is not None and fault.kind == "lost"):
            raise DatabaseLost("the database is closed" if self._closed else "the connection was refused")
        await asyncio.sleep(self._rng.uniform(*ANSWER_S))
        if fault is not None and fault.kind == "slow":
            await asyncio.sleep(fault.wait_s)
        if self._killed:
            await _for_ever()
        if fault is not None and fault.kind == "full":
            raise DatabaseLost("the disk is full")

    def _fault(self, chance: float, write: bool) -> DatabaseFault | None:
        now_s = asyncio.get_running_loop().time()
        for fault in self.storage.faults:
            if fault.strikes(now_s, chance) and (write or fault.kind not in ("unsure", "full")):
                return fault
        return None

    def _check_connected(self, chance: float) -> None:
        """Raise DatabaseLost if the connection was lost while the call was under way."""
        now_s = asyncio.get_running_loop().time()
        if any(fault.kind == "lost" and fault.strikes(now_s, chance) for fault in self.storage.faults):
            raise DatabaseLost("the connection was lost")


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()
