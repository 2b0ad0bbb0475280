"""The connection pool of the aiohttp wire: pooled or new connections, never with leftover bytes.

    ConnectionPool.reused_connection | new_connection -> Connection -> is_clean? -> kept, or closed
                           TCP -> TLS, or via a proxy: TCP -> CONNECT -> TLS

This module uses aiohttp below its documented API, which may change with any version; tests/service/wire/ pins
it.
"""

import errno
import ssl
from collections.abc import Iterator
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
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError
from yarl import URL

from dub5.service.wire.base import ConnectTimer, FailureKind, Stage, WireFailure, is_local, origin_of
from dub5.service.wire.head import BadHead, head_end, is_interim, plain_head
from dub5.service.wire.proxy import is_private_host, tunnel_failure

DNS_TTL_S = 60
NO_TIMEOUTS = ClientTimeout()  # the service enforces all timeouts itself
DETAIL_CHARS_MAX = 200
RESETS = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


class Destination:
    """The part of a request that aiohttp's connector reads. `via_proxy`: the proxy's destination, if any."""

    proxy = None
    proxy_headers = None
    server_hostname = None
    ssl = True

    def __init__(self, url: str, proxy: str | None = None) -> None:
        self.url = URL(url)
        host = self.url.raw_host
        if not host or self.url.scheme not in ("http", "https"):
            raise ValueError(f"not an http or https address: {url!r}")
        self.host = host.rstrip(".")  # names in certificates have no trailing dot
        self.port = self.url.port
        self.via_proxy = None if proxy is None or is_private_host(host) else Destination(proxy)
        self.origin = origin_of(url)
        self.connection_key = ConnectionKey(host, self.port, self.is_ssl(), True, None, None, None, None)
        absolute = f"http://{self.url.host_port_subcomponent}" if self.via_proxy and not self.is_ssl() else ""
        self.start = (
            f" {absolute}{self.url.raw_path_qs} HTTP/1.1\r\n"
            f"host: {self.url.host_port_subcomponent}\r\n"
            "accept-encoding: identity\r\n"
        )

    def is_ssl(self) -> bool:
        return self.url.scheme == "https"

    def connect(self) -> bytes:
        """Return the CONNECT request that opens a tunnel through a proxy."""
        address = f"{self.url.host_subcomponent}:{self.port}"
        return f"CONNECT {address} HTTP/1.1\r\nhost: {address}\r\n\r\n".encode("ascii")


class ConnectionProtocol(ResponseHandler):
    """aiohttp's protocol with three mends.

    A head is read by the rule of head.py, errors reach a body's reader, and leftover bytes are detected.
    `opened_s`: loop seconds at which its connection was opened.
    """

    opened_s = 0.0
    _head: bytearray | None = None  # the part received so far; None before a request and after the head

    def expect_head(self) -> None:
        """Read what comes next as the head of a response."""
        self._head = bytearray()

    def data_received(self, data: bytes) -> None:
        """Parse the data. A head is parsed once it is whole, apart from what follows it."""
        try:
            while data and self._head is not None:
                data = self._take_head(self._head, data)
        except BadHead as bad:
            self._head = None
            self.set_exception(BadHttpMessage(str(bad)))
            if self.transport is not None:
                self.transport.close()
        else:
            if data or self._head is None:
                super().data_received(data)

    def _take_head(self, head: bytearray, data: bytes) -> bytes:
        """Parse the head where its end has come; return what follows it. Raises BadHead."""
        start = len(head)
        head += data
        if not (end := head_end(head, start)):
            return b""
        plain = plain_head(bytes(head[:end]))
        self._head = bytearray() if is_interim(plain) else None
        super().data_received(plain)
        return data[end - start :]

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """Set the exception on the body's reader too, which would wait forever for an invalid chunk."""
        cause = exc_cause or exc.__cause__ or exc
        if isinstance(cause, ssl.SSLError) and cause is not exc:
            exc.__cause__ = cause  # else only a reader of headers would learn that TLS failed
        super().set_exception(exc, cause)
        payload = self._payload
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(exc, cause)

    def is_clean(self) -> bool:
        """Return whether the connection is reusable after an answer: all was sent, and no extra byte came.

        Call it once. Bytes that come later land in the tail, which makes `should_close` true.
        """
        parser, self._parser = self._parser, None
        if parser is None or self.transport is None or self.transport.get_write_buffer_size():
            return False
        try:
            return parser.feed_eof() is None
        except (ClientError, HttpProcessingError):
            return False


class ConnectionPool(TCPConnector):
    """aiohttp's connector, called without its session."""

    def __init__(self, keepalive_s: float, tls: ssl.SSLContext | bool, age_max_s: float) -> None:
        super().__init__(limit=0, keepalive_timeout=keepalive_s, ttl_dns_cache=DNS_TTL_S, ssl=tls)
        self._age_max_s = age_max_s
        self._factory = cast("partial[ResponseHandler]", partial(ConnectionProtocol, loop=self._loop))

    async def reused_connection(self, to: Destination) -> Connection | None:
        """Return a kept-alive connection that has been silent since its last answer, or None.

        One of the greatest age is closed: else steady traffic would never leave an address that DNS has left.
        """
        while (connection := await self._get(to.connection_key, [])) is not None:
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close and self._is_young(protocol):
                return connection
            connection.close()
        return None

    def _is_young(self, protocol: ResponseHandler) -> bool:
        assert isinstance(protocol, ConnectionProtocol)
        return self._loop.time() - protocol.opened_s < self._age_max_s

    async def new_connection(self, to: Destination, connect_s: float) -> Connection:
        """Open a connection within `connect_s` (see ConnectTimer). Raises WireFailure(resolve | connect)."""
        try:
            async with ConnectTimer() as timer:
                timer.start(connect_s)
                protocol = await self._connect(to)
        except TimeoutError:
            first = to.via_proxy or to
            resolving = (first.connection_key.host, first.port) in self._throttle_dns_futures
            stage = Stage.RESOLVE if resolving else Stage.CONNECT
            if not resolving:
                self._forget_address(first)
            raise WireFailure(stage, FailureKind.TIMEOUT, sent=False) from None
        except (ClientError, HttpProcessingError, OSError, UnicodeError) as error:
            failure = _connect_failure(error)
            if failure.kind is not FailureKind.LOCAL:
                self._forget_address(to.via_proxy or to)
            raise failure from error
        if self._closed:
            protocol.close()
            raise WireFailure(Stage.CONNECT, FailureKind.CLOSED, sent=False, detail="the wire was closed")
        assert isinstance(protocol, ConnectionProtocol)
        protocol.opened_s = self._loop.time()
        self._acquired.add(protocol)
        return Connection(self, to.connection_key, protocol, self._loop)

    def _forget_address(self, to: Destination) -> None:
        """Ask DNS again next time: the address that it gave does not answer, and may have been left."""
        if (to.host, to.port) in self._cached_hosts or (
            to.connection_key.host,
            to.port,
        ) in self._cached_hosts:
            self.clear_dns_cache(to.connection_key.host, to.port)

    async def _connect(self, to: Destination) -> ResponseHandler:
        if to.via_proxy is None:
            return await self._create_connection(cast(ClientRequest, to), [], NO_TIMEOUTS)
        protocol = await self._create_connection(cast(ClientRequest, to.via_proxy), [], NO_TIMEOUTS)
        return await self._tunnel(to, protocol) if to.is_ssl() else protocol

    async def _tunnel(self, to: Destination, protocol: ResponseHandler) -> ResponseHandler:
        transport = protocol.transport
        if transport is None:
            raise ServerDisconnectedError
        try:
            protocol.set_response_params(read_until_eof=True)
            transport.write(to.connect())
            message, _ = await protocol.read()
            if not 200 <= message.code < 300:
                raise tunnel_failure(message.code)
            request = cast(ClientRequest, to)
            return (await self._start_tls_connection(transport, req=request, timeout=NO_TIMEOUTS))[1]
        except BaseException:
            transport.abort()
            raise

    async def close(self, *, abort_ssl: bool = False) -> None:
        for protocol in self._acquired:  # aiohttp wakes readers of headers, but not readers of a body
            protocol.set_exception(ClientConnectionError("the wire was closed"))
        await super().close(abort_ssl=abort_ssl)


@lru_cache(maxsize=1024)
def destination(url: str, proxy: str | None = None) -> Destination:
    return Destination(url, proxy)


def _connect_failure(error: BaseException) -> WireFailure:
    if isinstance(error, ClientConnectorDNSError | UnicodeError):
        lacks = any(map(is_local, _causes(error)))
        kind = FailureKind.LOCAL if lacks else FailureKind.REFUSED
        return WireFailure(Stage.RESOLVE, kind, sent=False, detail=failure_detail(error))
    cause = error.os_error if isinstance(error, ClientConnectorError) else error.__cause__ or error
    kind = failure_kind(cause)
    if isinstance(cause, ConnectionResetError) and cause.errno is None:
        kind = FailureKind.CLOSED  # both loops report an end in the handshake so; a reset has an errno
    elif kind is FailureKind.RESET and not isinstance(cause, RESETS):
        kind = FailureKind.REFUSED  # also: unreachable, no route
    return WireFailure(Stage.CONNECT, kind, sent=False, detail=failure_detail(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def failure_kind(error: BaseException) -> FailureKind:
    if isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
        return FailureKind.PROTOCOL
    if is_local(error):
        return FailureKind.LOCAL
    if isinstance(error, OSError):
        return FailureKind.TIMEOUT if error.errno == errno.ETIMEDOUT else FailureKind.RESET
    return FailureKind.CLOSED if isinstance(error, ClientConnectionError) else FailureKind.PROTOCOL


def failure_detail(error: BaseException) -> str:
    if isinstance(error, ServerDisconnectedError):  # its text would hold the received headers
        return type(error).__name__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:DETAIL_CHARS_MAX]
