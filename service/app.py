"""The composition root: builds every object once, opens and closes them. The only file that knows all others.

settings -> wire, dialects, fleet, cache -> runner -> gateway -> desk -> Litestar routes
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

from litestar import Litestar

from service import VERSION, clock
from service.answers.cache import AnswerCache
from service.api.chat import Desk
from service.api.errors import handler
from service.api.ops import Ops
from service.api.page import read_files
from service.api.routes import routes
from service.attempt.notice import Notices
from service.attempt.run import Runner
from service.attempt.tries import Means, Upstream
from service.chat import Target
from service.events import DrainBegan, Events, Subscriber
from service.gateway import Gateway, Route
from service.policy.admission import Admission, Callers
from service.providers.registry import dialect_of
from service.routing.fleet import Fleet, Guards
from service.routing.probes import Prober
from service.settings import Loaded, RouteSettings, ServerSettings, Settings
from service.telemetry.board import Board
from service.telemetry.metrics import Metrics
from service.wire.aiohttp_wire import AiohttpWire
from service.wire.base import Slots, Wire, origin_of
from service.wire.httpx_wire import HttpxWire

WEB = Path(str(files("service") / "web"))
LAST_WORDS_S = 2.0  # for the error events of streams that a drain cuts


class Service:
    """The whole service. `asgi` is the application; `drain` ends it honestly.

    `wire` and `seed` are the seams of the simulation; `log` is the subscriber that writes lines.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        wire: Wire | None = None,
        seed: str | None = None,
        log: Subscriber | None = None,
    ) -> None:
        settings = loaded.settings
        self.settings = settings
        self.board = Board()
        self.admission = Admission(settings.server.in_flight_max)
        dice = _dice(seed)
        upstreams = _upstreams(settings)
        origins = {target: origin_of(upstream.base_url) for target, upstream in upstreams.items()}
        self.metrics = Metrics(
            version=VERSION,
            routes=[route.name for route in settings.route],
            targets=upstreams,
            hosts=sorted(set(origins.values())),
            in_flight=lambda: self.admission.in_flight,
            states=lambda: self.fleet.states(clock.now()),
        )
        subscribers = [self.metrics.count, self.board.note]
        self.events = Events(*subscribers, *([log] if log else []))
        guards = Guards(settings.breaker, settings.budget, settings.limiter, settings.health)
        self.fleet = Fleet(origins, loaded.provider_keys, guards, dice("breaker"), self.events)
        self.wire = wire or _wire(settings.server)
        self.cache = AnswerCache(settings.cache, self.events)
        means = Means(self.wire, upstreams, self.events, settings.server.answer_bytes_max)
        self.runner = Runner(means, self.fleet, settings.retry, dice("backoff"))
        routes = {route.name: _route(route) for route in settings.route}
        gateway = Gateway(routes, self.cache, self.runner, dice("router"))
        new_id = _ids(dice("ids"))
        desk = Desk(
            gateway, self.admission, Callers(loaded.caller_keys), self.events, settings.server, new_id
        )
        clocks = {target: route.settings.clocks for route in routes.values() for target in route.targets}
        self._prober = Prober(self.runner, clocks, settings.probe, dice("probes"), new_id)
        self.asgi = self._application(desk, new_id)

    def _application(self, desk: Desk, new_id: Callable[[], str]) -> Litestar:
        page = read_files(WEB)

        @asynccontextmanager
        async def lifespan(app: Litestar) -> AsyncIterator[None]:
            self.board.started_at = clock.wall()
            isolated = [provider.name for provider in self.settings.provider if provider.isolated]
            self.fleet.isolate(isolated, clock.now())
            probes = asyncio.create_task(self._prober.run(), name="probes")
            try:
                yield
            finally:
                probes.cancel()
                await asyncio.gather(probes, return_exceptions=True)
                await self.aclose()

        ops = Ops(self.settings, self.admission, self.board, lambda: self.fleet.states(clock.now()))
        return Litestar(
            routes(desk, ops, self.metrics, page),
            lifespan=[lifespan],
            exception_handlers={Exception: handler(self.events, new_id)},
            openapi_config=None,
            logging_config=None,
            request_max_body_size=None,  # api/chat reads and bounds bodies itself; nobody else reads any
        )

    async def drain(self) -> None:
        """No new work; what is open may finish within `drain_s`, then ends with an honest error."""
        server = self.settings.server
        self.events.emit(DrainBegan(self.admission.in_flight))
        await self.admission.announced(server.announce_s)
        if not await self.admission.emptied(server.drain_s):
            self.admission.cut_all()
            await self.admission.emptied(LAST_WORDS_S)

    async def aclose(self) -> None:
        """Closes what was opened."""
        await self.runner.aclose()
        await self.cache.aclose()
        await self.wire.aclose()
        self.metrics.close()


def _dice(seed: str | None) -> Callable[[str], random.Random]:
    """One source of chance for each component, all from one seed; without a seed, from the system."""
    return lambda name: random.Random(None if seed is None else f"{seed}:{name}")


def _ids(dice: random.Random) -> Callable[[], str]:
    return lambda: f"req_{dice.getrandbits(96):024x}"


def _target(name: str) -> Target:
    provider, _, model = name.partition("/")
    return Target(provider, model)


def _route(settings: RouteSettings) -> Route:
    return Route(settings, tuple(_target(name) for name in settings.targets), Notices(settings.notices))


def _upstreams(settings: Settings) -> dict[Target, Upstream]:
    providers = {provider.name: provider for provider in settings.provider}
    names = dict.fromkeys(name for route in settings.route for name in route.targets)
    event_bytes_max = settings.server.event_bytes_max
    return {
        target: Upstream(
            dialect_of(provider, event_bytes_max),
            provider.base_url.rstrip("/"),
            provider.prices.get(target.model),
        )
        for target in map(_target, names)
        for provider in [providers[target.provider]]
    }


def _wire(server: ServerSettings) -> Wire:
    slots = Slots(server.connections_per_origin_max)
    kind = HttpxWire if server.wire == "httpx" else AiohttpWire
    return kind(slots=slots, proxy=server.proxy)
