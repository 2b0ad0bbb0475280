"""Records: reads and changes whose caller is told where the database is lost, since nothing else would do.

A lost database is not asked to do later what its caller is told has failed.
"""

from dub5.service.errors import StorageUnavailable
from dub5.service.store.base import BoundStatement, Row, Statement
from dub5.service.store.store import Store, StoreLost

RETRY_AFTER_S = 5.0


class Records:
    """The records of one room; without a store they are always lost.

    `problem`: the sentence that says what cannot be done then. `patiently`: no answer waits for its reads.
    """

    def __init__(self, store: Store | None, problem: str, *, patiently: bool = True) -> None:
        self._store = store
        self._problem = problem
        self._patiently = patiently

    def unavailable(self) -> StorageUnavailable:
        """Return the error for what is only in the database, while it is lost."""
        return StorageUnavailable(self._problem, retry_after_s=RETRY_AFTER_S)

    async def read(self, bound: BoundStatement, lane: str) -> list[Row]:
        """Return the rows of a query. Raises StorageUnavailable."""
        if self._store is None:
            raise self.unavailable()
        try:
            return await self._store.read(bound, lane=lane, patiently=self._patiently)
        except StoreLost:
            raise self.unavailable() from None

    async def page(
        self, first: Statement, later: Statement, owner: str, limit: int, before: str | None
    ) -> tuple[list[Row], bool]:
        """Return at most `limit` rows of an owner, and whether there are more. Raises StorageUnavailable.

        `first` takes the owner and a limit, `later` also the id, between them, that the rows come after.
        """
        where = (owner,) if before is None else (owner, before)
        rows = await self.read((first if before is None else later).bind(*where, limit + 1), owner)
        return rows[:limit], len(rows) > limit

    async def change(
        self, bounds: list[BoundStatement], lane: str, within_s: float | None = None
    ) -> list[list[Row]]:
        """Write, within the store's `keep_s` or this time, and return the rows of each statement.

        Raises StorageUnavailable.
        """
        if self._store is None or not self._store.is_ok():
            raise self.unavailable()
        rows = await self._store.write(bounds, lane=lane).kept(within_s or self._store.keep_s)
        if rows is None:
            raise self.unavailable()
        return rows

    async def make(
        self, bounds: list[BoundStatement], withdrawal: list[BoundStatement], lane: str, within_s: float
    ) -> list[list[Row]]:
        """Write what is large, and return the rows of each statement. Raises StorageUnavailable.

        `withdrawal` undoes what may still be written after its maker was told that it is not, or has left.
        """
        if self._store is None:
            raise self.unavailable()
        rows = None
        try:
            rows = await self._store.write(bounds, lane=lane, is_bulk=True).kept(within_s)
        finally:
            if rows is None:
                self._store.write(withdrawal, lane=lane)
        if rows is None:
            raise self.unavailable()
        return rows
