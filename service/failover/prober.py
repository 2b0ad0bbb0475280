"""Recovery without traffic: a target that is due for a probe, and that nobody asks, is asked by us.

Only targets in trouble are asked, as often as their breaker allows: up to 15 s apart, 60 s where the host is gone. A
probe is what the target was last asked for, in short: a chat that is left at its first content, or one vector. It goes
the way of any request: the target's guards hear how it went.
"""

import asyncio
from collections.abc import Callable, Mapping
from random import Random

from msgspec import Raw

from dub5.service import clock
from dub5.service.config.options import Clocks, ProbeOptions
from dub5.service.failover.context import Task
from dub5.service.failover.loop import Runner
from dub5.service.failover.rejected_content import Notices
from dub5.service.model import Asked, Caller, ChatBody, ChatRequest, EmbedBody, EmbedRequest, Message, Target
from dub5.service.timeouts import Watch

LOOK_EVERY_S = 1.0
ASKED = "Reply with one word: ok"
MODEL = Raw(b'"probe"')
CHAT = ChatBody("probe", [Message("user", ASKED)], stream=True)
CHAT_FIELDS = {
    "model": MODEL,
    "messages": Raw(b'[{"role":"user","content":"' + ASKED.encode() + b'"}]'),
    "stream": Raw(b"true"),
}
VECTOR = EmbedBody("probe", "ok")
VECTOR_FIELDS = {"model": MODEL, "input": Raw(b'"ok"')}
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
        request = self._request(target)
        watch = Watch(now_s + clocks.first_token_s + clocks.connect_s)
        try:
            await self._runner.probe(Task(request, ROUTE, clocks, Notices(()), watch, now_s), target)
        finally:
            watch.close()

    def _request(self, target: Target) -> Asked:
        new_id, caller = self._new_id(), Caller(ROUTE)
        if self._runner.means.asked_for.get(target) == EmbedRequest.operation:
            return EmbedRequest(new_id, caller, VECTOR, VECTOR_FIELDS)
        return ChatRequest(new_id, caller, CHAT, CHAT_FIELDS, cache_allowed=False)
