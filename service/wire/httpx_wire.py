"""The portable wire (transport): any httpx transport, called directly, without httpx's client.

    send:  Slots.take -> transport.handle_async_request -> status, headers -> HttpxResponse -> read ... aclose

httpcore, behind httpx's own transport, emits trace events. They show whether a connection was opened and
whether sending began, and they start and stop the connect timeout. A transport without trace events works
too: then every failure counts as sent, `reused` is always false, and there is no connect timeout.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar, cast

import httpcore
import httpx

from dub5.service import clock
from dub5.service.wire.base import (
    CONNECTION_AGE_S,
    KEEPALIVE_S,
    WIRE_HEADERS,
    ConnectTimer,
    FailureKind,
    Slot,
    Slots,
    Stage,
    WireFailure,
    WireRequest,
    is_local,
)
from dub5.service.wire.head import BadHead, check_headers
from dub5.service.wire.proxy import is_private_host, tunnel_failure

T = TypeVar("T")
IDENTITY = ("accept-encoding", "identity")
DETAIL_CHARS_MAX = 200
CLOSED_MESSAGES = ("Server disconnected", "peer closed connection")  # of httpcore and h11, for an early end
STATUS_LINE = {"http_version": b"HTTP/1.1", "reason_phrase": b""}
RESETS = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


class HttpxWire:
    """A wire over `transport`, or over httpx's own transport with verified certificates.

    Calls with `request.fresh` use the transport `fresh`, which keeps no connection alive. Without `fresh`, a
    custom `transport` serves them too, and may then reuse a connection. `proxy` is the `http://host:port` for
    providers outside the private network; a custom transport handles proxies itself.
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
        connection_age_max_s: float = CONNECTION_AGE_S,
    ) -> None:
        self._slots = slots or Slots()
        self._age_max_s = connection_age_max_s
        self._tasks = _OwnTasks()
        self._direct: dict[bool, httpx.AsyncBaseTransport]  # by `request.fresh`
        if transport is None:
            tls = tls or ssl.create_default_context()
            self._direct = _httpx_transports(tls, keepalive_s, None)
            self._proxied = _httpx_transports(tls, keepalive_s, proxy) if proxy else self._direct
        else:
            self._direct = self._proxied = {False: transport, True: fresh or transport}

    async def send(self, request: WireRequest) -> "HttpxResponse":
        """Send the request and wait for status and headers. Raises WireFailure."""
        slot = await self._slots.take(request.origin, request.pool_s)
        try:
            return await self._tasks.cancellable(self._send(request, slot), HttpxResponse.aclose)
        except BaseException:
            slot.free()
            raise

    async def _send(self, request: WireRequest, slot: Slot) -> "HttpxResponse":
        try:
            transport = self._transport(request)
        except (httpx.InvalidURL, UnicodeError) as error:  # an address that nobody can have
            detail = _detail(error)
            raise WireFailure(Stage.RESOLVE, FailureKind.REFUSED, sent=False, detail=detail) from error
        trace = _Trace(request.connect_s, self._age_max_s)
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
        try:
            _check_head(response)
        except BadHead as bad:
            with contextlib.suppress(httpx.TransportError, OSError):
                await cast(httpx.AsyncByteStream, response.stream).aclose()
            kind, detail = FailureKind.PROTOCOL, _detail(bad)
            raise WireFailure(Stage.WAIT, kind, sent=True, reused=trace.reused, detail=detail) from bad
        return HttpxResponse(response, slot, trace, self._tasks)

    def _transport(self, request: WireRequest) -> httpx.AsyncBaseTransport:
        transports = self._direct if is_private_host(_httpx_url(request.url).host) else self._proxied
        return transports[request.fresh]

    async def aclose(self) -> None:
        """Close every connection, and wait for the closes that are under way."""
        for transport in {*self._direct.values(), *self._proxied.values()}:
            await transport.aclose()
        await self._tasks.finish()


class HttpxResponse:
    """A status, headers and an unread body; see dub5.service.wire.base.WireResponse."""

    status: int
    headers: Mapping[str, str]
    reused: bool

    def __init__(self, response: httpx.Response, slot: Slot, trace: "_Trace", tasks: "_OwnTasks") -> None:
        self.status = response.status_code
        self.headers = dict(response.headers.multi_items())  # of repeated ones the last
        self.reused = trace.reused
        self._compressed = self.headers.get("content-encoding", "identity").lower() not in ("identity", "")
        self._stream = cast(httpx.AsyncByteStream, response.stream)
        self._parts: AsyncIterator[bytes] = aiter(self._stream)
        self._slot = slot
        self._tasks = tasks
        self._network = response.extensions.get("network_stream")
        self._ended = False
        self._closed = False

    async def read(self) -> bytes:
        """Return the available bytes, at least one; `b""` at the body's proper end. Raises WireFailure."""
        if self._ended:
            return b""
        try:
            if self._closed:
                raise self._body_failure(FailureKind.CLOSED, "closed by us")
            if self._compressed:
                raise self._body_failure(FailureKind.PROTOCOL, "compressed though not asked for")
            data = await self._tasks.cancellable(self._next(), _nothing)
        except (httpx.TransportError, httpx.StreamError, OSError) as error:
            await self.aclose()
            raise self._body_failure(_kind(error), _detail(error)) from error
        except BaseException:
            await self.aclose()
            raise
        if not data:
            self._ended = True
            await self.aclose()
        return data

    async def _next(self) -> bytes:
        async for part in self._parts:
            if part:
                return part
        return b""

    async def _drop_leftover(self) -> None:
        # httpcore would pass bytes that follow this answer to the next caller as its answer.
        inner = _follow(self._stream, "_httpcore_stream", "_stream", "_connection", "_h11_state")
        if getattr(inner, "trailing_data", (b"",))[0] and self._network is not None:
            await self._network.aclose()

    async def aclose(self) -> None:
        """Return the connection to the pool if the body was read to its end, else close it at once."""
        self._closed = True
        await self._tasks.close(self._close())

    async def _close(self) -> None:
        try:
            if self._ended:
                await self._drop_leftover()
            with contextlib.suppress(httpx.TransportError, OSError):
                await self._stream.aclose()
            if isinstance(self._parts, AsyncGenerator):
                # RuntimeError: another task is reading; the closed connection ends its read.
                with contextlib.suppress(RuntimeError):
                    await self._parts.aclose()
        finally:
            self._slot.free()

    def _body_failure(self, kind: FailureKind, detail: str) -> WireFailure:
        return WireFailure(Stage.BODY, kind, sent=True, reused=self.reused, detail=detail)


class _OwnTasks:
    """What suspends inside httpcore runs in tasks of the wire: no cancellation of a caller cuts a close.

    httpcore closes a connection in the task that is cancelled, and its close suspends: a second cancellation
    would leave the connection open, and in its pool, for ever.
    """

    def __init__(self) -> None:
        self._calls: set[asyncio.Task[Any]] = set()
        self._closes: set[asyncio.Task[None]] = set()

    async def close(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a close to its end, whatever happens to the caller."""
        task = _start(work, self._closes)
        await asyncio.wait({task})
        task.result()

    async def cancellable(self, work: Coroutine[Any, Any, T], release: Callable[[T], Awaitable[None]]) -> T:
        """Return the result of `work`, which is cancelled once with its caller.

        `release` gets a result that comes too late.
        """
        task: asyncio.Task[T] = _start(work, self._calls)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await self.close(_release(task, release))
            raise
        return task.result()

    async def finish(self) -> None:
        """Wait for the closes that are under way."""
        while self._closes:
            await asyncio.wait(self._closes)


def _start(work: Coroutine[Any, Any, T], into: set[asyncio.Task[T]]) -> asyncio.Task[T]:
    task = asyncio.create_task(work)
    into.add(task)
    task.add_done_callback(into.discard)
    return task


async def _release(task: asyncio.Task[T], release: Callable[[T], Awaitable[None]]) -> None:
    await asyncio.wait({task})
    if not task.cancelled() and task.exception() is None:
        await release(task.result())


async def _nothing(data: bytes) -> None:
    """Release nothing."""


class _Trace:
    """The trace events of one call, and its connect timer, which covers DNS, TCP and TLS."""

    def __init__(self, connect_s: float, age_max_s: float) -> None:
        self.timer = ConnectTimer()
        self._connect_s = connect_s
        self._age_max_s = age_max_s
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
            _bound_age(self._stream, self._age_max_s)
        elif event.endswith("start_tls.complete"):
            _bound_age(cast(httpcore.AsyncNetworkStream, info["return_value"]), self._age_max_s)
        elif event.endswith("send_request_headers.started") and not _is_connect(info):
            self._sent = True
            self.timer.stop()

    async def close_unused(self, transport: httpx.AsyncBaseTransport) -> None:
        """Close a connection on which nothing was sent.

        httpcore loses the connection of a cancelled handshake, which would stay open, and keeps forever a
        proxy's tunnel without a handshake.
        """
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


def _bound_age(stream: httpcore.AsyncNetworkStream, age_max_s: float) -> None:
    """Let httpcore replace this connection between two requests once it has the greatest age.

    Before it reuses an idle connection, httpcore asks whether it is readable: then the provider has ended it.
    """
    opened_s, extra_info = clock.now(), stream.get_extra_info

    def get_extra_info(info: str) -> Any:
        is_old = info == "is_readable" and clock.now() - opened_s >= age_max_s
        return True if is_old else extra_info(info)

    stream.get_extra_info = get_extra_info  # type: ignore[method-assign]


def _follow(inner: object, *names: str) -> object:
    """Follow private attributes of httpcore; None if a name no longer exists."""
    for name in names:
        inner = getattr(inner, name, None)
    return inner


def _is_connect(info: Mapping[str, object]) -> bool:
    """Return whether the request is a CONNECT to the proxy, before the provider is reached."""
    return cast(httpcore.Request, info["request"]).method == b"CONNECT"


@lru_cache(maxsize=1024)
def _httpx_url(url: str) -> httpx.URL:
    return httpx.URL(url)


def _httpx_request(request: WireRequest, trace: _Trace) -> httpx.Request:
    headers = [IDENTITY, *((k, v) for k, v in request.headers.items() if k not in WIRE_HEADERS)]
    # The service enforces all timeouts itself: its timers notice a stall of our own event loop.
    no_timeouts = dict.fromkeys(("connect", "pool", "read", "write"))
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
    """Create a transport that keeps connections alive (False), and one that keeps none (True)."""
    return {fresh: _httpx_transport(tls, keepalive_s, 0 if fresh else None, proxy) for fresh in (False, True)}


def _httpx_transport(
    tls: ssl.SSLContext, keepalive_s: float, kept: int | None, proxy: str | None
) -> httpx.AsyncHTTPTransport:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=kept, keepalive_expiry=keepalive_s)
    return httpx.AsyncHTTPTransport(verify=tls, limits=limits, trust_env=False, retries=0, proxy=proxy)


def _check_head(response: httpx.Response) -> None:
    """Raise BadHead for what the rule refuses, and httpcore takes."""
    version, reason = (response.extensions.get(name, default) for name, default in STATUS_LINE.items())
    check_headers(response.headers.raw, reason, version)


def _send_failure(error: Exception, trace: _Trace) -> WireFailure:
    kind, detail = _kind(error), _detail(error)
    if isinstance(error, httpx.LocalProtocolError):  # an invalid header
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
    """Return the kind of a cause from loop or TLS. The nearest counts: a TLS read may wait behind a reset."""
    match cause:
        case ssl.SSLEOFError():
            return FailureKind.CLOSED
        case ssl.SSLError():
            return FailureKind.PROTOCOL
        case TimeoutError():
            return FailureKind.TIMEOUT
    if is_local(cause):
        return FailureKind.LOCAL
    return FailureKind.RESET if isinstance(cause, RESETS) else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__  # httpcore raises `from None` and hides the cause there


def _detail(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:DETAIL_CHARS_MAX]
