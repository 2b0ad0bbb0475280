"""A provider has a number of slots; other requests queue, and work for clients that left ends or goes on."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest

from dub5.service.wire.base import WireRequest
from dub5.simulators.limits.concurrency import Capacity
from dub5.simulators.provider import SimulatedProvider, make
from dub5.simulators.server.sockets import serve
from dub5.simulators.settings import build
from dub5.simulators.virtual import VirtualWire
from tests.support.play import ASK

SERVICE_S = 10.0  # of every request: a stall before the first token
STALL = {"kind": "stall", "before": "first_token", "s": SERVICE_S}


def provider(stall: dict[str, Any] = STALL, **capacity: Any) -> SimulatedProvider:
    table = {"name": "one", "persona": "openai", "capacity": capacity, "fault": [stall]}
    file = {"latency": "zero", "provider": [table]}
    return make(build(file), now=asyncio.get_running_loop().time)[0]["one"]


async def ask(wire: VirtualWire, leaves_after_s: float | None = None) -> tuple[int, int]:
    """Return the status and the second of the end."""
    loop = asyncio.get_running_loop()
    request = WireRequest("POST", "http://one/v1/chat/completions", {}, json.dumps(ASK).encode(), pool_s=1e6)
    try:
        async with asyncio.timeout(leaves_after_s):
            response = await wire.send(request)
            while await response.read():
                pass
    except TimeoutError:
        return 0, int(loop.time())
    return response.status, int(loop.time())


async def in_turn(*calls: Coroutine[Any, Any, tuple[int, int]]) -> list[tuple[int, int]]:
    """Start the calls one after another, a moment apart."""
    tasks = []
    for call in calls:
        tasks.append(asyncio.create_task(call))
        await asyncio.sleep(0.001)
    return [await task for task in tasks]


async def test_two_slots_five_requests() -> None:
    """Two slots serve five requests in the order of arrival; none is rejected."""
    wire = VirtualWire({"http://one": provider(slots=2)})
    ends = await in_turn(*(ask(wire) for _ in range(5)))
    assert ends == [(200, 10), (200, 10), (200, 20), (200, 20), (200, 30)]


async def test_full_line() -> None:
    """With a queue of one the third request is rejected at once, in the provider's own words, and in the
    ledger."""
    one = provider(slots=1, queue_max=1)
    wire = VirtualWire({"http://one": one})
    ends = await in_turn(*(ask(wire) for _ in range(3)))
    assert ends == [(200, 10), (200, 20), (503, 0)]
    assert [line.faults for line in one.ledger.lines()] == [("stall", "queue_full"), ("stall",), ("stall",)]


@pytest.mark.parametrize("abandons, end_s", [(True, 13), (False, 20)])
async def test_client_leaves(abandons: bool, end_s: float) -> None:
    """A server that abandons frees the slot when its client leaves; another one finishes its work first."""
    wire = VirtualWire({"http://one": provider(slots=1, abandons=abandons)})
    ends = await in_turn(ask(wire, leaves_after_s=3), ask(wire))
    assert ends == [(0, 3), (200, end_s)]


async def test_leaves_the_line() -> None:
    """A client that leaves the queue takes no slot, and those behind it move up."""
    wire = VirtualWire({"http://one": provider(slots=1, abandons=False)})
    ends = await in_turn(ask(wire), ask(wire, leaves_after_s=4), ask(wire))
    assert ends == [(200, 10), (0, 4), (200, 20)]


async def test_provider_that_is_gone_needs_no_slot() -> None:
    """An error page needs no slot, however long the queue."""
    one = provider(slots=1)
    wire = VirtualWire({"http://one": one})
    served = asyncio.create_task(ask(wire))
    await asyncio.sleep(1)
    one.set_faults([])
    assert await ask(wire, leaves_after_s=1) == (0, 2)
    from_now = {"kind": "status", "status": 530}
    broken = provider(from_now, slots=1)
    assert await ask(VirtualWire({"http://one": broken})) == (530, 2)
    assert await served == (200, 10)


class TestChanges:
    async def test_halved(self) -> None:
        """With fewer slots, requests keep theirs; no new one is served until fewer are busy than the new
        number."""
        one = provider(slots=4)
        wire = VirtualWire({"http://one": one})
        calls = [asyncio.create_task(ask(wire)) for _ in range(4)]
        await asyncio.sleep(5)
        calls += [asyncio.create_task(ask(wire)) for _ in range(3)]
        await asyncio.sleep(0)
        one.set_capacity(Capacity(slots=2))
        await asyncio.sleep(0)
        assert one.slot_queue.snapshot() == {"busy": 4, "unseen": 0, "waiting": 3}
        assert sorted([await call for call in calls]) == [(200, 10)] * 4 + [(200, 20)] * 2 + [(200, 30)]

    async def test_raised(self) -> None:
        """With more slots, all queued requests for which there is a slot are served at once."""
        one = provider(slots=1)
        wire = VirtualWire({"http://one": one})
        calls = [asyncio.create_task(ask(wire)) for _ in range(4)]
        await asyncio.sleep(4)
        one.set_capacity(Capacity(slots=3))
        assert sorted([await call for call in calls]) == [(200, 10), (200, 14), (200, 14), (200, 20)]

    async def test_from_no_bound_and_back(self) -> None:
        """Requests that came without a limit count; None restores the capacity of the start."""
        one = provider()
        wire = VirtualWire({"http://one": one})
        calls = [asyncio.create_task(ask(wire)) for _ in range(3)]
        await asyncio.sleep(2)
        one.set_capacity(Capacity(slots=1, queue_max=1))
        calls += [asyncio.create_task(ask(wire)) for _ in range(2)]
        await asyncio.sleep(2)
        one.set_capacity()
        assert sorted([await call for call in calls]) == [(200, 10)] * 3 + [(200, 14), (503, 2)]


@pytest.mark.real_sockets
@pytest.mark.parametrize("abandons", [True, False])
async def test_on_sockets(abandons: bool) -> None:
    """On real sockets the queue moves when a client leaves, or when its work is done."""
    loop = asyncio.get_running_loop()
    stall_s = 0.4
    one = provider({"kind": "stall", "before": "head", "s": stall_s}, slots=1, abandons=abandons)

    async def fetch(url: str, leaves_after_s: float | None) -> float:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps(ASK)
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        try:
            async with asyncio.timeout(leaves_after_s):
                await reader.read()
        except TimeoutError:
            pass
        writer.close()
        await writer.wait_closed()
        return loop.time()

    async with serve(one) as server:
        begun_s = loop.time()
        calls = [asyncio.create_task(fetch(server.url, 0.05))]
        while not one.ledger.open:
            await asyncio.sleep(0.001)
        calls.append(asyncio.create_task(fetch(server.url, None)))
        _, second_s = [at_s - begun_s for at_s in await asyncio.gather(*calls)]
    assert (stall_s < second_s < 2 * stall_s) if abandons else second_s >= 2 * stall_s
