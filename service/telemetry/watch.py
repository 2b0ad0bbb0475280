"""Watch: looks every few seconds at what the subscribers have counted, in no request's way.

each `LOOK_S`   metrics -> degradation -> RouteDegraded, RouteRecovered; incidents that are over; Sentry
each `SAVE_S`   problems -> database, where there is one
"""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from dub5.service import clock
from dub5.service.config.settings import LoadedSettings
from dub5.service.events import EventHandlers, Events, Subscriber, crash_of
from dub5.service.optional_parts import load_part
from dub5.service.telemetry import names
from dub5.service.telemetry.degradation import Degradation
from dub5.service.telemetry.metrics import Metrics
from dub5.service.telemetry.outgoing import Outgoing
from dub5.service.telemetry.problems import Problem, Problems
from dub5.service.wire.base import Wire

if TYPE_CHECKING:  # loaded by name, where there are conversations
    from dub5.service.store.store import Store

LOOK_S = 15.0
SAVE_S = 30.0
LAST_SAVE_S = 1.0  # as the service ends
ENDING = ""  # the request id of a defect of ours


class ProblemStorage(Protocol):
    """Problems in the database: problem_rows.py."""

    async def renew(self) -> None: ...

    async def save(self, within_s: float) -> None: ...


class IncidentHook(Protocol):
    """The operator's hook: notifier.py."""

    note: EventHandlers

    def tick(self) -> None: ...


class ProblemReporter(Protocol):
    """Who is told of problems besides: sentry.py."""

    def report(self, problems: list[Problem], now: float) -> None: ...

    def close(self) -> None: ...


class Watch:
    """What looks at the whole service from time to time. `events` is set before anything is looked at."""

    def __init__(self, loaded: LoadedSettings, wire: Wire, metrics: Metrics, rng: Random) -> None:
        self.problems = Problems()
        self.degradation = Degradation(names.FIRST_TOKEN.buckets)
        self.events = Events()
        self._metrics = metrics
        self._rows: ProblemStorage | None = None
        self._notifier: IncidentHook | None = None
        self._reporter: ProblemReporter | None = None
        self._outgoing: list[Outgoing] = []
        self._tasks: set[asyncio.Task[None]] = set()
        metrics.observe_problems(self.problems.counts, self._degraded_names)
        emit = lambda event: self.events.emit(event)
        if loaded.notify is not None:
            hook = Outgoing("hook", wire, emit, rng)
            self._notifier = load_part("notifier")(loaded.notify, hook, rng)
            self._outgoing.append(hook)
            metrics.expect_notifications("hook", loaded.notify.events)
        if loaded.sentry_dsn is not None and loaded.settings.sentry is not None:
            sentry = Outgoing("sentry", wire, emit, rng, tries=1)
            environment = loaded.settings.sentry.environment
            self._reporter = load_part("sentry")(loaded.sentry_dsn.reveal(), environment, sentry.put)
            self._outgoing.append(sentry)
            metrics.expect_notifications("sentry", ["problem"])

    @property
    def subscribers(self) -> list[Subscriber]:
        """What is to be told of each event."""
        return [self.problems.note, *([self._notifier.note] if self._notifier is not None else [])]

    def keep_in(self, store: "Store") -> None:
        """Keep the problems in a database."""
        self._rows = load_part("problem rows")(store, self.problems)

    def start(self) -> None:
        """Begin to look."""
        self._run(self._look_forever(), "watch")
        if self._rows is not None:
            self._run(self._save_forever(), "problems")
        for outgoing in self._outgoing:
            self._run(outgoing.run(), "outgoing")

    async def aclose(self) -> None:
        """End all tasks, and save what was counted last."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._rows is not None:
            await self._rows.save(LAST_SAVE_S)
        if self._reporter is not None:
            self._reporter.close()

    def degraded(self) -> list[dict[str, Any]]:
        """Return what is degraded now, in /status format."""
        now_s, now = clock.now(), clock.wall()
        return [
            {
                "route": route,
                "what": what.value,
                "value": round(value, 4),
                "usual": None if usual is None else round(usual, 4),
                "since": round(now - (now_s - since_s), 3),
            }
            for route, what, value, usual, since_s in self.degradation.now()
        ]

    def _degraded_names(self) -> list[tuple[str, str]]:
        return [(route, what.value) for route, what, *_ in self.degradation.now()]

    def look(self) -> None:
        """Look once."""
        for change in self.degradation.look(clock.now(), self._metrics.route_totals()):
            self.events.emit(change)
        if self._notifier is not None:
            self._notifier.tick()
        if self._reporter is not None:
            self._reporter.report(self.problems.own(), clock.wall())

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._run(_call(self.look), "look")

    async def _save_forever(self) -> None:
        assert self._rows is not None, "started with rows only"
        while True:
            saving = self._run(self._rows.renew(), "save problems")
            await asyncio.wait({saving})
            await asyncio.sleep(SAVE_S)

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run what may fail in a task of its own: its defect is told, and ends nothing else."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_end)
        return task

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.events.emit(crash_of(error, ENDING))


async def _call(work: Callable[[], None]) -> None:
    work()
