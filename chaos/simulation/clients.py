"""The clients: they ask when the plan says, read slowly or at once, leave when they like, and judge what they got."""

import asyncio
import contextvars
from collections.abc import Sequence

from dub5.chaos.run.endpoint import CHAT
from dub5.chaos.run.judge import Ending, Outcome, Reading, Stop
from dub5.chaos.simulation.invariants.record import ASKED, Books, Case
from dub5.chaos.simulation.world.model import World
from dub5.chaos.simulation.world.requests import Ask
from dub5.simulators.virtual import AppClient, AppFault, Reply

PATIENCE_S = 5.0  # beyond the deadline, and beyond what a slow reader takes: then a request hangs
SLOW_S = 400.0
LEFT = Ending(Outcome.CANCELLED, "left")


class Clients:
    """Everybody who asks. Slow readers have a door of their own, with little room before it."""

    def __init__(self, door: AppClient, narrow: AppClient, books: Books, world: World) -> None:
        self._door = door
        self._narrow = narrow
        self._books = books
        self._world = world

    async def send_all(self, asks: Sequence[Ask]) -> None:
        """The whole plan; returns when the last one has ended."""
        loop = asyncio.get_running_loop()
        running: dict[asyncio.Task[None], None] = {}
        for ask in asks:
            await asyncio.sleep(ask.at_s - loop.time())
            task = asyncio.create_task(self._send(ask), name=f"client {ask.number}")
            running[task] = None
            task.add_done_callback(running.pop)
        while running:
            await asyncio.wait(list(running))

    async def _send(self, ask: Ask) -> None:
        began_s = asyncio.get_running_loop().time()
        total_s = self._world.tuning_at(began_s).clocks.total_s
        case = Case(
            ask, began_s + min(ask.deadline_s, total_s), began_s, generation=self._world.generation(began_s)
        )
        self._books.cases[ask.number] = case
        self._books.tell(f"#{ask.number} asks {ask.route}{' stream' if ask.stream else ''}")
        await Client(case, self._narrow if ask.pause_s else self._door, self._books).run()


class Client:
    """One request of one client."""

    def __init__(self, case: Case, door: AppClient, books: Books) -> None:
        self._case = case
        self._door = door
        self._books = books
        self._loop = asyncio.get_running_loop()
        self._reading: Reading | None = None

    async def run(self) -> None:
        """To its end."""
        case, ask, now_s = self._case, self._case.ask, self._loop.time()
        hung_s = case.deadline_s + PATIENCE_S + (SLOW_S if ask.pause_s else 0.0)
        leave_s = now_s + ask.leave_s if ask.leave_s is not None else hung_s
        leaves = self._loop.call_at(min(leave_s, hung_s), self._left)
        try:
            async with asyncio.timeout_at(min(leave_s, hung_s)):
                ending = await self._exchange()
        except TimeoutError:
            ending = LEFT if leave_s < hung_s else Ending(Outcome.HUNG, "no_end_in_time")
        except AppFault as fault:
            ending = Ending(Outcome.DISHONEST, str(fault))
        finally:
            leaves.cancel()
        case.ending, case.ending_s = ending, self._loop.time()
        if self._reading is not None:
            case.text, case.content_seen = self._reading.text, self._reading.content_seen
        self._books.tell(f"#{ask.number} is {ending.outcome} {ending.reason}")

    async def _exchange(self) -> Ending:
        ask = self._case.ask
        context = contextvars.Context()
        context.run(ASKED.set, ask.number)
        async with self._door.stream(
            "POST", CHAT, json=ask.body(), headers=ask.headers(), context=context
        ) as reply:
            self._case.headers = reply.headers
            reading = self._reading = Reading(reply.status, ask.prompt, stream=ask.stream)
            return await self._read(reply, reading)

    async def _read(self, reply: Reply, reading: Reading) -> Ending:
        case, ask = self._case, self._case.ask
        heard_s = case.began_s
        try:
            while data := await reply.read():
                reading.feed(data)
                now_s = self._loop.time()
                case.silent_s, heard_s = max(case.silent_s, now_s - heard_s), now_s
                if reading.content_seen and not case.content_s:
                    case.content_s = now_s
                if ask.leave_words is not None and reading.text.count(" ") >= ask.leave_words:
                    self._left()
                    return LEFT
                if ask.pause_s:
                    await asyncio.sleep(ask.pause_s)
        except AppFault:
            return reading.end(Stop.BROKEN)
        return reading.end(Stop.END)

    def _left(self) -> None:
        self._case.left_s = self._loop.time()
        self._books.tell(f"#{self._case.ask.number} leaves")
