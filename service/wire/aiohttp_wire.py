"""The default wire (transport): aiohttp's connections and parser, without its session.

    send:  Slots.take -> pooled connection, or resolve + TCP + TLS -> one write -> status and headers
                                                                                         |
    read:  bytes that are ready ... b"" at the end -> back to the pool                   v
    aclose or cancel before the end, any fault     -> connection closed at once     AiohttpResponse

The session would follow redirects, keep cookies, decode bodies and send headers of its own. Without the
session there is none of that, and a call costs half the CPU or less (docs/decisions/0001-wire.md).
"""

import ssl
from collections.abc import Mapping

from aiohttp import ClientConnectionError, ClientError
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from dub5.service.wire.aiohttp_pool import (
    ConnectionPool,
    ConnectionProtocol,
    Destination,
    destination,
    failure_detail,
    failure_kind,
)
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
from dub5.service.wire.head import HEADERS_MAX, UNFINISHED_BYTES_MAX

BUFFER_BYTES = 128 * 1024  # reading from the provider pauses while twice this is buffered
JOIN_BYTES_MAX = 64 * 1024  # up to this size one copy is cheaper than a second write


class AiohttpWire:
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
        self._connections: ConnectionPool | None = None

    async def send(self, request: WireRequest) -> "AiohttpResponse":
        """Send the request and wait for status and headers.

        Raises WireFailure, and ValueError for an address that is not http or https.
        """
        to = destination(request.url, self._proxy)
        head = _head(request, to)
        connections = self._connections
        if connections is None:
            connections = self._connections = ConnectionPool(self._keepalive_s, self._tls, self._age_max_s)
        slot = await self._slots.take(to.origin, request.pool_s)
        try:
            reused = None if request.fresh else await connections.reused_connection(to)
            connection = reused or await connections.new_connection(to, request.connect_s)
        except BaseException:
            slot.free()
            raise
        response = AiohttpResponse(connection, slot, reused=reused is not None)
        try:
            response._write(request, head)
            await response._wait_for_head()
        except BaseException:
            response._abort()
            raise
        return response

    async def aclose(self) -> None:
        """Close every connection; open calls, and later ones, fail as closed."""
        if self._connections is not None:
            await self._connections.close()


class AiohttpResponse:
    """A status, headers and an unread body; see dub5.service.wire.base.WireResponse."""

    __slots__ = (
        "_compressed",
        "_connection",
        "_content",
        "_protocol",
        "_slot",
        "headers",
        "reused",
        "status",
    )

    status: int
    headers: Mapping[str, str]

    def __init__(self, connection: Connection, slot: Slot, *, reused: bool) -> None:
        assert isinstance(connection.protocol, ConnectionProtocol)
        self.reused = reused
        self._compressed = False
        self._connection: Connection | None = connection
        self._content: StreamReader = EMPTY_PAYLOAD
        self._protocol = connection.protocol
        self._slot = slot

    def _write(self, request: WireRequest, head: bytes) -> None:
        self._protocol.set_response_params(
            skip_payload=request.method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=BUFFER_BYTES,
            max_line_size=2 * UNFINISHED_BYTES_MAX,  # of UTF-8
            max_field_size=2 * UNFINISHED_BYTES_MAX,
            max_headers=HEADERS_MAX,
        )
        self._protocol.expect_head()
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            raise WireFailure(Stage.SEND, FailureKind.CLOSED, sent=False, reused=self.reused)
        if len(request.body) <= JOIN_BYTES_MAX:
            transport.write(head + request.body)
        else:
            transport.write(head)
            transport.write(request.body)

    async def _wait_for_head(self) -> None:
        try:
            message, content = await self._protocol.read()
            while message.code < 200 and message.code != 101:  # 100 Continue, 103 Early Hints
                message, content = await self._protocol.read()
        except (ClientError, HttpProcessingError, OSError) as error:
            raise self._failure_from(Stage.WAIT, error) from error
        if message.code == 101:
            raise self._failed_at(Stage.WAIT, FailureKind.PROTOCOL, "upgraded though not asked for")
        self.status = message.code
        self.headers = {name.lower(): value for name, value in message.headers.items()}
        self._compressed = self.headers.get("content-encoding", "identity").lower() not in ("identity", "")
        self._content = content
        if content.at_eof():
            self._finish()

    async def read(self) -> bytes:
        """Return the available bytes, at least one; `b""` at the body's proper end. Raises WireFailure."""
        content = self._content
        if content.at_eof() and self._connection is None:
            return b""
        if self._compressed:
            self._abort()
            raise self._failed_at(Stage.BODY, FailureKind.PROTOCOL, "compressed though not asked for")
        if content._buffer:  # bytes that came before a fault are returned before the fault is raised
            return content._read_nowait(-1)
        try:
            data = await content.readany()
            if not data:
                self._check_end()
                self._finish()
            return data
        except (ClientError, HttpProcessingError, OSError) as error:
            failure = self._failure_from(Stage.BODY, error)
            self._abort()
            raise failure from error
        except BaseException:
            self._abort()
            raise

    async def aclose(self) -> None:
        """Return the connection to the pool if the body was received to its end, else close it at once."""
        if self._connection is not None:
            if self._content.is_eof():
                self._finish()
            else:
                self._abort()

    def _check_end(self) -> None:
        # A body without length or chunks ends with the connection; after a reset it is incomplete.
        fault = self._protocol.exception()
        if isinstance(fault, OSError) and not self.headers.keys() & {"content-length", "transfer-encoding"}:
            raise fault

    def _finish(self) -> None:
        connection = self._connection
        if connection is None:  # the protocol may serve another call by now
            return
        if not self._protocol.is_clean():
            self._abort()
            return
        self._connection = None
        connection.release()
        self._slot.free()

    def _abort(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._protocol.abort()  # close() would wait for unsent bytes, and with TLS for the peer's goodbye
        connection.close()
        self._content.set_exception(ClientConnectionError("closed by us"))  # wakes a reader in another task
        self._slot.free()

    def _failure_from(self, stage: Stage, error: BaseException) -> WireFailure:
        # aiohttp reports a broken body as "not completed"; only the connection holds the cause.
        fault = (self._protocol.exception() if stage is Stage.BODY else None) or error
        return self._failed_at(stage, failure_kind(fault), failure_detail(fault))

    def _failed_at(self, stage: Stage, kind: FailureKind, detail: str) -> WireFailure:
        return WireFailure(stage, kind, sent=True, reused=self.reused, detail=detail)


def _head(request: WireRequest, to: Destination) -> bytes:
    lines = [request.method, to.start]
    for name, value in request.headers.items():
        if name not in WIRE_HEADERS:
            lines.append(f"{name}: {value}\r\n")
    lines.append(f"content-length: {len(request.body)}\r\n\r\n")
    head = "".join(lines)
    count = len(lines) + 2  # `start` holds three lines, and the last one ends with an empty one
    if head.count("\n") != count or head.count("\r") != count or "\0" in head:
        raise WireFailure(Stage.SEND, FailureKind.PROTOCOL, sent=False, detail="a header holds a line break")
    return head.encode("utf-8", "surrogateescape")
