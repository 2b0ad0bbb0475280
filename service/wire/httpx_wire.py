"""The portable wire: any httpx transport, called directly, without httpx's client.

    send:  Slots.take -> transport.handle_async_request -> status and headers -> HttpxResponse -> read ... aclose

httpcore, behind httpx's own transport, tells what it does by trace events. They say whether a connection was
opened, whether the request began to leave, and they start and stop the connect clock. A transport that traces
nothing still works: then every failure counts as sent, `reused` is never said, and connecting has no clock of its own.
"""

import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from functools import lru_cache
from typing import cast

import httpcore
import httpx

from dub5.service.wire.base import (
    KEEPALIVE_S,
    WIRE_HEADERS,
    ConnectTimer,
    FailureKind,
    Slot,
    Slots,
    Stage,
    WireFailure,
    WireRequest,
)
from dub5.service.wire.proxy import is_private_host, tunnel_failure

IDENTITY = ("accept-encoding", "identity")
DETAIL_CHARS_MAX = 200
CLOSED_MESSAGES = (
    "Server disconnected",
    "peer closed connection",
)  # httpcore's and h11's words for an early end
RESETS = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


class HttpxWire:
    """Calls through `transport`, or through httpx's own with certificates verified.

    Calls that ask for a fresh connection go through `fresh`, which keeps none alive; a transport of your own
    without a `fresh` beside it takes them too, and then cannot promise it. `proxy`: the `http://host:port` by way of
    which providers outside our own network are reached; a transport of your own sees to that itself.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        slots: Slots | None = None,
        keepalive_s: float = KEEPALIVE_S,
        tls: ssl.SSLContext | None = None,
        fresh: httpx.AsyncBaseTransport | None = None,
        proxy: str | None = None,
    ) -> None:
        self._slots = slots or Slots()
        self._direct: dict[bool, httpx.AsyncBaseTransport]  # by whether a fresh connection is asked for
        if transport is None:
            tls = tls or ssl.create_default_context()
            self._direct = _httpx_transports(tls, keepalive_s, None)
            self._proxied = _httpx_transports(tls, keepalive_s, proxy) if proxy else self._direct
        else:
            self._direct = self._proxied = {False: transport, True: fresh or transport}

    async def send(self, request: WireRequest) -> "HttpxResponse":
        """Sends the request and waits for status and headers. Raises WireFailure."""
        slot = await self._slots.take(request.origin, request.pool_s)
        try:
            return await self._send(request, slot)
        except BaseException:
            slot.free()
            raise

    async def _send(self, request: WireRequest, slot: Slot) -> "HttpxResponse":
        transport = self._transport(request)
        trace = _Trace(request.connect_s)
        try:
            async with trace.timer:
                response = await transport.handle_async_request(_httpx_request(request, trace))
        except TimeoutError:
            raise WireFailure(Stage.CONNECT, FailureKind.TIMEOUT, sent=False) from None
        except httpx.ProxyError as error:
            raise tunnel_failure(int(str(error)[:3])) from error
        except (httpx.TransportError, OSError, UnicodeError) as error:
            raise _send_failure(error, trace) from error
        finally:
            await trace.close_unused(transport)
        return HttpxResponse(response, slot, trace)

    def _transport(self, request: WireRequest) -> httpx.AsyncBaseTransport:
        transports = self._direct if is_private_host(_httpx_url(request.url).host) else self._proxied
        return transports[request.fresh]

    async def aclose(self) -> None:
        """Closes every connection."""
        for transport in {*self._direct.values(), *self._proxied.values()}:
            await transport.aclose()


class HttpxResponse:
    """A status, headers and the body still to be read; see dub5.service.wire.base.WireResponse."""

    status: int
    headers: Mapping[str, str]
    reused: bool

    def __init__(self, response: httpx.Response, slot: Slot, trace: "_Trace") -> None:
        self.status = response.status_code
        self.headers = dict(response.headers.items())
        self.reused = trace.reused
        self._compressed = self.headers.get("content-encoding", "identity").lower() not in ("identity", "")
        self._stream = cast(httpx.AsyncByteStream, response.stream)
        self._parts: AsyncIterator[bytes] = aiter(self._stream)
        self._slot = slot
        self._network = response.extensions.get("network_stream")
        self._ended = False
        self._closed = False

    async def read(self) -> bytes:
        """The bytes that are ready, at least one; `b""` once at the body's proper end. Raises WireFailure."""
        if self._ended:
            return b""
        try:
            if self._closed:
                raise self._body_failure(FailureKind.CLOSED, "closed by us")
            if self._compressed:
                raise self._body_failure(FailureKind.PROTOCOL, "compressed though not asked for")
            data = await self._next()
        except (httpx.TransportError, httpx.StreamError, OSError) as error:
            await self.aclose()
            raise self._body_failure(_kind(error), _detail(error)) from error
        except BaseException:
            await self.aclose()
            raise
        if not data:
            self._ended = True
            await self._drop_leftover()
            await self.aclose()
        return data

    async def _next(self) -> bytes:
        async for part in self._parts:
            if part:
                return part
        return b""

    async def _drop_leftover(self) -> None:
        # httpcore would hand what came after this answer to the next caller as theirs.
        inner = _follow(self._stream, "_httpcore_stream", "_stream", "_connection", "_h11_state")
        if getattr(inner, "trailing_data", (b"",))[0] and self._network is not None:
            await self._network.aclose()

    async def aclose(self) -> None:
        """Gives the connection back if the body was read to its end, else closes it at once."""
        self._closed = True
        try:
            with contextlib.suppress(httpx.TransportError, OSError):
                await self._stream.aclose()
            if isinstance(self._parts, AsyncGenerator):
                with contextlib.suppress(
                    RuntimeError
                ):  # another task reads: it is told by the closed connection
                    await self._parts.aclose()
        finally:
            self._slot.free()

    def _body_failure(self, kind: FailureKind, detail: str) -> WireFailure:
        return WireFailure(Stage.BODY, kind, sent=True, reused=self.reused, detail=detail)


class _Trace:
    """What httpcore has told about one call; holds the connect timer, from DNS to the end of TLS."""

    def __init__(self, connect_s: float) -> None:
        self.timer = ConnectTimer()
        self._connect_s = connect_s
        self._traced = False
        self._opened = False
        self._sent = False
        self._stream: httpcore.AsyncNetworkStream | None = None

    async def __call__(self, event: str, info: Mapping[str, object]) -> None:
        self._traced = True
        if event.endswith("connect_tcp.started"):
            self._opened = True
            self.timer.start(self._connect_s)
        elif event.endswith("connect_tcp.complete"):
            self._stream = cast(httpcore.AsyncNetworkStream, info["return_value"])
        elif event.endswith("send_request_headers.started") and not _is_connect(info):
            self._sent = True
            self.timer.stop()

    async def close_unused(self, transport: httpx.AsyncBaseTransport) -> None:
        """httpcore forgets the connection of a handshake that is cancelled, which would stay open; a proxy's tunnel
        in which there was no handshake it never forgets."""
        if self._stream is not None and not self._sent:
            await self._stream.aclose()
            for connection in getattr(getattr(transport, "_pool", None), "connections", ()):
                if _follow(connection, "_connection", "_connection", "_network_stream") is self._stream:
                    await connection.aclose()

    @property
    def sent(self) -> bool:
        return self._sent or not self._traced

    @property
    def reused(self) -> bool:
        return self._traced and not self._opened


def _follow(inner: object, *names: str) -> object:
    """What lies within, as far as httpcore still calls it that."""
    for name in names:
        inner = getattr(inner, name, None)
    return inner


def _is_connect(info: Mapping[str, object]) -> bool:
    """Whether the proxy is asked for a tunnel: the provider is not reached yet."""
    return cast(httpcore.Request, info["request"]).method == b"CONNECT"


@lru_cache(maxsize=1024)
def _httpx_url(url: str) -> httpx.URL:
    return httpx.URL(url)


def _httpx_request(request: WireRequest, trace: _Trace) -> httpx.Request:
    headers = [IDENTITY, *((k, v) for k, v in request.headers.items() if k not in WIRE_HEADERS)]
    no_timeouts = dict.fromkeys(
        ("connect", "pool", "read", "write")
    )  # ours see whether it was us who stood still
    return httpx.Request(
        request.method,
        _httpx_url(request.url),
        headers=headers,
        content=request.body,
        extensions={"timeout": no_timeouts, "trace": trace},
    )


def _httpx_transports(
    tls: ssl.SSLContext, keepalive_s: float, proxy: str | None
) -> dict[bool, httpx.AsyncBaseTransport]:
    """One that keeps connections, and under True one that keeps none."""
    return {fresh: _httpx_transport(tls, keepalive_s, 0 if fresh else None, proxy) for fresh in (False, True)}


def _httpx_transport(
    tls: ssl.SSLContext, keepalive_s: float, kept: int | None, proxy: str | None
) -> httpx.AsyncHTTPTransport:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=kept, keepalive_expiry=keepalive_s)
    return httpx.AsyncHTTPTransport(verify=tls, limits=limits, trust_env=False, retries=0, proxy=proxy)


def _send_failure(error: Exception, trace: _Trace) -> WireFailure:
    kind, detail = _kind(error), _detail(error)
    if isinstance(error, httpx.LocalProtocolError):  # a header that may not be sent
        return WireFailure(Stage.SEND, FailureKind.PROTOCOL, sent=False, detail=detail)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) or not trace.sent:
        unresolved = any(isinstance(cause, socket.gaierror | UnicodeError) for cause in _causes(error))
        return WireFailure(
            Stage.RESOLVE if unresolved else Stage.CONNECT, kind, sent=trace.sent, detail=detail
        )
    stage = Stage.SEND if isinstance(error, httpx.WriteError | httpx.WriteTimeout) else Stage.WAIT
    return WireFailure(stage, kind, sent=True, reused=trace.reused, detail=detail)


def _kind(error: Exception) -> FailureKind:
    if isinstance(error, httpx.TimeoutException):
        return FailureKind.TIMEOUT
    kind = next(filter(None, map(_system_kind, _causes(error))), None)
    if kind is not None:
        return kind
    if isinstance(error, httpx.ConnectError | UnicodeError):
        return FailureKind.REFUSED
    if isinstance(error, httpx.RemoteProtocolError):
        return FailureKind.CLOSED if str(error).startswith(CLOSED_MESSAGES) else FailureKind.PROTOCOL
    return FailureKind.PROTOCOL if isinstance(error, httpx.LocalProtocolError) else FailureKind.CLOSED


def _system_kind(cause: BaseException) -> FailureKind | None:
    """What loop and TLS say of it. The nearest cause counts: behind a reset there may be TLS that waited for bytes."""
    match cause:
        case ssl.SSLEOFError():
            return FailureKind.CLOSED
        case ssl.SSLError():
            return FailureKind.PROTOCOL
        case TimeoutError():
            return FailureKind.TIMEOUT
    return FailureKind.RESET if isinstance(cause, RESETS) else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__  # httpcore raises `from None` and hides the cause there


def _detail(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:DETAIL_CHARS_MAX]
