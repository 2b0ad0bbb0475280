"""The front: chat requests go from the connection to their exchange, without a framework in between.

    POST /v1/chat/completions in HTTP/1.1 --edge rules--> Exchange.serve(scope, FrontPeer)
    anything else, and what the edge refuses          --> ASGI application, as with any server

Left to the application as well: a request that waits for `100 Continue`, and one that comes before the
answer to the one before it is out. Through another ASGI server all requests go there.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, cast

from litestar.types import Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from dub5.service.api.chat import ApiDependencies, Exchange
from dub5.service.api.edge import edge_rules
from dub5.service.api.edge_rules import EdgeDecision, EdgeRules, RawHeaders, RequestHead
from dub5.service.api.errors import ClientGone
from dub5.service.api.peer import RequestHeaders
from dub5.service.api.refusal import not_yet_in
from dub5.service.app import Service
from dub5.service.errors import Internal
from dub5.service.events import crash_of
from dub5.service.http_protocol import BoundedProtocol

PATH = "/v1/chat/completions"
URL = PATH.encode("ascii")


class Front:
    """What all connections of a service share."""

    def __init__(self, service: Service) -> None:
        self._deps: Callable[[], ApiDependencies] = lambda: service.deps
        self._rules: EdgeRules | None = edge_rules(lambda: service.settings)
        self._default_headers: object = None
        self._default_lines = b""

    def exchange(self) -> Exchange:
        """Return the exchange of a new request."""
        return Exchange(self._deps())

    def pass_edge(self, protocol: "FrontProtocol") -> EdgeDecision | None:
        """Return what the edge makes of a request; None where there is no edge."""
        if self._rules is None:
            return None
        client = protocol.client
        head = RequestHead(
            "POST", PATH, PATH, protocol.scheme or "http", client[0] if client else None, protocol.headers
        )
        return self._rules.decide(head)

    def default_lines(self, state: ServerState) -> bytes:
        """Return the header lines of every response: the date, which the server renews each second."""
        if state.default_headers is not self._default_headers:
            self._default_headers = state.default_headers
            self._default_lines = b"".join([b"%b: %b\r\n" % header for header in state.default_headers])
        return self._default_lines


class FrontPeer:
    """The client of one exchange, on the connection of `protocol`.

    It stands where the server has its own state of a request: `cycle` of the protocol.
    """

    __slots__ = (
        "_chunked",
        "_edge_headers",
        "_keep_alive",
        "_more_body",
        "_on_leave",
        "_parts",
        "_protocol",
        "_waiting",
        "disconnected",
        "response_complete",
        "response_started",
    )

    def __init__(self, protocol: "FrontProtocol", edge_headers: RawHeaders, *, keep_alive: bool) -> None:
        self.response_started = False
        self.response_complete = False
        self.disconnected = False
        self._protocol = protocol
        self._edge_headers = edge_headers
        self._keep_alive = keep_alive
        self._parts = bytearray()
        self._more_body = True
        self._waiting: asyncio.Future[None] | None = None  # for a part of the body
        self._on_leave: Callable[[], None] | None = None
        self._chunked = False

    # What the connection says.

    def take_body(self, data: bytes) -> None:
        """Take a part of the body."""
        self._parts += data
        if len(self._parts) > HIGH_WATER_LIMIT:
            self._protocol.flow.pause_reading()
        self._wake()

    def end_body(self) -> None:
        """Note that the body is whole."""
        self._more_body = False
        self._wake()

    def leave(self) -> None:
        """Note that the client has left."""
        self.disconnected = True
        self._wake()
        if self._on_leave is not None and not self.response_complete:
            self._on_leave()

    def close_when_complete(self) -> None:
        """Take no other request on this connection: the server ends."""
        self._keep_alive = False

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    # What the exchange asks: see dub5.service.api.peer.Peer.

    def whole_body(self) -> bytes | None:
        """Return the body, if all of it is here."""
        return None if self._more_body or self.disconnected else self._take()

    async def read(self) -> tuple[bytes, bool]:
        """Return the next part of the body, and whether more comes. Raises ClientGone."""
        if not self._parts and self._more_body and not self.disconnected:
            self._waiting = self._protocol.loop.create_future()
            await self._waiting
        if self.disconnected:
            raise ClientGone
        return self._take(), self._more_body

    def _take(self) -> bytes:
        """Return what is here of the body, and read on: also the client's leaving is read."""
        self._protocol.flow.resume_reading()
        part, self._parts = bytes(self._parts), bytearray()
        return part

    def watch(self, on_leave: Callable[[], None]) -> None:
        """Call `on_leave` when the connection is lost."""
        self._on_leave = on_leave
        if self.disconnected:
            on_leave()

    def unwatch(self) -> None:
        """Watch no more."""
        self._on_leave = None

    def start(
        self, status: int, headers: Mapping[str, str], data: bytes, *, more: bool
    ) -> Awaitable[None] | None:
        """Send the head and the beginning of the body, at once."""
        if self._protocol.flow.write_paused:
            return self._when_writable(lambda: self.start(status, headers, data, more=more))
        if not self.disconnected:
            self._chunked = "content-length" not in headers
            head = self._head(status, headers)
            self.response_started = True
            self._protocol.transport.write(head + self._framed(data, more=more))
            if not more:
                self._complete()
        return None

    def write(self, data: bytes, *, more: bool) -> Awaitable[None] | None:
        """Send the next part of the body."""
        if self._protocol.flow.write_paused:
            return self._when_writable(lambda: self.write(data, more=more))
        if not self.disconnected:
            self._protocol.transport.write(self._framed(data, more=more))
            if not more:
                self._complete()
        return None

    async def _when_writable(self, send: Callable[[], Awaitable[None] | None]) -> None:
        await self._protocol.flow.drain()
        waiting = send()
        if waiting is not None:
            await waiting

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        lines = list(map(": ".join, headers.items()))
        if self._edge_headers:
            own = {name.encode("ascii") for name in headers}
            lines += [b": ".join(line).decode("latin-1") for line in not_yet_in(own, self._edge_headers)]
        if "connection" in headers:
            self._keep_alive = False  # `close`: nothing else is said there
        elif not self._keep_alive:
            lines.append("connection: close")
        if self._chunked:
            lines.append("transfer-encoding: chunked")
        lines.append("\r\n")
        protocol = self._protocol
        fixed = protocol.front.default_lines(protocol.server_state)
        return STATUS_LINE[status] + fixed + "\r\n".join(lines).encode("latin-1", "replace")

    def _framed(self, data: bytes, *, more: bool) -> bytes:
        if not self._chunked:
            return data
        framed = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        return framed if more else framed + b"0\r\n\r\n"

    def _complete(self) -> None:
        self.response_complete = True
        if not self._keep_alive:
            self._protocol.transport.close()
        self._protocol.on_response_complete()


class FrontProtocol(BoundedProtocol):
    """One connection. Its server shows chat requests to their exchanges itself."""

    def __init__(self, *arguments: Any, front: Front, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.front = front
        self._peer: FrontPeer | None = None  # of the chat request that is being answered

    def connection_lost(self, exc: Exception | None) -> None:
        peer, self._peer = self._peer, None
        if isinstance(self.cycle, FrontPeer):  # it has no event that the server could set
            self.cycle = None  # type: ignore[assignment]
        super().connection_lost(exc)
        if peer is not None:
            peer.leave()

    def _begin_head(self) -> None:
        """Begin to collect a head. The application's view of it is made if it is to see it."""
        self.url, self.headers = b"", []

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_complete:
            self.headers.append((name.lower(), value))

    def _start_request(self) -> None:
        if self.url != URL:
            self._start_application()
            return
        headers = RequestHeaders(self.headers)
        if not self._is_direct(headers):
            self._start_application()
            return
        decision = self.front.pass_edge(self)
        if decision is None:
            self._start_exchange(headers, self.client, self.scheme or "http", ())
        elif decision.status is None:
            sent = decision.sent
            client = (sent.peer, 0) if sent.peer else None
            self._start_exchange(headers, client, sent.scheme, decision.headers)
        else:
            self._start_application()

    def _is_direct(self, headers: RequestHeaders) -> bool:
        """Return whether the request is one for the front: see above."""
        parser, cycle = self.parser, self.cycle
        return (
            (cycle is None or cycle.response_complete)
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and headers.get("expect") is None
        )

    def _start_application(self) -> None:
        url, headers = self.url, self.headers
        HttpToolsProtocol.on_message_begin(self)
        self.url = url
        for name, value in headers:
            HttpToolsProtocol.on_header(self, name, value)
        HttpToolsProtocol.on_headers_complete(self)

    def _start_exchange(
        self, headers: RequestHeaders, client: Any, scheme: str, edge_headers: RawHeaders
    ) -> None:
        exchange = self.front.exchange()
        self._peer = peer = FrontPeer(self, edge_headers, keep_alive=self.parser.should_keep_alive())
        self.cycle = cast(Any, peer)
        scope: Any = {
            "type": "http",
            "method": "POST",
            "scheme": scheme,
            "path": PATH,
            "query_string": b"",
            "headers": self.headers,
            "client": client,
        }
        task = self.loop.create_task(exchange.serve(cast(Scope, scope), headers, peer))
        self.tasks.add(task)
        task.add_done_callback(partial(self._on_exchange_end, peer, exchange))

    def _on_exchange_end(self, peer: FrontPeer, exchange: Exchange, task: asyncio.Task[None]) -> None:
        """End what an exchange has left open: a client that cannot have it all loses its connection."""
        self.tasks.discard(task)
        if self._peer is peer:
            self._peer = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            exchange.deps.events.emit(crash_of(error, exchange.id))
        if peer.response_complete or peer.disconnected:
            return
        if error is not None and not peer.response_started:
            self._refuse(Internal("An internal error occurred."), exchange.id)
        else:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        cycle: object = self.cycle
        if not isinstance(cycle, FrontPeer):
            super().on_body(body)
            return
        self._progressed = True
        if not cycle.response_complete:
            cycle.take_body(body)

    def on_message_complete(self) -> None:
        cycle: object = self.cycle
        if not isinstance(cycle, FrontPeer):
            super().on_message_complete()
        elif not cycle.response_complete:
            cycle.end_body()

    def shutdown(self) -> None:
        cycle: object = self.cycle
        if isinstance(cycle, FrontPeer) and not cycle.response_complete:
            cycle.close_when_complete()
        else:
            super().shutdown()


def protocol_of(service: Service) -> Callable[..., FrontProtocol]:
    """Return what makes the protocol of a connection to this service."""
    return partial(FrontProtocol, front=Front(service))
