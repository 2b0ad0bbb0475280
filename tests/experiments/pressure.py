"""An open workload with impatient people against a provider of limited capacity, in virtual time.

    arrivals (Poisson) --patience--> the real service --> simulated providers with slots and a queue
                                                          (simulators/limits/concurrency.py)

`PressureResult` is the record of one person's request; the provider's ledger has the other side.
"""

import asyncio
import heapq
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dub5.service import clock
from dub5.service.app import Service
from dub5.service.config.options import TimeoutOptions
from dub5.service.config.settings import LoadedSettings, ProviderSettings, RouteSettings, Secret, Settings
from dub5.simulators.latency import Latency
from dub5.simulators.ledger import Ledger
from dub5.simulators.limits.concurrency import Capacity, SlotQueue
from dub5.simulators.personas.base import Profile
from dub5.simulators.provider import SimulatedProvider
from dub5.simulators.script import Gate, Script, Until
from dub5.simulators.virtual import AppClient, VirtualWire

LATENCY = Latency(0.5, 0.2, 0.045, 0.1)  # an answer of `WORDS` words takes a second: a slot does one a second
WORDS = 5
WORK_S = 1.0


@dataclass(frozen=True, slots=True)
class PressureResult:
    """The result of a request: its arrival, its status (0: the person left before there was one), its
    duration."""

    at_s: float
    caller: int
    status: int
    first_s: float  # until the first byte
    took_s: float
    whole: bool
    code: str = ""
    retry_after_s: float | None = None


@dataclass
class PressureScene:
    """The scene to play. `later`: other capacities of all providers from a time on."""

    rate_per_s: float
    seconds: float
    capacity: Capacity
    later: Mapping[float, Capacity] = field(default_factory=dict)
    providers: int = 1
    persona: str = "openai"
    patience_s: float = 10.0  # seconds after which the person leaves
    deadline_s: float | None = None  # the deadline that the request names
    # A request whose client has left the provider's queue is served all the same.
    works_for_nobody: bool = False
    timeouts: TimeoutOptions = field(default_factory=TimeoutOptions)
    options: dict[str, Any] = field(default_factory=dict)
    stream: bool = True
    latency: Latency = LATENCY
    callers: Mapping[str, float] = field(default_factory=dict)  # variables of keys, and each caller's share
    seed: int = 1

    async def play(self) -> "PressureOutcome":
        """Play a scene; return when all requests have been answered, or their clients have left."""
        stage = PressureRun(self)
        async with stage.client, asyncio.TaskGroup() as group:
            group.create_task(stage.change())
            await stage.arrive(group)
        return PressureOutcome(self, stage)


class StubbornSlotQueue(SlotQueue):
    """A slot queue that does not notice that a client left, not even while it waits.

    Such a request gets a slot in its turn, and its work is wasted.
    """

    def __init__(self, capacity: Capacity, now: Callable[[], float]) -> None:
        super().__init__(capacity, now)
        self._gone: set[Gate] = set()

    def _wait_in_line(self) -> Script:
        gate, served = Gate(), False
        self._queue.append(gate)
        try:
            while not served:
                self._work_for_nobody()
                served = self._queue[0] is gate and self._has_room()
                if not served:
                    until_s = self._unseen_until_s[0] if self._unseen_until_s else None
                    yield Until(gate, None if until_s is None else max(0.0, until_s - self._now()))
        finally:
            if served:
                self._queue.remove(gate)
            else:
                self._gone.add(gate)
            self._call_next()

    def _work_for_nobody(self) -> None:
        while self._queue and self._queue[0] in self._gone and self._has_room():
            self._gone.remove(self._queue.popleft())
            heapq.heappush(self._unseen_until_s, self._now() + WORK_S)

    def _call_next(self) -> None:
        self._work_for_nobody()
        here = next((gate for gate in self._queue if gate not in self._gone), None)
        if here is not None:
            here.open()


class PressureRun:
    """The service, its providers, and the requests of people."""

    def __init__(self, scene: PressureScene) -> None:
        self.scene = scene
        self.asked: list[PressureResult] = []
        self._began_s = clock.now()
        self.rng = random.Random(scene.seed)
        self.ledger = Ledger(lines_max=1_000_000)
        names = [f"p{i}" for i in range(scene.providers)]
        self.providers = {name: self._provider(name) for name in names}
        urls = {name: f"http://{name}.test/v1" for name in names}
        self.wire = VirtualWire({urls[name]: provider for name, provider in self.providers.items()})
        settings = Settings(
            provider=tuple(ProviderSettings(name, "openai", urls[name]) for name in names),
            route=(
                RouteSettings(
                    "chat", tuple(f"{name}/m" for name in names), policy="balanced", timeouts=scene.timeouts
                ),
            ),
            **scene.options,
        )
        secrets = {name: (Secret("sk"),) for name in names}
        loaded = LoadedSettings(settings, secrets, tuple(Secret(f"key-{name}") for name in scene.callers))
        self.service = Service(loaded, wire=self.wire, seed=f"pressure {scene.seed}")
        self.client = AppClient(self.service.asgi)

    def _provider(self, name: str) -> SimulatedProvider:
        profile = Profile(name, self.scene.latency, words=WORDS)
        rng = random.Random(f"{self.scene.seed}/{name}")
        provider = SimulatedProvider(
            self.scene.persona,
            profile,
            rng=rng,
            now=self.now_s,
            ledger=self.ledger,
            capacity=self.scene.capacity,
        )
        if self.scene.works_for_nobody:
            provider.slot_queue = StubbornSlotQueue(self.scene.capacity, provider.now)
        return provider

    def now_s(self) -> float:
        """Return the seconds since the scene began."""
        return clock.now() - self._began_s

    async def change(self) -> None:
        """Change the capacities at their times."""
        for at_s, capacity in sorted(self.scene.later.items()):
            await asyncio.sleep(at_s - self.now_s())
            for provider in self.providers.values():
                provider.set_capacity(capacity)

    async def arrive(self, group: asyncio.TaskGroup) -> None:
        """Send requests until the scene is over."""
        scene, names = self.scene, list(self.scene.callers)
        shares = list(scene.callers.values())
        while True:
            await asyncio.sleep(self.rng.expovariate(scene.rate_per_s))
            if self.now_s() >= scene.seconds:
                return
            caller = self.rng.choices(range(len(names)), shares)[0] if names else 0
            group.create_task(self.ask(caller))

    async def ask(self, caller: int = 0) -> None:
        """Send one person's request."""
        scene, began_s = self.scene, self.now_s()
        status, first_s, data = 0, 0.0, b""
        headers = {"authorization": f"Bearer key-{list(scene.callers)[caller]}"} if scene.callers else {}
        if scene.deadline_s is not None:
            headers["x-deadline-ms"] = str(round(scene.deadline_s * 1000))
        retry_after: str | None = None
        body = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "stream": scene.stream}
        try:
            async with asyncio.timeout(scene.patience_s):
                async with self.client.stream(
                    "POST", "/v1/chat/completions", json=body, headers=headers
                ) as reply:
                    status, first_s = reply.status, self.now_s() - began_s
                    retry_after = reply.headers.get("retry-after-ms")
                    data = await reply.body()
        except TimeoutError:
            pass
        whole = status == 200 and (data.endswith(b"data: [DONE]\n\n") or (not scene.stream and bool(data)))
        code = ""
        if status != 200 and data:
            code = data.split(b'"code":"', 1)[1].split(b'"', 1)[0].decode()
        wait_s = int(retry_after) / 1000 if retry_after else None
        self.asked.append(
            PressureResult(began_s, caller, status, first_s, self.now_s() - began_s, whole, code, wait_s)
        )


class PressureOutcome:
    """The outcome of a scene."""

    def __init__(self, scene: PressureScene, stage: PressureRun) -> None:
        self.scene = scene
        self.asked = sorted(stage.asked, key=lambda asked: asked.at_s)
        self.lines = stage.ledger.lines()
        self.service = stage.service
        self.providers = stage.providers

    def during(self, from_s: float, to_s: float) -> list[PressureResult]:
        """Return the results of requests that came in this time."""
        return [asked for asked in self.asked if from_s <= asked.at_s < to_s]

    def good_per_s(self, from_s: float, to_s: float) -> float:
        """Return whole answers within the person's patience that ended in this time, per second."""
        good = sum(a.whole and from_s <= a.at_s + a.took_s < to_s for a in self.asked)
        return good / (to_s - from_s)

    def good_share(self, from_s: float, to_s: float) -> float:
        """Return the share of requests of this time that were answered in time."""
        came = self.during(from_s, to_s)
        return sum(asked.whole for asked in came) / max(1, len(came))

    def tries(self, from_s: float, to_s: float) -> int:
        """Return the requests that the providers received in this time."""
        return sum(line.method == "POST" and from_s <= line.at_s < to_s for line in self.lines)

    def happened(self, what: str) -> int:
        """Return the service's own count of an event."""
        return self.service.board.happened[what]
