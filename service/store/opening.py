"""The store of the settings: its engine, and its tables made or checked at the start.

Loaded by name (optional_parts.py) where there are conversations, so that others pay nothing for it.
"""

from random import Random
from typing import Literal, Protocol

from dub5.service.events import Events, MigrationEnded
from dub5.service.store.base import Database
from dub5.service.store.migrate import MigrationFailed, migrate_at_start, open_session, steps
from dub5.service.store.store import Store, StoreOptions
from dub5.service.store.url import EngineOptions, describe, open_database, parse_url

SQLITE_CALLS_MAX = 64  # one commit serves all that wait


class DatabaseOptions(EngineOptions, Protocol):
    """What the store has to know of [database]."""

    @property
    def patience_s(self) -> float: ...

    @property
    def keep_s(self) -> float: ...

    @property
    def migrate(self) -> Literal["start", "never"]: ...


class ConfiguredStore(Store):
    """The store that the settings describe. `database`: used in place of the one of the URL, as it is."""

    def __init__(
        self,
        url: str,
        options: DatabaseOptions,
        keep_days: int,
        events: Events,
        rng: Random,
        database: Database | None = None,
    ) -> None:
        parsed = parse_url(url)
        calls_max = SQLITE_CALLS_MAX if parsed.engine == "sqlite" else options.pool_max
        store_options = StoreOptions(options.patience_s, options.keep_s, calls_max, keep_days)
        if database is not None:
            super().__init__(database, store_options, events, rng)
            return
        tables = _Tables(url, options.migrate, events)
        super().__init__(open_database(url, options), store_options, events, rng, tables.prepare)
        self.engine = parsed.engine
        self.folder = parsed.path.parent if parsed.engine == "sqlite" else None
        self.places = (f"{describe(url)}: ", f"{parsed.path}: ")


class _Tables:
    """The tables of the database: made at the start, or only checked."""

    def __init__(self, url: str, migrate: Literal["start", "never"], events: Events) -> None:
        self._url = url
        self._migrate = migrate
        self._events = events
        self._told: str | None = None  # the failure that was told last

    async def prepare(self) -> str | None:
        """Make the tables, or check them. Return why they do not fit this release. Raises DatabaseLost."""
        if self._migrate == "never":
            return await self._check()
        try:
            applied = await migrate_at_start(self._url)
        except MigrationFailed as error:
            why = str(error)
            if why != self._told:  # it is tried again and again
                self._told = why
                self._events.emit(MigrationEnded(0, why.partition(":")[0], False, 0.0, why))
            return why
        for row in applied:
            self._events.emit(MigrationEnded(row.number, row.name, True, row.took_ms))
        return None

    async def _check(self) -> str | None:
        session = open_session(self._url)
        try:
            pending = [step.label for step in await steps(session) if step.state == "pending"]
        finally:
            await session.aclose()
        return f"{', '.join(pending)}: not applied; run `dub5 db up`" if pending else None
