"""The default wire (transport): HTTP/1.1 of our own, on connections that aiohttp's connector opens.

    send:  Slots.take -> idle connection, or resolve + TCP + TLS -> one write -> status and headers
                                                                                         |
    read:  bytes that are ready ... b"" at the end -> kept for the next call             v
    aclose or cancel before the end, any fault     -> connection closed at once     NativeResponse

Why not aiohttp's or httpx's client: docs/decisions/0014-native-wire.md.
"""

import asyncio
import ssl
from functools import lru_cache

from dub5.service.wire.base import (
    CONNECTION_AGE_S,
    KEEPALIVE_S,
    WIRE_HEADERS,
    FailureKind,
    Slot,
    Slots,
    Stage,
    WireFailure,
    WireRequest,
)
from dub5.service.wire.connector import Connector, destination
from dub5.service.wire.http_connection import ENDED, HEAD, HttpConnection


class NativeWire:
    """A wire over TCP and TLS with verified certificates and kept-alive connections.

    `proxy` is the `http://host:port` for providers outside the private network. Create the wire anywhere; it
    belongs to the event loop of its first call.
    """

    def __init__(
        self,
        slots: Slots | None = None,
        *,
        keepalive_s: float = KEEPALIVE_S,
        tls: ssl.SSLContext | None = None,
        proxy: str | None = None,
        connection_age_max_s: float = CONNECTION_AGE_S,
    ) -> None:
        self._slots = slots or Slots()
        self._proxy = proxy
        self._keepalive_s = keepalive_s
        self._age_max_s = connection_age_max_s
        self._tls: ssl.SSLContext | bool = tls or True
        self._connector: Connector | None = None
        self._open: set[HttpConnection] = set()
        self._idle: dict[str, list[HttpConnection]] = {}  # by origin, the one used last at the end
        self._sweep: asyncio.TimerHandle | None = None

    async def send(self, request: WireRequest) -> "NativeResponse":
        """Send the request and wait for status and headers.

        Raises WireFailure, and ValueError for an address that is not http or https.
        """
        to = destination(request.url, self._proxy)
        head = _head(request.method, to.start, tuple(request.headers.items()))
        head += b"content-length: %d\r\n\r\n" % len(request.body)
        slot = await self._slots.take(to.origin, request.pool_s)
        connection: HttpConnection | None = None
        try:
            if not request.fresh:
                connection = self._idle_connection(to.origin)
            is_reused = connection is not None
            if connection is None:
                if self._connector is None:
                    self._connector = Connector(self._tls)
                connection = await self._connector.open(to, request.connect_s)
                connection.count_among(self._open)
            if not connection.start(head, request.body, bodiless=request.method == "HEAD"):
                raise WireFailure(Stage.SEND, FailureKind.CLOSED, sent=False, reused=is_reused)
            await connection.wait()
            if connection.state == HEAD:
                assert connection.failure is not None
                kind, detail = connection.failure
                raise WireFailure(Stage.WAIT, kind, sent=True, reused=is_reused, detail=detail)
        except BaseException:
            if connection is not None:
                connection.abort()
            slot.free()
            raise
        return NativeResponse(self, to.origin, connection, slot, is_reused)

    def _idle_connection(self, origin: str) -> HttpConnection | None:
        """Return a kept-alive connection that has been silent since its last answer, or None.

        One of the greatest age is closed: else steady traffic would never leave an address that DNS has left.
        """
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if self._is_usable(connection, connection.loop.time()):
                return connection
            connection.abort()
        return None

    def _is_usable(self, connection: HttpConnection, now_s: float) -> bool:
        return (
            connection.is_reusable()
            and now_s - connection.opened_s < self._age_max_s
            and now_s - connection.idle_since_s < self._keepalive_s
        )

    def _keep(self, origin: str, connection: HttpConnection) -> None:
        """Keep a connection whose exchange has ended, or close it."""
        if not connection.release():
            connection.abort()
            return
        self._idle.setdefault(origin, []).append(connection)
        if self._sweep is None:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(self._keepalive_s, self._close_unused)

    def _close_unused(self) -> None:
        """Close the idle connections that nobody has used for a while; look again later if some are left."""
        loop = asyncio.get_running_loop()
        now_s, self._sweep = loop.time(), None
        for origin in list(self._idle):
            kept = []
            for connection in self._idle.pop(origin):
                if self._is_usable(connection, now_s):
                    kept.append(connection)
                else:
                    connection.abort()
            if kept:
                self._idle[origin] = kept
        if self._idle:
            self._sweep = loop.call_later(self._keepalive_s, self._close_unused)

    async def aclose(self) -> None:
        """Close every connection; open calls, and later ones, fail as closed."""
        if self._sweep is not None:
            self._sweep.cancel()
        self._idle.clear()
        for connection in list(self._open):
            connection.abort("the wire was closed")
        if self._connector is not None:
            await self._connector.close()


class NativeResponse:
    """A status, headers and an unread body; see dub5.service.wire.base.WireResponse."""

    __slots__ = (
        *("_connection", "_has_ended", "_is_compressed", "_origin", "_slot", "_wire"),
        *("headers", "reused", "status"),
    )

    def __init__(
        self, wire: NativeWire, origin: str, connection: HttpConnection, slot: Slot, is_reused: bool
    ) -> None:
        self.status, self.headers, self.reused = connection.status, connection.headers, is_reused
        self._wire = wire
        self._origin = origin
        self._connection: HttpConnection | None = connection
        self._slot = slot
        self._has_ended = False
        self._is_compressed = self.headers.get("content-encoding", "identity").lower() not in ("identity", "")

    async def read(self) -> bytes:
        """Return the available bytes, at least one; `b""` at the body's proper end. Raises WireFailure."""
        connection = self._connection
        if connection is None:
            if self._has_ended:
                return b""
            raise self._failed(FailureKind.CLOSED, "closed by us")
        if self._is_compressed:
            self._abort()
            raise self._failed(FailureKind.PROTOCOL, "compressed though not asked for")
        while not (data := connection.take()):
            if connection.state == ENDED:
                self._finish()
                return b""
            if connection.failure is not None:
                self._abort()
                raise self._failed(*connection.failure)
            try:
                await connection.wait()
            except BaseException:
                self._abort()
                raise
        if connection.state == ENDED:
            self._finish()
        return data

    async def aclose(self) -> None:
        """Return the connection to the pool if the body was received to its end, else close it at once."""
        if self._connection is not None:
            if self._connection.state == ENDED:
                self._finish()
            else:
                self._abort()

    def _finish(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._has_ended = True
            self._wire._keep(self._origin, connection)
            self._slot.free()

    def _abort(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            self._slot.free()

    def _failed(self, kind: FailureKind, detail: str) -> WireFailure:
        return WireFailure(Stage.BODY, kind, sent=True, reused=self.reused, detail=detail)


@lru_cache(maxsize=1024)
def _head(method: str, start: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    """Return the head of a request up to its length. Raises WireFailure for a header with a line break."""
    lines = [method, start, *(f"{name}: {value}\r\n" for name, value in headers if name not in WIRE_HEADERS)]
    head = "".join(lines)
    count = len(lines) + 1  # `start` holds three lines
    if head.count("\n") != count or head.count("\r") != count or "\0" in head:
        raise WireFailure(Stage.SEND, FailureKind.PROTOCOL, sent=False, detail="a header holds a line break")
    return head.encode("utf-8", "surrogateescape")
