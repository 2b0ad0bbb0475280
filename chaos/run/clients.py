"""The clients: each request starts when the plan says, and is followed to its end. Runs on any event loop's time."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dub5.chaos.run.endpoint import Door, Reply, Unreachable
from dub5.chaos.run.journal import Seen
from dub5.chaos.run.judge import NO_REPLY, Ending, Outcome, Reading, Stop
from dub5.chaos.scenario.model import Workload
from dub5.chaos.scenario.workload import Ask
from dub5.simulators.answers import prompt_tag

GRACE_S = 1.0  # beyond the deadline: an answer needs a moment to travel


@dataclass(frozen=True, slots=True)
class Clients:
    """Everybody who asks. `began_s` is the loop's time at which the plan starts; `tell` hears of every end."""

    door: Door
    workload: Workload
    began_s: float
    tell: Callable[[Seen], None]

    async def send_all(self, asks: Sequence[Ask]) -> None:
        """The whole plan; returns when the last request has ended."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            for ask in asks:
                await asyncio.sleep(self.began_s + ask.at_s - loop.time())
                group.create_task(self._send(ask), name=f"client {ask.number}")

    async def _send(self, ask: Ask) -> None:
        exchange = _Exchange(self, ask)
        try:
            async with asyncio.timeout(self.workload.deadline_s + GRACE_S):
                ending = await exchange.run()
        except TimeoutError:
            ending = Ending(Outcome.HUNG, "no_end_in_time")
        self.tell(exchange.seen(ending))


class _Exchange:
    """One request."""

    def __init__(self, clients: Clients, ask: Ask) -> None:
        self._clients = clients
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._due_s = clients.began_s + ask.at_s
        self._late_s = self._loop.time() - self._due_s
        self._reading: Reading | None = None
        self._first_token_s: float | None = None
        self._reply: Reply | None = None

    async def run(self) -> Ending:
        """To its end."""
        workload, ask = self._clients.workload, self._ask
        headers = {"x-deadline-ms": str(round(workload.deadline_s * 1000))}
        try:
            async with self._clients.door.ask(ask.body(), headers) as reply:
                self._reply = reply
                self._reading = Reading(reply.status, ask.prompt, stream=ask.stream)
                return self._reading.end(await self._read(reply, self._reading))
        except Unreachable:
            return NO_REPLY

    async def _read(self, reply: Reply, reading: Reading) -> Stop:
        try:
            while data := await reply.read():
                reading.feed(data)
                if reading.content_seen and self._first_token_s is None:
                    self._first_token_s = self._since_due_s()
        except Unreachable:
            return Stop.BROKEN
        return Stop.END

    def seen(self, ending: Ending) -> Seen:
        """What there is to say of it now."""
        headers = self._reply.headers if self._reply else {}
        said = headers.get("x-dub5-target", "").partition("/")[0]
        return Seen(
            number=self._ask.number,
            at_s=round(self._ask.at_s, 4),
            late_s=round(self._late_s, 4),
            stream=self._ask.stream,
            outcome=ending.outcome,
            reason=ending.reason,
            provider=(self._reading.answered_by if self._reading else "") or said,
            first_token_s=self._first_token_s,
            total_s=self._since_due_s(),
            tag=prompt_tag(self._ask.prompt),
            id=headers.get("x-request-id", ""),
            trail=headers.get("x-dub5-trail", ""),
            route=self._ask.route,
        )

    def _since_due_s(self) -> float:
        return round(self._loop.time() - self._due_s, 4) + 0.0  # no -0.0
