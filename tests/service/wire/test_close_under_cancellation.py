"""A closed response gives its connection and its slot back, whoever is cancelled meanwhile, and how often."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from dub5.service.failover.body import ResponseBody
from dub5.service.timeouts import Timeouts
from dub5.service.wire.base import Slots, WireRequest
from dub5.service.wire.httpx_wire import HttpxWire
from dub5.simulators.script import Data, Hang, Head
from dub5.simulators.server.sockets import serve
from tests.support.wires import CountedProvider, call, make

pytestmark = pytest.mark.real_sockets
ENDLESS = (Head(200, {"content-type": "text/event-stream"}), Data(b"data"), Hang())
TURNS = range(1, 7)  # of the loop, after which the caller is cancelled


async def cancelled_after(turns: int, task: asyncio.Task[None], times: int = 3) -> None:
    """Cancel a task after some turns of the loop, and then once in each turn."""
    for _ in range(turns):
        await asyncio.sleep(0)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("turns", TURNS)
async def test_a_close_that_is_cancelled(kind: str, turns: int) -> None:
    """The provider sees the end of the connection although the closing task was cancelled in its midst."""
    provider, slots = CountedProvider(*ENDLESS), Slots(1)
    async with serve(provider) as server:
        wire = make(kind, slots)
        response = await wire.send(call(server.url))
        assert await response.read() == b"data"
        await cancelled_after(turns, asyncio.create_task(response.aclose()))
        async with asyncio.timeout(5):
            await provider.over.wait()
            await slots.take(call(server.url).origin, 5)
        await wire.aclose()


@pytest.mark.parametrize("turns", TURNS)
async def test_a_read_that_is_cancelled_again_while_it_closes(kind: str, turns: int) -> None:
    """A second cancellation, as of a client that leaves at a deadline, does not cut what the first began."""
    provider, slots = CountedProvider(*ENDLESS), Slots(1)
    async with serve(provider) as server:
        wire = make(kind, slots)
        response = await wire.send(call(server.url))
        assert await response.read() == b"data"
        reading: asyncio.Task[None] = asyncio.create_task(response.read())  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        reading.cancel()
        await cancelled_after(turns, reading)
        async with asyncio.timeout(5):
            await provider.over.wait()
            await slots.take(call(server.url).origin, 5)
        await wire.aclose()


@pytest.mark.parametrize("turns", TURNS)
async def test_a_call_that_is_cancelled_again_before_its_head(kind: str, turns: int) -> None:
    """A call that waits for its head ends at the provider too, however often its caller is cancelled."""
    provider, slots = CountedProvider(Hang()), Slots(1)
    async with serve(provider) as server:
        wire = make(kind, slots)
        sending: asyncio.Task[None] = asyncio.create_task(wire.send(call(server.url)))  # type: ignore[arg-type]
        async with asyncio.timeout(5):
            await provider.began.wait()
        sending.cancel()
        await cancelled_after(turns, sending)
        async with asyncio.timeout(5):
            await provider.over.wait()
            await slots.take(call(server.url).origin, 5)
        await wire.aclose()


@pytest.mark.parametrize("turns", TURNS)
async def test_a_body_that_is_closed_while_it_is_read_ahead(kind: str, turns: int) -> None:
    """A cancelled `ResponseBody.close` closes too: while it ends a late read, and while it lingers."""
    provider = CountedProvider(*ENDLESS, until=2)
    async with serve(provider) as server:
        wire = make(kind)
        late, lingering = [ResponseBody(await wire.send(call(server.url))) for _ in range(2)]
        for body in (late, lingering):
            assert await body.read() == b"data"
        assert await late.read_within(0.01) is None

        async def linger() -> None:
            await lingering.close(Timeouts(asyncio.get_running_loop().time() + 10))

        await cancelled_after(turns, asyncio.create_task(late.close(None)))
        await cancelled_after(turns, asyncio.create_task(linger()))
        async with asyncio.timeout(5):
            await provider.over.wait()
        await wire.aclose()


class SlowToClose(httpx.AsyncByteStream):
    """A body whose close takes several turns of the loop."""

    closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"data"

    async def aclose(self) -> None:
        await asyncio.sleep(0.05)
        self.closed = True


class OneAnswer(httpx.AsyncBaseTransport):
    """Answers with one body."""

    def __init__(self, body: SlowToClose) -> None:
        self.body = body

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=self.body)


async def test_a_wire_waits_for_the_closes_that_are_under_way() -> None:
    """A cancelled close goes on, and `Wire.aclose` ends after it: nothing is left to the loop's end."""
    transport = OneAnswer(SlowToClose())
    wire = HttpxWire(transport)
    response = await wire.send(WireRequest("POST", "http://one.test/v1/chat", {}, b"{}"))
    await cancelled_after(2, asyncio.create_task(response.aclose()))
    assert not transport.body.closed
    await wire.aclose()
    assert transport.body.closed
