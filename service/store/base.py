"""The database, as the rest of the service sees it: the fourth seam. SQLite, PostgreSQL and the simulation's.

A transaction is data: a list of statements with their values, sent at once. It is never held open across an
await of ours. Every write is repeatable: ids are made by us, inserts do nothing on conflict, states only move
forward. So a write whose answer was lost is sent again, and "was it committed?" is no question.
"""

from typing import NamedTuple, Protocol

from msgspec import Struct

SCOPE = "database"  # of its breaker, in events

Value = str | int | float | bytes | None
Row = tuple[Value, ...]


class Statement(Struct, frozen=True):
    """One SQL statement of ours. `name`: its label in metrics and logs.

    `sql` is what SQLite and PostgreSQL both take, with PostgreSQL's placeholders: $1, $2.
    """

    name: str
    sql: str

    def bind(self, *values: Value) -> "BoundStatement":
        """Return the statement with its values."""
        return BoundStatement(self, values)


class BoundStatement(NamedTuple):
    """A statement and its values, in the order of the placeholders."""

    statement: Statement
    values: tuple[Value, ...]


class DatabaseLost(Exception):
    """The database could not be asked, or did not say what became of a write. Asking again does no harm."""


class DatabaseBusy(DatabaseLost):
    """Another process holds what a statement needs."""


class NotMigrated(DatabaseLost):
    """A table or a column that a statement needs is missing: migrations have not run."""


class StatementRefused(Exception):
    """The database finds a statement or its values wrong: a defect of ours. Asking again is useless."""


class Database(Protocol):
    """A database. Its calls may be cancelled at any moment; then nobody knows what became of a write."""

    async def read(self, bound: BoundStatement) -> list[Row]:
        """Return the rows of a query. Raises DatabaseLost, StatementRefused."""
        ...

    async def write(self, bounds: "list[BoundStatement]") -> list[list[Row]]:
        """Execute all of them in one transaction, or none; return the rows of each.

        Raises DatabaseLost, StatementRefused.
        """
        ...

    async def aclose(self) -> None:
        """Close it."""
        ...
