"""Opens connections: by aiohttp's connector, with our own protocol on them.

    Connector.open(destination) -> DNS, TCP -> TLS, or via a proxy: TCP -> CONNECT -> TLS -> HttpConnection

This module uses aiohttp below its documented API, which may change with any version; tests/service/wire/ pins
it.
"""

import ssl
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any, cast

from aiohttp import (
    ClientConnectionError,
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientError,
    ClientRequest,
    ClientTimeout,
    TCPConnector,
)
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from dub5.service.wire.base import ConnectTimer, FailureKind, Stage, WireFailure, is_local, origin_of
from dub5.service.wire.http_connection import HEAD, HttpConnection, failure_detail, failure_kind
from dub5.service.wire.proxy import is_private_host, tunnel_failure

DNS_TTL_S = 60
NO_TIMEOUTS = ClientTimeout()  # the service enforces all timeouts itself
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


class Connector(TCPConnector):
    """aiohttp's connector, called without its session and its pool: DNS with a cache, TCP, TLS, tunnels."""

    def __init__(self, tls: ssl.SSLContext | bool) -> None:
        super().__init__(limit=0, ttl_dns_cache=DNS_TTL_S, ssl=tls)
        self._factory = cast("partial[ResponseHandler]", HttpConnection)

    async def open(self, to: Destination, connect_s: float) -> HttpConnection:
        """Open a connection within `connect_s` (see ConnectTimer). Raises WireFailure(resolve | connect)."""
        try:
            async with ConnectTimer() as timer:
                timer.start(connect_s)
                connection = await self._connect(to)
        except TimeoutError:
            first = to.via_proxy or to
            resolving = (first.connection_key.host, first.port) in self._throttle_dns_futures
            stage = Stage.RESOLVE if resolving else Stage.CONNECT
            if not resolving:
                self._forget_address(first)
            raise WireFailure(stage, FailureKind.TIMEOUT, sent=False) from None
        except (ClientError, OSError, UnicodeError) as error:
            failure = _connect_failure(error)
            if failure.kind is not FailureKind.LOCAL:
                self._forget_address(to.via_proxy or to)
            raise failure from error
        if self._closed:
            connection.abort()
            raise WireFailure(Stage.CONNECT, FailureKind.CLOSED, sent=False, detail="the wire was closed")
        return connection

    def _forget_address(self, to: Destination) -> None:
        """Ask DNS again next time: the address that it gave does not answer, and may have been left."""
        if (to.host, to.port) in self._cached_hosts or (
            to.connection_key.host,
            to.port,
        ) in self._cached_hosts:
            self.clear_dns_cache(to.connection_key.host, to.port)

    async def _connect(self, to: Destination) -> HttpConnection:
        if to.via_proxy is None:
            return await self._open(to)
        connection = await self._open(to.via_proxy)
        return await self._tunnel(to, connection) if to.is_ssl() else connection

    async def _open(self, to: Destination) -> HttpConnection:
        made: Any = await self._create_connection(cast(ClientRequest, to), [], NO_TIMEOUTS)
        return cast(HttpConnection, made)

    async def _tunnel(self, to: Destination, proxy: HttpConnection) -> HttpConnection:
        """Open a tunnel through the proxy, and TLS in it. Raises WireFailure."""
        try:
            if is_open := proxy.start(to.connect(), bodiless=True):
                await proxy.wait()
            if not is_open or proxy.transport is None or proxy.state == HEAD:
                kind, detail = proxy.failure or (FailureKind.CLOSED, "")
                raise WireFailure(Stage.CONNECT, kind, sent=False, detail=detail)
            if not 200 <= proxy.status < 300:
                raise tunnel_failure(proxy.status)
            request = cast(ClientRequest, to)
            _, made = await self._start_tls_connection(proxy.transport, req=request, timeout=NO_TIMEOUTS)
            return cast(HttpConnection, made)
        except BaseException:
            proxy.abort()
            raise


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
    elif type(cause) is ClientConnectionError:
        kind = FailureKind.CLOSED
    return WireFailure(Stage.CONNECT, kind, sent=False, detail=failure_detail(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
