"""Run one world from start-up to shutdown on virtual time: `run_world(world)` returns a `WorldResult`.

world -> simulated providers -> VirtualWire -> ObservedWire -> Service -> its ASGI app -> clients
                                                   `-- OnlineInvariants --> RunRecord

While it runs, OnlineInvariants check every attempt and event. After the last request the invariants of a
whole run are checked (`Simulation.run`); invariants/__init__.py lists them all.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from dub5.chaos.simulation.clients import WorldClients
from dub5.chaos.simulation.invariants.availability import check_availability
from dub5.chaos.simulation.invariants.coverage import count_coverage
from dub5.chaos.simulation.invariants.delivery import check_delivery
from dub5.chaos.simulation.invariants.fallbacks import check_fallbacks
from dub5.chaos.simulation.invariants.hedging import check_hedging
from dub5.chaos.simulation.invariants.jobs import check_jobs
from dub5.chaos.simulation.invariants.others_unharmed import check_others_unharmed
from dub5.chaos.simulation.invariants.own_faults import check_own_faults
from dub5.chaos.simulation.invariants.people import check_crash, check_people
from dub5.chaos.simulation.invariants.queue import check_queue
from dub5.chaos.simulation.invariants.rate_limits import check_rate_limits
from dub5.chaos.simulation.invariants.record import RunRecord
from dub5.chaos.simulation.invariants.recovery import RecoveryInvariants
from dub5.chaos.simulation.invariants.retry_budget import check_retry_budget
from dub5.chaos.simulation.invariants.shutdown import ShutdownInvariants
from dub5.chaos.simulation.jobs import WorldJobs
from dub5.chaos.simulation.life import Lives
from dub5.chaos.simulation.people import WorldPeople
from dub5.chaos.simulation.world import build
from dub5.chaos.simulation.world.model import STALE, LoopStalls, World
from dub5.chaos.simulation.world.requests import planned_requests
from dub5.simulators.virtual import Deadlock, Escaped, Stalls, VirtualLoop, run

CHECKS = (
    check_retry_budget,
    check_queue,
    check_hedging,
    check_delivery,
    check_fallbacks,
    check_rate_limits,
)
CHECKS_OF_ENDED = (check_delivery, check_fallbacks)  # those that look at each request by itself
# What the service or the virtual loop may raise; any other exception is a defect of the simulation.
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
class WorldResult:
    """The result of one world. Times are in seconds. `worst` holds the largest measured values, `trace` the
    last lines up to the first violation."""

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


def run_world(world: World, on_step: Callable[[int, str], None] | None = None) -> WorldResult:
    """Run a world. Whatever the service does or raises becomes one of `violations`, never an exception."""
    began_s, simulation = time.perf_counter(), Simulation(world)
    try:
        run(simulation.run(), seed=world.seed, on_step=on_step, stalls=simulation.stalls)
    except BROKEN as error:
        simulation.record.violated(type(error).__name__, str(error))
    record = simulation.record
    return WorldResult(
        seed=world.seed,
        requests=len(record.requests) + simulation.past_requests,
        virtual_s=simulation.end_s,
        wall_s=time.perf_counter() - began_s,
        digest=record.digest(),
        outcomes=Counter(
            request.ended.outcome.value for request in record.requests.values() if request.ended
        ),
        sometimes=record.sometimes,
        worst=record.worst,
        violations=tuple(record.violations),
        trace=record.before or tuple(record.trace),
    )


class Simulation:
    """One run: the service, its simulated providers, its clients and the invariants."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.record = RunRecord(lambda: 0)
        stalls = world.stalls
        self.stalls = None if stalls == LoopStalls() else Stalls(stalls.at, stalls.overshoot_s, world.seed)
        self.end_s = 0.0
        self.past_requests = 0  # of a process that died

    async def run(self) -> None:
        """Run the world, then check the invariants of a whole run."""
        world, loop = self._world, asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.record = record = RunRecord(loop.time_ns, self.stalls)
        providers, ledger = build.providers(world, loop.time, int(loop.wall()))
        lives = Lives(world, record, providers, ledger)
        clients = WorldClients(lives, record, world)
        shutdown = ShutdownInvariants(world, record, lives.now.invariants, lives.now.service, ledger)
        await lives.start()
        shutdown.note_idle_tasks()
        background = [
            asyncio.create_task(self._stale(lives), name="stale connections"),
            asyncio.create_task(self._reload(lives), name="reload"),
        ]
        drain = asyncio.create_task(self._drain(lives, shutdown), name="drain")
        crash = asyncio.create_task(self._crash(lives, shutdown), name="crash") if world.crash else None
        people = WorldPeople(lives, record, world).start()
        jobs = WorldJobs(world, lives) if world.jobs is not None else None
        people += [jobs.start()] if jobs is not None else []
        await clients.send_all(planned_requests(world))
        await drain
        if crash is not None:
            await crash
        await asyncio.gather(*people)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await asyncio.sleep(max(0.0, world.end_s - loop.time()) if not world.drain else 0.0)
        await self._check(lives, shutdown)
        if jobs is not None:
            await self._check_jobs(lives, jobs)
        await lives.now.stop()
        self.end_s = loop.time()

    async def _check(self, lives: Lives, shutdown: ShutdownInvariants) -> None:
        """Check the invariants of a whole run."""
        world, record, life, loop = self._world, self.record, lives.now, asyncio.get_running_loop()
        await shutdown.check_all_returned(max(tuning.timeouts.total_s for tuning in world.tunings))
        for check in CHECKS:
            check(world, record)
        check_own_faults(record)
        headers = {"authorization": f"Bearer {build.caller_key(0)}"} if world.callers else {}
        shutdown.check_agreement((await life.client.request("GET", "/status", headers=headers)).json())
        recovery = RecoveryInvariants(world, record, life.invariants)
        recovery.check(loop.time())
        check_availability(world, record, recovery)
        check_others_unharmed(world, record)
        count_coverage(world, record)
        if lives.people is not None and lives.storage is not None:
            check_people(world, record, lives.people, lives.storage, life.number, loop.time())

    async def _check_jobs(self, lives: Lives, jobs: WorldJobs) -> None:
        await jobs.until_ended()
        assert lives.jobs is not None and lives.storage is not None, "the world has jobs"
        check_jobs(self._world, self.record, lives.jobs, lives.storage)

    async def _crash(self, lives: Lives, shutdown: ShutdownInvariants) -> None:
        loop, crash = asyncio.get_running_loop(), self._world.crash
        assert crash is not None, "the world has one"
        await asyncio.sleep(crash.at_s - loop.time())
        if lives.people is not None and lives.storage is not None:
            check_crash(self.record, lives.people, lives.storage)
        if lives.jobs is not None:
            lives.jobs.note_crash()
        self.past_requests = len(self.record.requests)
        past = await lives.crash()
        shutdown.check_ends(past.requests.values())
        for check in CHECKS_OF_ENDED:
            check(self._world, past)
        check_own_faults(past)
        shutdown.replaced(lives.now.invariants, lives.now.service, lives.lines_before)

    async def _drain(self, lives: Lives, shutdown: ShutdownInvariants) -> None:
        loop, drain = asyncio.get_running_loop(), self._world.drain
        if drain is None:
            return
        await asyncio.sleep(drain.at_s - loop.time())
        began_s = loop.time()
        self.record.log("drain begins")
        await lives.now.service.drain()
        self.record.log("drain is over")
        took_s = self.record.ran_s(began_s, loop.time())
        shutdown.check_drain(took_s - drain.announce_s - drain.drain_s)

    async def _reload(self, lives: Lives) -> None:
        loop, reload = asyncio.get_running_loop(), self._world.reload
        if reload is not None:
            await asyncio.sleep(reload.at_s - loop.time())
            lives.now.service.reload(build.loaded(self._world, 1))

    async def _stale(self, lives: Lives) -> None:
        """Mark kept-alive connections as dead while a `stale` fault window lasts."""
        loop = asyncio.get_running_loop()
        stale = [window for window in self._world.troubles if window.fault["kind"] == STALE]
        moments = sorted({moment for window in stale for moment in (window.at_s, window.until_s)})
        for moment in moments:
            await asyncio.sleep(moment - loop.time())
            for provider in self._world.providers:
                lives.now.wire.link(build.url(provider.name)).stale = any(
                    window.provider == provider.name and window.at_s <= moment < window.until_s
                    for window in stale
                )
