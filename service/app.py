"""Composition root: builds, starts and closes the objects of the process, and applies settings.

Entry: `Service`.

process      wire, cache, admission, queue, events -> metrics, board, log; Litestar routes
settings     a Runtime (runtime.py): fleet, failover, gateway, deps; a reload replaces it
"""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from litestar import Litestar
from litestar.plugins import PluginProtocol
from litestar.types import ASGIApp

from dub5.service import VERSION, clock
from dub5.service.admission.admission import Admission
from dub5.service.admission.queue import Queue
from dub5.service.admission.service_time import ServiceTimes
from dub5.service.admission.shared_log import open_shared_log
from dub5.service.api.admin import Admin, admin_routes
from dub5.service.api.chat import ApiDependencies
from dub5.service.api.conversations import conversation_routes
from dub5.service.api.decks import deck_routes
from dub5.service.api.documents import document_routes
from dub5.service.api.edge import with_edge
from dub5.service.api.edge_rules import EdgeRules
from dub5.service.api.errors import exception_handler
from dub5.service.api.feedback import feedback_routes
from dub5.service.api.jobs import job_routes
from dub5.service.api.key_guard import KeyGuard
from dub5.service.api.page import read_files
from dub5.service.api.routes import routes
from dub5.service.api.session_routes import session_routes
from dub5.service.api.sockets import SocketApp, Sockets
from dub5.service.api.turn_routes import turn_routes
from dub5.service.cache.factory import open_cache
from dub5.service.cache.warming import Warm, warm
from dub5.service.config.settings import LoadedSettings, Secret, ServerSettings, Settings
from dub5.service.conversation.live_turns import LiveTurns
from dub5.service.documents import statements as document_statements
from dub5.service.documents.readers import ReadFile
from dub5.service.documents.reading import read_file
from dub5.service.events import DrainBegan, Events, SecurityKind, SettingsReloaded, Subscriber
from dub5.service.failover.loop import Failover
from dub5.service.feedback import statements as feedback_statements
from dub5.service.feedback.feedback import Feedback
from dub5.service.gateway import Gateway
from dub5.service.ids import Ids
from dub5.service.jobs import statements as job_statements
from dub5.service.jobs.jobs import Jobs
from dub5.service.optional_parts import load_part
from dub5.service.resilience.fleet import Fleet
from dub5.service.resilience.spending import SpendingBook, SpendingExchange
from dub5.service.runtime import ProcessScope, Runtime
from dub5.service.store.base import Database
from dub5.service.study import deck_kind
from dub5.service.study import statements as deck_statements
from dub5.service.study.asking import Asker
from dub5.service.telemetry.board import StatusBoard
from dub5.service.telemetry.metrics import Metrics
from dub5.service.telemetry.process_watch import ProcessWatch
from dub5.service.telemetry.watch import Watch
from dub5.service.wire.base import Slots, Wire

if TYPE_CHECKING:  # loaded by name, where there are conversations
    from dub5.service.store.store import Store

WEB = Path(str(files("dub5.service") / "web"))
WARM_UP_S = 2.0
DELETIONS = (  # of what is old
    document_statements.DELETE_OLD,
    document_statements.DELETE_OLD_COUNTS,
    deck_statements.DELETE_OLD,
    job_statements.DELETE_OLD,
    feedback_statements.DELETE_OLD,
)
FINAL_ERRORS_S = 2.0  # for the error events of streams that a drain cuts


class _BareLitestar(Litestar):
    """Litestar without its plugins for pydantic and attrs, which import both where they are installed."""

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return plugins


class Service:
    """The whole service. `asgi` is the application; `reload` changes its settings; `drain` ends its requests.

    `wire`, `database`, `read_file` and `seed` are the seams of the simulation; `log` is the subscriber that
    writes log lines; `watch` watches the process, where it is one of its own.
    """

    def __init__(
        self,
        loaded: LoadedSettings,
        *,
        wire: Wire | None = None,
        database: Database | None = None,
        read_file: ReadFile = read_file,
        seed: str | None = None,
        log: Subscriber | None = None,
        watch: ProcessWatch | None = None,
    ) -> None:
        settings, rng = loaded.settings, _rng(seed)
        self.board = StatusBoard()
        self._process_watch = watch
        self.admission = Admission(settings.server.in_flight_max, settings.server.bodies_bytes_max)
        self.metrics = Metrics(
            version=VERSION,
            routes=(),
            targets=(),
            hosts=(),
            in_flight=lambda: self.admission.in_flight,
            waiting=lambda: self.queue.waiting,
            states=lambda: self._current.states(),
        )
        service_times = ServiceTimes()
        self.wire = wire or build_wire(settings.server)
        self.watch = Watch(loaded, self.wire, self.metrics, rng("watch"))
        counted = (self.metrics.count, self.board.note, service_times.note)
        self.events = self.watch.events = Events(*counted, *self.watch.subscribers, *([log] if log else []))
        self.queue = Queue(settings.admission, service_times, self.events)
        self.cache = open_cache(settings.cache, loaded.redis_url, self.events, rng("cache"))
        self.store = _open_store(loaded, database, self.events, rng("store"))
        self.jobs = self._open_jobs(settings, rng)
        live_turns = LiveTurns()
        self._observe_store(live_turns)
        self._shared_log = open_shared_log(settings, loaded.redis_url, self.events, rng("limits"))
        self._spending = SpendingBook(self.events)
        guard = partial(KeyGuard, events=self.events, proxies_known=bool(settings.server.trusted_proxies))
        self.admin = Admin(self.cache, loaded.admin_token, guard(SecurityKind.ADMIN_REFUSED))
        self._process = ProcessScope(
            self.wire,
            self.cache,
            self.admission,
            self.queue,
            self.board,
            self.events,
            rng,
            _id_factory(rng("ids")),
            guard(SecurityKind.BAD_KEY),
            Secret(secrets.token_urlsafe(32)),
            self._shared_log,
            self.store,
            live_turns,
            read_file,
            self.jobs,
            Feedback(self.store, Ids(rng("feedback")), self.events, self.board.find_request),
            self.watch,
            self._spending,
        )
        self._gateways: WeakSet[Gateway] = WeakSet()  # old ones included, while a request uses them
        self._failovers: WeakSet[Failover] = WeakSet()
        self._runtime_tasks: set[asyncio.Task[None]] = set()
        self._warm_up_tasks: set[asyncio.Task[None]] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._shared_spending: SpendingExchange | None = None  # with a database
        self._current = self._build_runtime(loaded, None)
        self.metrics.observe_keys(lambda: self._current.ops.keys(), lambda: self._spending.cost.items())
        self.sockets = Sockets(rng("sockets"))
        self.asgi = self._build_asgi()

    @property
    def settings(self) -> Settings:
        """The settings that are in use."""
        return self._current.settings

    @property
    def deps(self) -> ApiDependencies:
        """What new requests need."""
        return self._current.deps

    @property
    def fleet(self) -> Fleet:
        """The targets that new requests may be sent to."""
        return self._current.fleet

    def _open_jobs(self, settings: Settings, rng: Callable[[str], random.Random]) -> Jobs | None:
        """Return the jobs, whose kinds are to be named here; None without a database."""
        if self.store is None:
            return None
        jobs = Jobs(self.store, Ids(rng("job ids")), self.events, rng("jobs"), settings.jobs)
        self.store.keeper.deletions += DELETIONS
        self._name_kinds(jobs, settings, rng)
        return jobs

    def _observe_store(self, live_turns: LiveTurns) -> None:
        """Let the metrics read the state of the store, and the watch keep problems in it, if there is one."""
        if self.store is not None:
            self.watch.keep_in(self.store)
            outbox = self.store.outbox
            self.metrics.observe_store(
                lambda: outbox.count,
                self.store.is_ok,
                self.store.pool,
                lambda: live_turns.count,
                self.store.room,
            )

    def _name_kinds(self, jobs: Jobs, settings: Settings, rng: Callable[[str], random.Random]) -> bool:
        """Name the kinds of jobs that the settings have use for. Return whether there is a new one."""
        if settings.documents is None or deck_kind.KIND in jobs.kinds:
            return False
        assert self.store is not None, "jobs are kept in it"
        jobs.kinds[deck_kind.KIND] = deck_kind.DeckKind(self.store, self._asker, rng("decks"))
        return True

    def _asker(self) -> Asker:
        """Return what asks in the background, by the settings in use."""
        deps = self._current.deps
        return Asker(deps.gateway, deps.admission, deps.events, deps.new_id)

    def _build_runtime(self, loaded: LoadedSettings, previous: Runtime | None) -> Runtime:
        runtime = Runtime(loaded, self._process, previous)
        self._gateways.add(runtime.deps.gateway)
        self._failovers.add(runtime.failover)
        self.metrics.add_labels(
            list(runtime.deps.gateway.routes), runtime.targets, sorted(set(runtime.targets.values()))
        )
        return runtime

    def _build_asgi(self) -> ASGIApp:
        app: ASGIApp = self._build_app()
        if self.store is not None:
            is_listed = EdgeRules(self.settings.server).is_listed
            app = SocketApp(app, self.sockets, lambda: self._current.deps, is_listed)
            self.metrics.observe_sockets(lambda: self.sockets.count)
        return with_edge(app, lambda: self.settings, self.events, self._process.new_id)

    def _build_app(self) -> Litestar:
        @asynccontextmanager
        async def lifespan(app: Litestar) -> AsyncIterator[None]:
            await self.start()
            try:
                yield
            finally:
                await self.aclose()

        deps, ops = (lambda: self._current.deps), (lambda: self._current.ops)
        return _BareLitestar(
            [
                *routes(deps, ops, self.metrics, read_files(WEB)),
                *session_routes(deps),
                *conversation_routes(deps),
                *turn_routes(deps),
                *document_routes(deps),
                *deck_routes(deps),
                *job_routes(deps),
                *admin_routes(self.admin),
                *feedback_routes(deps, self.admin),
            ],
            lifespan=[lifespan],
            exception_handlers={Exception: exception_handler(self.events, self._process.new_id)},
            openapi_config=None,
            logging_config=None,
            request_max_body_size=None,  # the handlers that read bodies bound them themselves
        )

    async def start(self) -> None:
        """Start isolation, probes and warm caches. The lifespan of `asgi` calls it, if there is one."""
        self.board.started_at = clock.wall()
        if self._process_watch is not None:
            self.metrics.watch_process(self._process_watch)
        if self.store is not None:
            await self.store.start()
        self.watch.start()
        self._activate()
        self._start_jobs()
        await self._share_spending()
        await self._warm_up()

    async def _share_spending(self) -> None:
        """Learn what other processes have spent, and begin to exchange it, where there is a database."""
        if self.store is None:
            return
        shared: SpendingExchange = load_part("shared spending")(
            self.store, self._spending, lambda: self._current.has_prices, self._process.rng("spending")
        )
        if self._current.has_prices:
            await shared.read()
        self._shared_spending = shared
        self._background.add(asyncio.create_task(shared.run(), name="spending"))

    def _start_jobs(self) -> None:
        if self.jobs is not None and self.jobs.kinds:
            worker = self.jobs.worker
            self.metrics.observe_jobs(lambda: worker.count, self.jobs.kinds)
            self.jobs.start()

    def _activate(self) -> None:
        """Start the isolation and the tasks of the current runtime; stop the tasks of the previous one."""
        self._current.isolate()
        self._current.use_budgets()
        for old in self._runtime_tasks:
            old.cancel()
        self._start_task(self._current.prober.run(), "probes")
        self._start_task(self._current.key_watch.run(), "keys")

    def _start_task(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._runtime_tasks.add(task)
        task.add_done_callback(self._runtime_tasks.discard)

    async def _warm_up(self) -> None:
        """Warm the caches, for at most `WARM_UP_S`; what takes longer goes on in the background."""
        gateway = self._current.deps.gateway
        plan = [Warm(name, route.settings.cache, route.fingerprint) for name, route in gateway.routes.items()]
        if any(route.options.warm_from is not None for route in plan):
            self._warm_up_tasks.add(asyncio.create_task(warm(self.cache, plan, self.events), name="warming"))
            await asyncio.wait(self._warm_up_tasks, timeout=WARM_UP_S)

    def reload(self, loaded: LoadedSettings) -> None:
        """Use these settings for new requests; requests in flight keep theirs. Call it only while running."""
        self._current = self._build_runtime(loaded, self._current)
        self.admission.in_flight_max = loaded.settings.server.in_flight_max
        self.admission.bodies_bytes_max = loaded.settings.server.bodies_bytes_max
        self.queue.options = loaded.settings.admission
        self.cache.bounds = loaded.settings.cache
        if self.store is not None and loaded.settings.conversation is not None:
            self.store.keeper.keep_days = loaded.settings.conversation.keep_days
        if self.jobs is not None:
            self.jobs.worker.options = loaded.settings.jobs
            if self._name_kinds(self.jobs, loaded.settings, self._process.rng):
                self._start_jobs()
        self.admin.reload(loaded.admin_token)
        self._activate()
        self.events.emit(SettingsReloaded(True, loaded.warnings))

    def reject_settings(self, problems: Sequence[str]) -> None:
        """Report new settings that cannot be used; the old ones stay."""
        self.events.emit(SettingsReloaded(False, tuple(problems)))

    async def drain(self) -> None:
        """Admit no requests; let open ones finish within `drain_s`, then end them with an honest error."""
        server = self.settings.server
        self.events.emit(DrainBegan(self.admission.in_flight))
        jobs = asyncio.create_task(self._drain_jobs(), name="drain of jobs")
        await self.admission.announce_drain(server.announce_s)
        self.sockets.drain()
        if not await self.admission.wait_until_empty(server.drain_s):
            self.admission.cut_all()
            await self.admission.wait_until_empty(FINAL_ERRORS_S)
        await self.sockets.wait_until_empty()
        await jobs

    async def _drain_jobs(self) -> None:
        if self.jobs is not None:
            await self.jobs.drain()

    async def aclose(self) -> None:
        """Close all that was opened."""
        if self._process_watch is not None:
            self._process_watch.close()
        background = [*self._runtime_tasks, *self._warm_up_tasks, *self._background]
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        if self.jobs is not None:
            await self.jobs.aclose()
        await self._process.live_turns.aclose()
        for gateway in list(self._gateways):
            await gateway.aclose()
        for failover in list(self._failovers):
            await failover.aclose()
        await self.watch.aclose()
        if self._shared_spending is not None:
            self._shared_spending.write()
        if self.store is not None:  # after all that writes to it
            await self.store.aclose()
        await self.cache.aclose()
        if self._shared_log is not None:
            await self._shared_log.aclose()
        await self.wire.aclose()
        self.metrics.close()


def _rng(seed: str | None) -> Callable[[str], random.Random]:
    """Return a function that gives each component a random generator, derived from `seed` if given."""
    return cache(lambda name: random.Random(None if seed is None else f"{seed}:{name}"))


def _id_factory(rng: random.Random) -> Callable[[], str]:
    return lambda: f"req_{rng.getrandbits(96):024x}"


def _open_store(
    loaded: LoadedSettings, database: Database | None, events: Events, rng: random.Random
) -> "Store | None":
    """Return the store of conversations; None where the settings have none. It does not connect yet."""
    settings, url = loaded.settings, loaded.database_url
    if settings.conversation is None or url is None:
        return None
    kind: Callable[..., Store] = load_part("store")
    return kind(url.reveal(), settings.database, settings.conversation.keep_days, events, rng, database)


def build_wire(server: ServerSettings) -> Wire:
    """Return the wire that the settings name."""
    slots = Slots(server.connections_per_origin_max)
    kind: Callable[..., Wire] = load_part(f"wire {server.wire}")
    return kind(slots=slots, proxy=server.proxy, connection_age_max_s=server.connection_age_max_s)
