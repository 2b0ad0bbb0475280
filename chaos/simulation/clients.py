"""Simulated clients: each sends its request when planned, reads at its own pace, may leave, and judges the
reply."""

import asyncio
import contextvars
from collections.abc import Sequence

from dub5.chaos.run.endpoint import CHAT
from dub5.chaos.run.judge import LEFT, ClientOutcome, EmbeddingReader, Ending, ReplyReader, Stop
from dub5.chaos.simulation.invariants.record import CURRENT_REQUEST, RequestRecord, RunRecord
from dub5.chaos.simulation.life import Lives
from dub5.chaos.simulation.world.model import World
from dub5.chaos.simulation.world.requests import PlannedRequest
from dub5.simulators.virtual import AppClient, AppFault, AppStream

EMBEDDINGS = "/v1/embeddings"
PATIENCE_S = 5.0  # after the deadline a request without an end counts as hung
SLOW_S = 400.0  # more, for a client that reads slowly


class WorldClients:
    """All clients of a run. Slow readers use a connection with a small buffer."""

    def __init__(self, lives: Lives, record: RunRecord, world: World) -> None:
        self._lives = lives
        self._record = record
        self._world = world

    async def send_all(self, planned_requests: Sequence[PlannedRequest]) -> None:
        """Send all planned requests. Return when the last client has ended."""
        loop = asyncio.get_running_loop()
        running: dict[asyncio.Task[None], None] = {}
        for plan in planned_requests:
            await asyncio.sleep(plan.at_s - loop.time())
            task = asyncio.create_task(self._send(plan), name=f"client {plan.number}")
            running[task] = None
            task.add_done_callback(running.pop)
        while running:
            await asyncio.wait(list(running))

    async def _send(self, plan: PlannedRequest) -> None:
        if not self._lives.is_up:
            await self._lives.up()
        began_s = asyncio.get_running_loop().time()
        total_s = self._world.tuning_at(began_s).timeouts.total_s
        request = RequestRecord(
            plan, began_s + min(plan.deadline_s, total_s), began_s, generation=self._world.generation(began_s)
        )
        self._record.requests[plan.number] = request
        self._record.log(f"#{plan.number} asks {plan.route}{' stream' if plan.stream else ''}")
        life = self._lives.now
        await SimulatedClient(request, life.slow_client if plan.pause_s else life.client, self._record).run()


class SimulatedClient:
    """One client with one request."""

    def __init__(self, request: RequestRecord, client: AppClient, record: RunRecord) -> None:
        self._request = request
        self._client = client
        self._record = record
        self._loop = asyncio.get_running_loop()
        self._reader: ReplyReader | None = None

    async def run(self) -> None:
        """Send the request and follow it to its end."""
        request, plan, now_s = self._request, self._request.plan, self._loop.time()
        hung_s = request.deadline_s + PATIENCE_S + (SLOW_S if plan.pause_s else 0.0)
        leave_s = now_s + plan.leave_s if plan.leave_s is not None else hung_s
        leave_timer = self._loop.call_at(min(leave_s, hung_s), self._left)
        try:
            async with asyncio.timeout_at(min(leave_s, hung_s)):
                ending = await self._exchange()
        except TimeoutError:
            ending = LEFT if leave_s < hung_s else Ending(ClientOutcome.HUNG, "no_end_in_time")
        except AppFault as fault:
            ending = Ending(ClientOutcome.DISHONEST, str(fault))
        finally:
            leave_timer.cancel()
        request.client_ending, request.client_ended_s = ending, self._loop.time()
        if self._reader is not None:
            request.text, request.content_seen = self._reader.text, self._reader.content_seen
        self._record.log(f"#{plan.number} is {ending.outcome} {ending.reason}")

    async def _exchange(self) -> Ending:
        plan = self._request.plan
        context = contextvars.Context()
        context.run(CURRENT_REQUEST.set, plan.number)
        path = EMBEDDINGS if plan.embed else CHAT
        async with self._client.stream(
            "POST", path, json=plan.body(), headers=plan.headers(), context=context
        ) as reply:
            self._request.headers, self._request.status = reply.headers, reply.status
            reader = self._reader = (
                EmbeddingReader(reply.status, plan.prompt)
                if plan.embed
                else ReplyReader(reply.status, plan.prompt, stream=plan.stream)
            )
            return await self._read(reply, reader)

    async def _read(self, reply: AppStream, reader: ReplyReader) -> Ending:
        request, plan = self._request, self._request.plan
        try:
            while data := await reply.read():
                reader.feed(data)
                request.receive(self._loop.time(), content_seen=reader.content_seen)
                if plan.leave_words is not None and reader.text.count(" ") >= plan.leave_words:
                    self._left()
                    return LEFT
                if plan.pause_s:
                    await asyncio.sleep(plan.pause_s)
        except AppFault:
            return reader.end(Stop.BROKEN)
        return reader.end(Stop.END)

    def _left(self) -> None:
        self._request.left_s = self._loop.time()
        self._record.log(f"#{self._request.plan.number} leaves")
