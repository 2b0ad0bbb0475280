"""The default wire: aiohttp's connections and parser, without its session.

    send:  Slots.take -> pooled connection, or resolve + TCP + TLS -> one write -> status and headers
                                                                                         |
    read:  bytes that are ready ... b"" at the end -> back to the pool                   v
    aclose or cancel before the end, any fault     -> connection closed at once     AiohttpResponse

The session would follow redirects, keep cookies, decode bodies and send headers of its own; all of that is
switched off by not being there, and a call costs a third of the CPU (docs/decisions/0001-wire.md). What is used
of aiohttp below its documented surface is pinned down by tests/service/wire/.
"""

import asyncio
import errno
import ssl
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import cast

from aiohttp import (
    ClientConnectionError,
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientError,
    ClientRequest,
    ClientTimeout,
    ServerDisconnectedError,
    TCPConnector,
)
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from yarl import URL

from service.wire.base import (
    HEADERS_OF_THE_WIRE,
    KEEPALIVE_S,
    Kind,
    Slot,
    Slots,
    Stage,
    WireFailure,
    WireRequest,
    origin_of,
)

DNS_TTL_S = 60
BUFFER_BYTES = 128 * 1024  # the provider is not read any more while twice this is waiting for us
HEADER_BYTES_MAX = 8190  # of one header, and of the status line
HEADERS_MAX = 128
JOIN_BYTES_MAX = 64 * 1024  # up to here one copy is cheaper than a second write
NO_CLOCKS = ClientTimeout()  # every clock is ours
DETAIL_CHARS_MAX = 200
RESETS = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


class AiohttpWire:
    """Calls over TCP and TLS, certificates verified, connections kept alive for `keepalive_s` seconds.

    Made anywhere; belongs to the event loop of its first call.
    """

    def __init__(
        self,
        slots: Slots | None = None,
        *,
        keepalive_s: float = KEEPALIVE_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._slots = slots or Slots()
        self._keepalive_s = keepalive_s
        self._tls: ssl.SSLContext | bool = tls or True
        self._connections: _Connections | None = None

    async def send(self, request: WireRequest) -> "AiohttpResponse":
        """Sends the request and waits for status and headers. Raises WireFailure."""
        to = _destination(request.url)
        head = _head(request, to)
        connections = self._connections
        if connections is None:
            connections = self._connections = _Connections(self._keepalive_s, self._tls)
        slot = await self._slots.take(to.origin, request.pool_s)
        try:
            pooled = None if request.fresh else await connections.pooled(to)
            connection = pooled or await connections.opened(to, request.connect_s)
        except BaseException:
            slot.free()
            raise
        response = AiohttpResponse(connection, slot, reused=pooled is not None)
        try:
            response._write(request, head)
            await response._wait()
        except BaseException:
            response._abort()
            raise
        return response

    async def aclose(self) -> None:
        """Closes every connection; calls still under way end as closed."""
        if self._connections is not None:
            await self._connections.close()
            self._connections = None


class AiohttpResponse:
    """A status, headers and the body still to be read; see service.wire.base.WireResponse."""

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
        assert isinstance(connection.protocol, _Protocol)
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
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            max_headers=HEADERS_MAX,
        )
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            raise WireFailure(Stage.SEND, Kind.CLOSED, sent=False, reused=self.reused)
        if len(request.body) <= JOIN_BYTES_MAX:
            transport.write(head + request.body)
        else:
            transport.write(head)
            transport.write(request.body)

    async def _wait(self) -> None:
        try:
            message, content = await self._protocol.read()
            while message.code < 200 and message.code != 101:  # 100 Continue, 103 Early Hints
                message, content = await self._protocol.read()
        except (ClientError, HttpProcessingError, OSError) as error:
            raise self._failure(Stage.WAIT, error) from error
        if message.code == 101:
            raise self._told(Stage.WAIT, Kind.PROTOCOL, "upgraded though not asked for")
        self.status = message.code
        self.headers = {name.lower(): value for name, value in message.headers.items()}
        self._compressed = self.headers.get("content-encoding", "identity") not in ("identity", "")
        self._content = content
        if content.at_eof():
            self._finish()

    async def read(self) -> bytes:
        """The bytes that are ready, at least one; `b""` once at the body's proper end. Raises WireFailure."""
        content = self._content
        if content.at_eof() and self._connection is None:
            return b""
        if self._compressed:
            self._abort()
            raise WireFailure(
                Stage.BODY,
                Kind.PROTOCOL,
                sent=True,
                reused=self.reused,
                detail="compressed though not asked for",
            )
        if content._buffer:  # bytes that came before a fault are handed over before the fault is told
            return content._read_nowait(-1)
        try:
            data = await content.readany()
            if not data:
                self._check_end()
                self._finish()
            return data
        except (ClientError, HttpProcessingError, OSError) as error:
            failure = self._failure(Stage.BODY, error)
            self._abort()
            raise failure from error
        except BaseException:
            self._abort()
            raise

    async def aclose(self) -> None:
        """Gives the connection back if the body was received to its end, else closes it at once."""
        if self._connection is not None:
            if self._content.is_eof():
                self._finish()
            else:
                self._abort()

    def _check_end(self) -> None:
        # A body without length or chunks ends with the connection: with a reset it did not end.
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

    def _failure(self, stage: Stage, error: BaseException) -> WireFailure:
        # A broken body is told as "not completed"; why, only the connection knows.
        fault = (self._protocol.exception() if stage is Stage.BODY else None) or error
        return self._told(stage, _kind(fault), _detail(fault))

    def _told(self, stage: Stage, kind: Kind, detail: str) -> WireFailure:
        return WireFailure(stage, kind, sent=True, reused=self.reused, detail=detail)


class _Destination:
    """What the connector asks a request about."""

    proxy = None
    proxy_headers = None
    server_hostname = None
    ssl = True

    def __init__(self, url: str) -> None:
        self.url = URL(url)
        host = self.url.raw_host
        if not host or self.url.scheme not in ("http", "https"):
            raise ValueError(f"not an http or https address: {url!r}")
        self.port = self.url.port
        self.origin = origin_of(url)
        self.connection_key = ConnectionKey(host, self.port, self.is_ssl(), True, None, None, None, None)
        self.start = (
            f" {self.url.raw_path_qs} HTTP/1.1\r\n"
            f"host: {self.url.host_port_subcomponent}\r\n"
            "accept-encoding: identity\r\n"
        )

    def is_ssl(self) -> bool:
        return self.url.scheme == "https"


class _Protocol(ResponseHandler):
    """aiohttp's protocol, which forgets two things: a reader, and what came after an answer."""

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """Also tells the reader of the body, who would wait for ever when a chunk's size is not a number."""
        cause = exc_cause or exc.__cause__ or exc
        super().set_exception(exc, cause)
        payload = self._payload
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(exc, cause)

    def is_clean(self) -> bool:
        """After an answer: all was sent, and not a byte more has come. What comes later lands in the tail, which
        makes `should_close` true; asked only once."""
        parser, self._parser = self._parser, None
        if parser is None or self.transport is None or self.transport.get_write_buffer_size():
            return False
        try:
            return parser.feed_eof() is None
        except (ClientError, HttpProcessingError):
            return False


class _Connections(TCPConnector):
    def __init__(self, keepalive_s: float, tls: ssl.SSLContext | bool) -> None:
        super().__init__(limit=0, keepalive_timeout=keepalive_s, ttl_dns_cache=DNS_TTL_S, ssl=tls)
        self._factory = cast("partial[ResponseHandler]", partial(_Protocol, loop=self._loop))

    async def pooled(self, to: _Destination) -> Connection | None:
        """A kept-alive connection, if there is one on which nothing was said since its last answer."""
        while (connection := await self._get(to.connection_key, [])) is not None:
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close:
                return connection
            connection.close()
        return None

    async def opened(self, to: _Destination, connect_s: float) -> Connection:
        """A new connection. Raises WireFailure (resolve or connect), after `connect_s` seconds at the latest."""
        try:
            async with asyncio.timeout(connect_s):
                protocol = await self._create_connection(cast(ClientRequest, to), [], NO_CLOCKS)
        except TimeoutError:
            resolving = (to.connection_key.host, to.port) in self._throttle_dns_futures
            stage = Stage.RESOLVE if resolving else Stage.CONNECT
            raise WireFailure(stage, Kind.TIMEOUT, sent=False) from None
        except (ClientError, OSError, UnicodeError) as error:
            raise _not_connected(error) from error
        if self._closed:
            protocol.close()
            raise WireFailure(Stage.CONNECT, Kind.CLOSED, sent=False, detail="the wire was closed")
        self._acquired.add(protocol)
        return Connection(self, to.connection_key, protocol, self._loop)

    async def close(self, *, abort_ssl: bool = False) -> None:
        for protocol in self._acquired:  # aiohttp wakes those who wait for headers, but nobody in a body
            protocol.set_exception(ClientConnectionError("the wire was closed"))
        await super().close(abort_ssl=abort_ssl)


@lru_cache(maxsize=1024)
def _destination(url: str) -> _Destination:
    return _Destination(url)


def _head(request: WireRequest, to: _Destination) -> bytes:
    lines = [request.method, to.start]
    for name, value in request.headers.items():
        if name not in HEADERS_OF_THE_WIRE:
            lines.append(f"{name}: {value}\r\n")
    lines.append(f"content-length: {len(request.body)}\r\n\r\n")
    head = "".join(lines)
    count = len(lines) + 2  # `start` holds three lines, and the last one ends with an empty one
    if head.count("\n") != count or head.count("\r") != count or "\0" in head:
        raise WireFailure(Stage.SEND, Kind.PROTOCOL, sent=False, detail="a header holds a line break")
    return head.encode("utf-8", "surrogateescape")


def _not_connected(error: BaseException) -> WireFailure:
    if isinstance(error, ClientConnectorDNSError | UnicodeError):
        return WireFailure(Stage.RESOLVE, Kind.REFUSED, sent=False, detail=_detail(error))
    cause = error.os_error if isinstance(error, ClientConnectorError) else error
    kind = _kind(cause)
    if kind is Kind.RESET and not isinstance(cause, RESETS):
        kind = Kind.REFUSED  # also: unreachable, no route
    return WireFailure(Stage.CONNECT, kind, sent=False, detail=_detail(error))


def _kind(error: BaseException) -> Kind:
    if isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
        return Kind.PROTOCOL
    if isinstance(error, OSError):
        return Kind.TIMEOUT if error.errno == errno.ETIMEDOUT else Kind.RESET
    return Kind.CLOSED if isinstance(error, ClientConnectionError) else Kind.PROTOCOL


def _detail(error: BaseException) -> str:
    if isinstance(error, ServerDisconnectedError):  # its text would be the headers that had come
        return type(error).__name__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:DETAIL_CHARS_MAX]
