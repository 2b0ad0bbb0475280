"""One process of the service in a world: from its start to its end, or until it is killed.

    Life        service, wire, connection to the database, connections of the clients, invariants
    Lives       the one that runs now; a crash kills it and starts another one on the same storage

A process that is killed leaves what it has committed. All its ways out are cut in one instant: what its tasks
send from then on goes nowhere, and only then they are cancelled.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from contextvars import ContextVar
from random import Random
from typing import Any

from dub5.chaos.simulation.invariants.jobs import JobsRecord
from dub5.chaos.simulation.invariants.online import OnlineInvariants
from dub5.chaos.simulation.invariants.people_record import PeopleRecord
from dub5.chaos.simulation.invariants.record import CURRENT_REQUEST, ObservedAttempt, RunRecord
from dub5.chaos.simulation.job_kind import KIND, SimulatedKind
from dub5.chaos.simulation.observed_wire import ObservedWire
from dub5.chaos.simulation.world import build
from dub5.chaos.simulation.world.model import World
from dub5.service.app import Service
from dub5.service.events import Event
from dub5.service.wire.base import Slots, WireRequest, WireResponse
from dub5.simulators.ledger import Ledger
from dub5.simulators.provider import SimulatedProvider
from dub5.simulators.virtual import AppClient, VirtualDatabase, VirtualLoop, VirtualStorage, VirtualWire
from dub5.simulators.virtual.asgi import App

ASKS = '"type":"ask"'
# The numbers of the requests that are sent over a WebSocket, in order: its task works for all of them.
SOCKET_ASKS: ContextVar[deque[int]] = ContextVar("socket_asks")
BUFFER_BYTES = 300  # between the service and a client that reads slowly
CANCEL_AGAIN_S = 1.0  # a task that is dead may wait for ever for what was cut, also while it is cancelled
CANCELS_MAX = 60
# The tasks that are not of the service: all others die with its process.
BYSTANDERS = ("main", "client ", "person ", "stale connections", "reload", "drain", "crash")


class Life:
    """One process. `number`: 0 for the first."""

    def __init__(
        self,
        world: World,
        record: RunRecord,
        providers: Mapping[str, SimulatedProvider],
        storage: VirtualStorage | None,
        people: PeopleRecord | None,
        jobs: JobsRecord | None,
        number: int = 0,
    ) -> None:
        self._world = world
        self._record = record
        self._loop = _loop()
        self._people = people
        self._dead = False
        self.number = number
        urls = {build.url(name): provider for name, provider in providers.items()}
        self.wire = VirtualWire(urls, slots=Slots(world.tuning.connections_per_origin_max))
        # The service does not exist yet; its limits are read only once it sends.
        self.invariants = OnlineInvariants(
            world, record, self._loop.time, lambda name: self.service.fleet.limit(name)
        )
        rng = Random(f"{world.seed}:database:{number}")
        self.database = VirtualDatabase(storage, rng) if storage is not None else None
        self.service = Service(
            build.loaded(world),
            wire=ObservedWire(self.wire, self),
            seed=f"{world.seed}:{number}" if number else str(world.seed),
            log=self._on_event,
            database=self.database,
        )
        if jobs is not None and world.jobs is not None and self.service.jobs is not None:
            self.service.jobs.kinds[KIND] = SimulatedKind(world.jobs, jobs, number, world.seed)
        app = self._observed(self.service.asgi)
        self.client = AppClient(app)
        self.slow_client = AppClient(app, lifespan=False, buffer_bytes_max=BUFFER_BYTES)

    async def start(self) -> None:
        """Start the service."""
        await self.client.__aenter__()

    async def stop(self) -> None:
        """Stop the service as a server does."""
        await self.client.__aexit__(None, None, None)

    async def kill(self) -> list[asyncio.Task[Any]]:
        """Cut all its ways out at this instant, then cancel its tasks. Return them, for `bury`."""
        self._dead = True
        if self.database is not None:
            self.database.kill()
        self.client.kill()
        self.slow_client.kill()
        own = [task for task in self._loop.unfinished() if not task.get_name().startswith(BYSTANDERS)]
        await self.wire.aclose()  # does not wait
        for task in own:
            task.cancel()
        return own

    async def bury(self, own: list[asyncio.Task[Any]]) -> None:
        """Wait until nothing is left of it. A task that waits again for what is cut is cancelled again."""
        for _ in range(CANCELS_MAX):
            if not own:
                return
            _, left = await asyncio.wait(own, timeout=CANCEL_AGAIN_S)
            own = sorted(left, key=hash)
            for task in own:
                task.cancel()
        raise RuntimeError(f"tasks of a killed process go on: {[task.get_name() for task in own]}")

    # what its wire and its events tell: nothing once it is dead

    def sent(self, request: WireRequest) -> ObservedAttempt:
        """Observe an attempt."""
        if self._dead:
            raise asyncio.CancelledError
        attempt = self.invariants.sent(request)
        if self._people is not None:
            self._people.note_prompt(attempt.number, attempt.target, request.body)
        return attempt

    def answered(self, attempt: ObservedAttempt, response: WireResponse) -> None:
        """Observe the head of a response."""
        if not self._dead:
            self.invariants.answered(attempt, response)

    def closed(self, attempt: ObservedAttempt) -> None:
        """Observe the end of an attempt."""
        if not self._dead:
            self.invariants.closed(attempt)

    def _on_event(self, event: Event) -> None:
        if not self._dead:
            self.invariants.on_event(event)

    def _observed(self, app: App) -> App:
        """Return the application, with the moment recorded at which each request reaches it."""

        async def observed(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "websocket":
                await app(scope, asks_observed(receive), send)
                return
            self._arrive()
            await app(scope, receive, send)

        def asks_observed(receive: Any) -> Any:
            async def receive_observed() -> Any:
                message = await receive()
                asks = ASKS in (message.get("text") or "")
                CURRENT_REQUEST.set(SOCKET_ASKS.get().popleft() if asks else None)
                self._arrive()
                return message

            return receive_observed

        return observed

    def _arrive(self) -> None:
        number = CURRENT_REQUEST.get()
        if number is not None and not self._dead:
            now_s = self._loop.time()
            self._record.requests[number].arrive(now_s, self._world.generation(now_s))


class Lives:
    """The processes of a world, one after the other."""

    def __init__(
        self, world: World, record: RunRecord, providers: Mapping[str, SimulatedProvider], ledger: Ledger
    ) -> None:
        self._world = world
        self._record = record
        self._providers = providers
        self._ledger = ledger
        self.lines_before = 0  # of the ledger, when the process that runs now was started
        self.storage = build.storage(world)
        self.people = PeopleRecord() if world.people is not None else None
        self.jobs = JobsRecord(record, self.storage) if self.storage and world.jobs else None
        self.now = Life(world, record, providers, self.storage, self.people, self.jobs)
        self._up = asyncio.Event()

    @property
    def is_up(self) -> bool:
        """Say whether a process takes connections."""
        return self._up.is_set()

    async def start(self) -> None:
        """Start the process."""
        await self.now.start()
        self._up.set()

    async def up(self) -> None:
        """Wait until a process takes connections."""
        await self._up.wait()

    async def crash(self) -> RunRecord:
        """Kill the process and start another one. Return what was recorded of the first."""
        self._up.clear()
        self._record.log("the process dies")
        old, past = self.now, self._record.split()
        own = await old.kill()
        self.lines_before = self._ledger.last
        args = self._world, self._record, self._providers, self.storage, self.people, self.jobs
        self.now = Life(*args, old.number + 1)
        await self.start()
        self._record.log("another process is up")
        await old.bury(own)
        return past


def _loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "worlds run in virtual time"
    return loop
