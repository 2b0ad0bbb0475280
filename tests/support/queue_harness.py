"""A fake fleet with a fixed number of free slots, and requests that wait for one."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from dub5.service import clock
from dub5.service.admission.queue import Queue
from dub5.service.admission.service_time import ServiceTimes
from dub5.service.config.options import AdmissionOptions, TimeoutOptions
from dub5.service.errors import GatewayError
from dub5.service.events import Event, Events, QueueLeft
from dub5.service.failover.context import RequestContext
from dub5.service.failover.rejected_content import RejectPatterns
from dub5.service.model import Caller, ChatBody, ChatRequest, Priority, Target
from dub5.service.resilience.fleet import Fleet
from dub5.service.timeouts import Timeouts

ONE, TWO = Target("one", "m"), Target("two", "m")
LONG_S = 1_000.0


class FakeFleet:
    """A fake of the fleet: `free` slots at each provider; `tell` is the callback for freed slots."""

    def __init__(self, **free: int) -> None:
        self.free = free
        self.tell: Callable[[], None] | None = None
        self.looked = 0

    def must_wait(self, targets: Iterable[Target], now_s: float) -> bool:
        self.looked += 1
        return all(self.free[target.provider] <= 0 for target in targets)

    def may_ask_any(self, targets: Iterable[Target], now_s: float) -> bool:
        return any(self.free[target.provider] > 0 for target in targets)

    def on_room(self, targets: Iterable[Target], tell: Callable[[], None]) -> None:
        self.tell = tell

    def take(self, targets: Iterable[Target]) -> str:
        """Take a slot and return its provider. One must be free."""
        name = next(target.provider for target in targets if self.free[target.provider] > 0)
        self.free[name] -= 1
        return name

    def give(self, name: str = "one") -> None:
        """Free a slot."""
        self.free[name] += 1
        if self.tell is not None:
            self.tell()


class QueueHarness:
    """The queue, the slots, and the requests by number."""

    def __init__(self, places: int = 0, options: AdmissionOptions | None = None, **free: int) -> None:
        self.places = FakeFleet(**{"one": places, **free})
        self.events: list[QueueLeft] = []
        self.service_times = ServiceTimes()
        self.queue = Queue(options or AdmissionOptions(), self.service_times, Events(self._note))
        self.inside: list[int] = []  # in the order of admission
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.errors: dict[int, Any] = {}
        self.ended_s: dict[int, float] = {}

    def _note(self, event: Event) -> None:
        assert isinstance(event, QueueLeft)
        self.events.append(event)

    async def come(
        self,
        number: int,
        priority: Priority = Priority.NORMAL,
        *,
        within_s: float = LONG_S,
        targets: Sequence[Target] = (ONE,),
        route: str = "chat",
    ) -> None:
        """Start a request; return when it waits, or has a slot."""
        body = ChatBody("chat", [], stream=True)
        request = ChatRequest(f"req_{number}", Caller("someone", priority), body, {})
        timeouts = Timeouts(clock.now() + within_s)
        context = RequestContext(request, route, TimeoutOptions(), RejectPatterns(()), timeouts, clock.now())
        self.tasks[number] = asyncio.create_task(self._one(number, context, targets))
        await settle()

    async def _one(self, number: int, context: RequestContext, targets: Sequence[Target]) -> None:
        try:
            places = cast(Fleet, self.places)
            if not self.queue.may_pass(places, targets, clock.now()):
                await self.queue.wait(context, places, targets)
            self.places.take(targets)
            self.inside.append(number)
        except GatewayError as error:
            self.errors[number] = error
        finally:
            self.ended_s[number] = clock.now()

    async def leave(self, number: int) -> None:
        """Let the client of a request leave."""
        self.tasks[number].cancel()
        await asyncio.wait({self.tasks[number]})

    async def close(self) -> None:
        """Let all clients leave."""
        for number in self.tasks:
            await self.leave(number)
        await asyncio.sleep(1.0)


async def settle() -> None:
    """Run all tasks that can run without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)
