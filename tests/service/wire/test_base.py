import asyncio

import pytest

from dub5.service.wire.base import FailureKind, Slots, Stage, WireFailure, WireRequest, origin_of

ONE, OTHER = "http://one.test:80", "https://other.test:443"


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://one.test/v1?x=1", ONE),
        ("https://other.test/v1", OTHER),
    ],
)
def test_origin(url: str, origin: str) -> None:
    """An origin always has its port, never a path or query."""
    assert origin_of(url) == origin


def test_secrets() -> None:
    """A request can be logged: neither its key nor what the user wrote is in it."""
    request = WireRequest("POST", ONE, {"authorization": "Bearer sk-secret"}, b"my diary")
    assert "secret" not in repr(request) and "diary" not in repr(request)


class TestSlots:
    async def test_waits_for_a_place(self) -> None:
        """A call that waits for a slot gets the freed one, and waits no longer than pool_s."""
        slots, loop = Slots(1), asyncio.get_running_loop()
        slot = await slots.take(ONE, 0)
        loop.call_later(0.5, slot.free)
        await slots.take(ONE, 1.0)
        assert loop.time() == 0.5
        with pytest.raises(WireFailure) as full:
            await slots.take(ONE, 1.0)
        assert (full.value.stage, full.value.kind, full.value.sent) == (
            Stage.POOL,
            FailureKind.TIMEOUT,
            False,
        )
        assert loop.time() == 1.5

    async def test_each_origin_has_its_own(self) -> None:
        """A dead host that holds all its places takes none from another."""
        slots = Slots(1)
        await slots.take(ONE, 0)
        await slots.take(OTHER, 0)

    async def test_given_back_twice(self) -> None:
        """A slot freed twice is free once."""
        slots = Slots(1)
        slot = await slots.take(ONE, 0)
        slot.free()
        slot.free()
        await slots.take(ONE, 0)
        with pytest.raises(WireFailure):
            await slots.take(ONE, 0)

    async def test_leaving_while_waiting(self) -> None:
        """A waiter that is cancelled, even in the instant it is served, costs no place."""
        slots = Slots(1)
        slot = await slots.take(ONE, 0)
        waiting = asyncio.create_task(slots.take(ONE, 10))
        await asyncio.sleep(1)
        slot.free()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await slots.take(ONE, 0)
