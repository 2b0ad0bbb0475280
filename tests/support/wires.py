"""Calls over each wire, and providers on sockets that answer as a test writes it down."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator

import pytest

from dub5.service.wire.base import (
    CONNECTION_AGE_S,
    FailureKind,
    Slots,
    Stage,
    Wire,
    WireFailure,
    WireRequest,
    WireResponse,
)
from dub5.service.wire.httpx_wire import HttpxWire
from dub5.service.wire.native_wire import NativeWire
from dub5.simulators.script import Action, Data, End, Head, Respond, SimRequest

SOON_S = 10.0  # what takes longer hangs
SIZED = Head(200, {"Content-Length": "4"})
WHOLE: list[Action] = [SIZED, Data(b"data"), End()]


WIRES: dict[str, Callable[..., Wire]] = {"native": NativeWire, "httpx": HttpxWire}


def make(
    kind: str,
    slots: Slots | None = None,
    tls: ssl.SSLContext | None = None,
    age_max_s: float = CONNECTION_AGE_S,
) -> Wire:
    """Return a new wire of this kind."""
    wire = WIRES[kind.partition(" ")[0]]
    return wire(slots=slots, tls=tls, connection_age_max_s=age_max_s)


def plays(*actions: Action) -> Respond:
    """Play these actions for every request."""
    return lambda request: (action for action in actions)


def in_turn(*scripts: list[Action]) -> Respond:
    """Play the first script for the first request, and so on."""
    left = iter(scripts)
    return lambda request: iter(next(left))


def call(url: str, *, fresh: bool = False, body: bytes = b"{}") -> WireRequest:
    """Return a request to this provider."""
    headers = {"authorization": "Bearer k", "content-type": "application/json"}
    return WireRequest("POST", f"{url}/v1/chat?x=1", headers, body, pool_s=0.01, connect_s=5, fresh=fresh)


class CountedProvider:
    """A provider that sets `began` with its first answer, and `over` when `until` answers have ended."""

    def __init__(self, *actions: Action, until: int = 1) -> None:
        self.over = asyncio.Event()
        self.began = asyncio.Event()
        self._actions = actions
        self._left = until

    def __call__(self, request: SimRequest) -> Iterator[Action]:
        try:
            self.began.set()
            yield from self._actions
        finally:
            self._left -= 1
            if self._left == 0:
                self.over.set()


async def pieces(response: WireResponse) -> list[bytes]:
    """Read a response to its end and return its pieces."""
    got = []
    while data := await response.read():
        got.append(data)
    await response.aclose()
    return got


async def whole(wire: Wire, request: WireRequest) -> bytes:
    """Send a request and return the whole body of its response."""
    return b"".join(await pieces(await wire.send(request)))


async def failure(awaitable: Awaitable[object]) -> WireFailure:
    """Return the failure that this raises."""
    with pytest.raises(WireFailure) as caught:
        await awaitable
    return caught.value


def summary(failure: WireFailure) -> tuple[Stage, FailureKind, bool, bool]:
    """Return its stage, its kind, whether bytes were sent, and whether the connection was reused."""
    return failure.stage, failure.kind, failure.sent, failure.reused


async def is_free(slots: Slots, url: str) -> bool:
    """Return True if a slot is free; raises WireFailure if not."""
    (await slots.take(url, 0)).free()
    return True
