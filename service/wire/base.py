"""The network seam: bytes to a provider and back.

    attempt/run -> Wire.send(WireRequest) -> WireResponse.read() ... b"" -> aclose()
                        |  failures, at any stage: WireFailure
                        aiohttp_wire | httpx_wire | dub5.simulators.virtual.wire

Every wire holds two of the five clocks itself, pool wait and connect, and takes its place from the same `Slots`.
"""

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

from msgspec import Struct

SLOTS_PER_ORIGIN = 1000
KEEPALIVE_S = 30.0
LOOP_STALL_S = 0.1  # a timer that is later than this says that our own loop did not turn
WIRE_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "accept-encoding", "connection"})


class Stage(StrEnum):
    """How far a call had come."""

    POOL = "pool"
    RESOLVE = "resolve"
    CONNECT = "connect"  # with TLS
    SEND = "send"
    WAIT = "wait"  # for the status line and headers
    BODY = "body"


class FailureKind(StrEnum):
    """What happened there."""

    REFUSED = "refused"  # also: the name does not resolve
    RESET = "reset"
    CLOSED = "closed"
    TIMEOUT = "timeout"
    PROTOCOL = "protocol"  # TLS, framing, encoding


class WireFailure(Exception):
    """A call that broke below HTTP.

    `sent` is false only when no byte of the request can have reached the provider; doubt counts as sent.
    `reused` says that a kept-alive connection broke: it proves nothing about the provider's health.
    """

    def __init__(
        self, stage: Stage, kind: FailureKind, *, sent: bool, reused: bool = False, detail: str = ""
    ) -> None:
        super().__init__(f"{stage} {kind}" + (f": {detail}" if detail else ""))
        self.stage = stage
        self.kind = kind
        self.sent = sent
        self.reused = reused


class WireRequest(Struct, frozen=True):
    """One call. Header names are lower case; headers carry the key, so they stay out of `repr`.

    The wire itself writes WIRE_HEADERS and nothing else: a `user-agent` is the dialect's.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    pool_s: float = 1.0
    connect_s: float = 3.0
    fresh: bool = False  # never on a kept-alive connection

    def __repr__(self) -> str:
        return f"WireRequest({self.method} {self.url})"

    @property
    def origin(self) -> str:
        """`scheme://host:port`, the scope of connection slots and of the host's breaker."""
        return origin_of(self.url)


class WireResponse(Protocol):
    """A status, headers (lower-case names) and a body still to be read.

    A compressed body is told by `read`, not by `send`: status and `retry-after` still count.
    """

    status: int
    headers: Mapping[str, str]
    reused: bool

    async def read(self) -> bytes:
        """The bytes that are ready, at least one; `b""` once at the body's proper end. Raises WireFailure."""
        ...

    async def aclose(self) -> None:
        """Gives the connection back if the body was read to its end, else closes it at once. May be repeated."""
        ...


class Wire(Protocol):
    """Cancelling `send` or `read` at any moment closes the connection and frees its slot."""

    async def send(self, request: WireRequest) -> WireResponse: ...

    async def aclose(self) -> None: ...


class ConnectTimer:
    """Limits how long a connection opens. It starts afresh where our own loop stood still: the connection may have
    been open for long, and nobody could look; that is no fault of the host's."""

    def __init__(self) -> None:
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        await self._timeout.__aexit__(kind, error, trace)

    def start(self, limit_s: float) -> None:
        """TimeoutError after so long, counted from now."""
        self.stop()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(limit_s, self._on_due, loop.time() + limit_s, limit_s)

    def stop(self) -> None:
        """It runs no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_due(self, due_s: float, limit_s: float) -> None:
        if asyncio.get_running_loop().time() - due_s > LOOP_STALL_S:
            self.start(limit_s)
        else:
            self._timeout.reschedule(due_s)


class Slots:
    """Connections open at one time, bounded for each origin apart: a dead host must not starve the others."""

    def __init__(self, per_origin_max: int = SLOTS_PER_ORIGIN) -> None:
        self._per_origin_max = per_origin_max
        self._free: dict[str, asyncio.Semaphore] = {}

    async def take(self, origin: str, pool_s: float) -> "Slot":
        """Waits up to `pool_s` seconds for a place. Raises WireFailure(pool, timeout)."""
        semaphore = self._free.get(origin)
        if semaphore is None:
            semaphore = self._free[origin] = asyncio.Semaphore(self._per_origin_max)
        if semaphore.locked():
            try:
                async with asyncio.timeout(pool_s):
                    await semaphore.acquire()
            except TimeoutError:
                raise WireFailure(Stage.POOL, FailureKind.TIMEOUT, sent=False) from None
        else:
            await semaphore.acquire()  # does not suspend
        return Slot(semaphore)


class Slot:
    """A place among the open connections; given back once, however often it is asked to."""

    __slots__ = ("_semaphore",)

    def __init__(self, semaphore: asyncio.Semaphore) -> None:
        self._semaphore: asyncio.Semaphore | None = semaphore

    def free(self) -> None:
        """Gives the place back."""
        if self._semaphore is not None:
            self._semaphore.release()
            self._semaphore = None


@lru_cache(maxsize=1024)
def origin_of(url: str) -> str:
    """`scheme://host:port` of a URL, the port always said."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{parts.hostname}:{port}"
