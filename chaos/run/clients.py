"""The clients of a run: each request starts when planned and is followed to its end, on any event loop's
time."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dub5.chaos.run.endpoint import Endpoint, EndpointReply, EndpointUnreachable
from dub5.chaos.run.journal import RequestResult
from dub5.chaos.run.judge import NO_REPLY, ClientOutcome, Ending, ReplyReader, Stop
from dub5.chaos.scenario.model import Workload
from dub5.chaos.scenario.workload import ScenarioRequest
from dub5.simulators.answers import prompt_tag

GRACE_S = 1.0  # after the deadline, for the reply to arrive


@dataclass(frozen=True, slots=True)
class ScenarioClients:
    """All clients of a run. `began_s`: the loop's time at which the plan starts; `on_end` receives each
    result."""

    endpoint: Endpoint
    workload: Workload
    began_s: float
    on_end: Callable[[RequestResult], None]

    async def send_all(self, requests: Sequence[ScenarioRequest]) -> None:
        """Send all planned requests. Return when the last one has ended."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            for request in requests:
                await asyncio.sleep(self.began_s + request.at_s - loop.time())
                group.create_task(self._send(request), name=f"client {request.number}")

    async def _send(self, request: ScenarioRequest) -> None:
        exchange = _Exchange(self, request)
        try:
            async with asyncio.timeout(self.workload.deadline_s + GRACE_S):
                ending = await exchange.run()
        except TimeoutError:
            ending = Ending(ClientOutcome.HUNG, "no_end_in_time")
        self.on_end(exchange.result(ending))


class _Exchange:
    """One request and its reply."""

    def __init__(self, clients: ScenarioClients, request: ScenarioRequest) -> None:
        self._clients = clients
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._due_s = clients.began_s + request.at_s
        self._late_s = self._loop.time() - self._due_s
        self._reader: ReplyReader | None = None
        self._first_token_s: float | None = None
        self._reply: EndpointReply | None = None

    async def run(self) -> Ending:
        """Send the request and read its reply to the end."""
        workload, request = self._clients.workload, self._request
        headers = {"x-deadline-ms": str(round(workload.deadline_s * 1000))}
        try:
            async with self._clients.endpoint.chat(request.body(), headers) as reply:
                self._reply = reply
                self._reader = ReplyReader(reply.status, request.prompt, stream=request.stream)
                return self._reader.end(await self._read(reply, self._reader))
        except EndpointUnreachable:
            return NO_REPLY

    async def _read(self, reply: EndpointReply, reader: ReplyReader) -> Stop:
        try:
            while data := await reply.read():
                reader.feed(data)
                if reader.content_seen and self._first_token_s is None:
                    self._first_token_s = self._since_due_s()
        except EndpointUnreachable:
            return Stop.BROKEN
        return Stop.END

    def result(self, ending: Ending) -> RequestResult:
        """Return the result of the request."""
        headers = self._reply.headers if self._reply else {}
        labelled = headers.get("x-dub5-target", "").partition("/")[0]
        return RequestResult(
            number=self._request.number,
            at_s=round(self._request.at_s, 4),
            late_s=round(self._late_s, 4),
            stream=self._request.stream,
            outcome=ending.outcome,
            reason=ending.reason,
            provider=(self._reader.answered_by if self._reader else "") or labelled,
            first_token_s=self._first_token_s,
            total_s=self._since_due_s(),
            tag=prompt_tag(self._request.prompt),
            id=headers.get("x-request-id", ""),
            trail=headers.get("x-dub5-trail", ""),
            route=self._request.route,
        )

    def _since_due_s(self) -> float:
        return round(self._loop.time() - self._due_s, 4) + 0.0  # no -0.0
