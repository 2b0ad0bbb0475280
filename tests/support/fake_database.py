"""A database for tests in virtual time: it keeps what is written in memory, and can be lost in all ways."""

import asyncio
from typing import Literal

from dub5.service.store.base import BoundStatement, DatabaseLost, Row, Statement, StatementRefused
from tests.support.store_turns import PUT

WRONG = Statement("wrong", "INSERT INTO nowhere")

Trouble = Literal["none", "lost", "slow", "silent", "unsure"]
USUAL_S = 0.002
SLOW_S = 0.5


class FakeDatabase:
    """The numbers that each lane has written, in the order of the writes. `trouble`: what is wrong now."""

    def __init__(self) -> None:
        self.trouble: Trouble = "none"
        self.lanes: dict[str, list[int]] = {}
        self.asked: list[str] = []
        self.old = 0  # conversations that retention finds
        self.under_way = 0
        self.most_under_way = 0
        self.closed = False

    async def read(self, bound: BoundStatement) -> list[Row]:
        """Return the numbers of a lane."""
        await self._answer(bound)
        return [(number,) for number in self.lanes.get(str(bound.values[0]), ())] if bound.values else [(1,)]

    async def write(self, bounds: list[BoundStatement]) -> list[list[Row]]:
        """Append numbers to lanes; a number that is there already changes nothing."""
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self._answer(bounds[0])
        finally:
            self.under_way -= 1
        if any(bound.statement is WRONG for bound in bounds):
            raise StatementRefused
        if bounds[0].statement.name == "delete_old":
            deleted = min(self.old, int(bounds[0].values[1] or 0))
            self.old -= deleted
            return [[(f"c{number}",) for number in range(deleted)]]
        for bound in bounds:
            if bound.statement is PUT:
                lane, number = str(bound.values[0]), int(bound.values[1] or 0)
                if number not in (numbers := self.lanes.setdefault(lane, [])):
                    numbers.append(number)
        if self.trouble == "unsure":
            raise DatabaseLost("the answer is lost")
        return [[] for _ in bounds]

    def pool(self) -> dict[str, int]:
        """Say that a pool has one connection."""
        return {"open": 1, "idle": 1, "max": 10}

    async def aclose(self) -> None:
        """Be closed."""
        self.closed = True

    async def _answer(self, bound: BoundStatement) -> None:
        self.asked.append(bound.statement.name)
        if self.trouble == "lost":
            raise DatabaseLost("connection refused")
        if self.trouble == "silent":
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(SLOW_S if self.trouble == "slow" else USUAL_S)
