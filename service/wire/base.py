"""The wire (transport) protocol: bytes to a provider and back. All network I/O passes through this seam.

    failover/attempt -> Wire.send(WireRequest) -> WireResponse.read() ... b"" -> aclose()
                             |  failures, at any stage: WireFailure
                             native_wire | httpx_wire | dub5.simulators.virtual.wire

Every wire enforces two of the five timeouts itself, pool wait and connect, and takes a slot from the same
`Slots`.
"""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

from msgspec import Struct

SLOTS_PER_ORIGIN = 1000
KEEPALIVE_S = 30.0
CONNECTION_AGE_S = 300.0
LOOP_STALL_S = 0.1  # a timer that fires later than this means that our own event loop stalled
WIRE_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "accept-encoding", "connection"})


class Stage(StrEnum):
    """The stage at which a call failed."""

    POOL = "pool"
    RESOLVE = "resolve"
    CONNECT = "connect"  # with TLS
    SEND = "send"
    WAIT = "wait"  # for the status line and headers
    BODY = "body"


class FailureKind(StrEnum):
    """The kind of failure."""

    REFUSED = "refused"  # also: the name does not resolve
    RESET = "reset"
    CLOSED = "closed"
    TIMEOUT = "timeout"
    PROTOCOL = "protocol"  # TLS, framing, encoding
    LOCAL = "local"  # this machine lacks descriptors, ports, buffers or memory: no provider is to blame


# The errors of a machine that has run out of something.
LOCAL_ERRNOS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC, errno.EADDRNOTAVAIL, errno.EAGAIN}
)


def is_local(error: BaseException) -> bool:
    """Return whether an error is this machine's own lack rather than a fault of a provider."""
    if isinstance(error, socket.gaierror):  # has numbers of its own, and hides the cause
        return error.errno == socket.EAI_MEMORY or not _can_open()
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno in LOCAL_ERRNOS


def _can_open() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True


class WireFailure(Exception):
    """A call that failed below HTTP.

    `sent` is false only when no byte of the request can have reached the provider; otherwise it is true.
    `reused` means that a kept-alive connection broke, which says nothing about the provider's health.
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
    """One call. Header names are lower case. Headers hold the key, so `repr` omits them.

    The wire adds WIRE_HEADERS and no others: a `user-agent` comes from the dialect.
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
        """Return `scheme://host:port`, the scope of connection slots and of the host's circuit breaker."""
        return origin_of(self.url)


class WireResponse(Protocol):
    """A status, headers (lower-case names) and an unread body.

    `read` rejects a compressed body, not `send`: status and `retry-after` are valid even then.
    """

    status: int
    headers: Mapping[str, str]
    reused: bool

    async def read(self) -> bytes:
        """Return the available bytes, at least one; `b""` at the body's proper end. Raises WireFailure."""
        ...

    async def aclose(self) -> None:
        """Return the connection to the pool if the body was read to its end, else close it. Idempotent.

        A caller that is cancelled meanwhile, even twice, cuts nothing: the close goes on to its end.
        """
        ...


class Wire(Protocol):
    """A transport. Cancelling `send` or `read` at any moment closes the connection and frees its slot."""

    async def send(self, request: WireRequest) -> WireResponse: ...

    async def aclose(self) -> None: ...


class ConnectTimer:
    """The connect timeout. It restarts after a stall of our own event loop.

    During a stall the connection may have opened unnoticed, which is not the host's fault.
    """

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
        """Raise TimeoutError in the `async with` block `limit_s` seconds from now."""
        self.stop()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(limit_s, self._on_due, loop.time() + limit_s, limit_s)

    def stop(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_due(self, due_s: float, limit_s: float) -> None:
        if asyncio.get_running_loop().time() - due_s > LOOP_STALL_S:
            self.start(limit_s)
        else:
            self._timeout.reschedule(due_s)


class Slots:
    """Connection slots, limited per origin, so that a dead host cannot starve the others (a bulkhead)."""

    def __init__(self, per_origin_max: int = SLOTS_PER_ORIGIN) -> None:
        self._per_origin_max = per_origin_max
        self._free: dict[str, asyncio.Semaphore] = {}

    async def take(self, origin: str, pool_s: float) -> "Slot":
        """Wait up to `pool_s` seconds for a slot. Raises WireFailure(pool, timeout)."""
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
    """One open connection of an origin's limit."""

    __slots__ = ("_semaphore",)

    def __init__(self, semaphore: asyncio.Semaphore) -> None:
        self._semaphore: asyncio.Semaphore | None = semaphore

    def free(self) -> None:
        """Release the slot. Idempotent."""
        if self._semaphore is not None:
            self._semaphore.release()
            self._semaphore = None


@lru_cache(maxsize=1024)
def origin_of(url: str) -> str:
    """Return `scheme://host:port` of a URL, always with the port."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{parts.hostname}:{port}"
