"""One world from its beginning to its end, on virtual time.

world -> simulated providers -> VirtualWire -> CheckedWire -> Service -> its own ASGI application -> clients
                                                  `-- Rules hear every try and every event --> Books
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from dub5.chaos.simulation.clients import Clients
from dub5.chaos.simulation.invariants.availability import wholeness
from dub5.chaos.simulation.invariants.coverage import look_back
from dub5.chaos.simulation.invariants.delivery import delivery
from dub5.chaos.simulation.invariants.fallbacks import substitutes
from dub5.chaos.simulation.invariants.hedging import hedging
from dub5.chaos.simulation.invariants.online import Rules
from dub5.chaos.simulation.invariants.queue import waiting
from dub5.chaos.simulation.invariants.record import Books
from dub5.chaos.simulation.invariants.recovery import Recovery
from dub5.chaos.simulation.invariants.retry_budget import spending
from dub5.chaos.simulation.invariants.shutdown import LAST_WORDS_S, LATE_S, Closing
from dub5.chaos.simulation.observed_wire import CheckedWire
from dub5.chaos.simulation.world import build
from dub5.chaos.simulation.world.model import STALE, World
from dub5.chaos.simulation.world.requests import asks
from dub5.service.app import Service
from dub5.service.wire.base import Slots
from dub5.simulators.virtual import AppClient, Deadlock, Escaped, VirtualLoop, VirtualWire, run

ROOM_BYTES = 300  # before a client that reads slowly
# What the service, or the loop, may raise at us; anything else is a defect of the simulation.
BROKEN = (
    AssertionError,
    AttributeError,
    ExceptionGroup,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    Deadlock,
    Escaped,
)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a world. Times are in seconds; `worst` are the worst times seen; `trace` are
    the last lines, up to the first violation."""

    seed: int
    requests: int
    virtual_s: float
    wall_s: float
    digest: str
    outcomes: Counter[str]
    sometimes: Counter[str]
    worst: dict[str, float]
    violations: tuple[str, ...]
    trace: tuple[str, ...] = field(default=(), repr=False)


def play(world: World, on_step: Callable[[int, str], None] | None = None) -> Result:
    """Plays it. Never raises for what the service does: that is in `violations`."""
    began_s, stage = time.perf_counter(), Stage(world)
    try:
        run(stage.play(), seed=world.seed, on_step=on_step)
    except BROKEN as error:
        stage.books.violated(type(error).__name__, str(error))
    books = stage.books
    return Result(
        seed=world.seed,
        requests=len(books.cases),
        virtual_s=stage.end_s,
        wall_s=time.perf_counter() - began_s,
        digest=books.digest(),
        outcomes=Counter(case.ended.outcome.value for case in books.cases.values() if case.ended),
        sometimes=books.sometimes,
        worst=books.worst,
        violations=tuple(books.violations),
        trace=books.before or tuple(books.trace),
    )


class Stage:
    """Everything that plays a part."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.books = Books(lambda: 0)
        self.end_s = 0.0

    async def play(self) -> None:
        """From start-up to shutdown."""
        world, loop = self._world, asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.books = books = Books(loop.time_ns)
        providers, ledger = build.providers(world, loop.time, int(loop.wall()))
        urls = {build.url(name): provider for name, provider in providers.items()}
        wire = VirtualWire(urls, slots=Slots(world.tuning.connections_per_origin_max))
        rules = Rules(world, books, loop.time, lambda name: int(service.fleet._providers[name].limiter.limit))
        service = Service(
            build.loaded(world), wire=CheckedWire(wire, rules), seed=str(world.seed), log=rules.heard
        )
        door = AppClient(service.asgi)
        narrow = AppClient(service.asgi, lifespan=False, buffer_bytes_max=ROOM_BYTES)
        clients = Clients(door, narrow, books, world)
        closing = Closing(world, books, rules, service, wire, ledger)
        async with door:
            closing.at_rest()
            aside = [
                asyncio.create_task(self._stale(wire), name="stale connections"),
                asyncio.create_task(self._reload(service), name="reload"),
            ]
            drain = asyncio.create_task(self._drain(service), name="drain")
            await clients.send_all(asks(world))
            await drain
            for task in aside:
                task.cancel()
            await asyncio.gather(*aside, return_exceptions=True)
            await asyncio.sleep(max(0.0, world.end_s - loop.time()) if not world.drain else 0.0)
            await closing.quiet(max(tuning.clocks.total_s for tuning in world.tunings))
            for look in (spending, waiting, hedging, delivery, substitutes):
                look(world, books)
            known = {"authorization": f"Bearer {build.caller_key(0)}"} if world.callers else {}
            closing.agree((await door.request("GET", "/status", headers=known)).json())
            recovery = Recovery(world, books, rules)
            recovery.check(loop.time())
            wholeness(world, books, recovery)
            look_back(world, books)
        self.end_s = loop.time()

    async def _drain(self, service: Service) -> None:
        loop, drain = asyncio.get_running_loop(), self._world.drain
        if drain is None:
            return
        await asyncio.sleep(drain.at_s - loop.time())
        self.books.tell("drain begins")
        await service.drain()
        self.books.tell("drain is over")
        late_s = loop.time() - drain.at_s - drain.announce_s - drain.drain_s
        self.books.measured("drain, beyond its time", late_s)
        if late_s > LAST_WORDS_S + LATE_S:
            self.books.violated("drain", f"it took {late_s:.3f} s longer than it may")

    async def _reload(self, service: Service) -> None:
        loop, reload = asyncio.get_running_loop(), self._world.reload
        if reload is not None:
            await asyncio.sleep(reload.at_s - loop.time())
            service.reload(build.loaded(self._world, 1))

    async def _stale(self, wire: VirtualWire) -> None:
        """Kept-alive connections that turn out to be dead, while that trouble lasts."""
        loop = asyncio.get_running_loop()
        stale = [trouble for trouble in self._world.troubles if trouble.fault["kind"] == STALE]
        moments = sorted({moment for trouble in stale for moment in (trouble.at_s, trouble.until_s)})
        for moment in moments:
            await asyncio.sleep(moment - loop.time())
            for provider in self._world.providers:
                wire.link(build.url(provider.name)).stale = any(
                    trouble.provider == provider.name and trouble.at_s <= moment < trouble.until_s
                    for trouble in stale
                )
