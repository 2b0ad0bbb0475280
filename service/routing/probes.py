"""Recovery without traffic: a target that is due for a probe, and that nobody asks, is asked by us.

Only targets in trouble are asked, as often as their breaker allows: up to 15 s apart, 60 s where the host is gone. A
probe is a short chat, left at its first content, on the same way as any request: its guards hear how it went.
"""

import asyncio
from collections.abc import Callable, Mapping
from random import Random

from msgspec import Raw

from service import clock
from service.attempt.clocks import Watch
from service.attempt.notice import Notices
from service.attempt.run import Runner
from service.attempt.tries import Task
from service.chat import Caller, ChatBody, ChatRequest, Message, Target
from service.options import Clocks, ProbeOptions

LOOK_EVERY_S = 1.0
ASKED = "Reply with one word: ok"
BODY = ChatBody("probe", [Message("user", ASKED)], stream=True)
FIELDS = {
    "model": Raw(b'"probe"'),
    "messages": Raw(b'[{"role":"user","content":"' + ASKED.encode() + b'"}]'),
    "stream": Raw(b"true"),
}
ROUTE = "probe"


class Prober:
    """Asks forgotten targets. `clocks`: of a route that each target belongs to."""

    def __init__(
        self,
        runner: Runner,
        clocks: Mapping[Target, Clocks],
        options: ProbeOptions,
        dice: Random,
        new_id: Callable[[], str],
    ) -> None:
        self._runner = runner
        self._clocks = clocks
        self._options = options
        self._dice = dice
        self._new_id = new_id

    async def run(self) -> None:
        """For ever, until cancelled."""
        async with asyncio.TaskGroup() as probes:
            while self._options.enabled:
                await asyncio.sleep(
                    LOOK_EVERY_S * self._dice.uniform(0.5, 1.0)
                )  # many instances must not beat as one
                for target in self._runner.fleet.forgotten(clock.now(), self._options.idle_s):
                    probes.create_task(self._probe(target), name=f"probe {target.name}")

    async def _probe(self, target: Target) -> None:
        clocks, now_s = self._clocks[target], clock.now()
        request = ChatRequest(self._new_id(), Caller(ROUTE), BODY, FIELDS, cache_allowed=False)
        watch = Watch(now_s + clocks.first_token_s + clocks.connect_s)
        try:
            await self._runner.probe(Task(request, ROUTE, clocks, Notices(()), watch, now_s), target)
        finally:
            watch.close()
