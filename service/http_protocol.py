"""HTTP/1 on accepted connections: uvicorn's httptools protocol, with bounds on the head of a request.

    a head of more than HEAD_BYTES_MAX bytes    431, and the connection is closed
    a head that is not whole after HEAD_S       408, and the connection is closed; silently if nothing came
    bytes that are not HTTP                     400
    a WebSocket handshake                       handed to the protocol for WebSockets, where there is one
    any other `Upgrade`                         ignored, as HTTP allows: the request and its body are served
    HTTP/1.0                                    a body without a length ends with the connection

These refusals have the shape of all our errors, and the headers of all answers behind an edge (api/edge.py).
"""

import asyncio
import secrets
from typing import Any

import httptools
import msgspec
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from dub5.service.api.edge_rules import SECURITY_HEADERS
from dub5.service.api.errors import error_body, error_headers
from dub5.service.api.socket_handshake import is_small, is_upgrade, upgrade_head
from dub5.service.errors import GatewayError, HeadTooLarge, InvalidRequest, RequestTimeout
from dub5.service.unread import aborting_unread

HEAD_BYTES_MAX = 64 * 1024
HEAD_S = 20.0


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A head, or the headers after a chunked body, may have HEAD_BYTES_MAX bytes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._data_bytes = 0  # the length of the data that is being parsed
        self._idle_bytes = 0  # received before that, since a head began or ended, or a part of a body came
        self._progressed = False
        self._head_complete = True  # between requests, and while a body arrives
        self._head_clock: asyncio.TimerHandle | None = None
        self._idle_since_s: float | None = None  # the end of the last response, until the next byte comes
        self._idle_clock: asyncio.TimerHandle | None = None
        self._upgrade_head: bytes | None = None  # a head that asked for an upgrade, without that
        self._socket_head: bytes | None = None  # a WebSocket handshake

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_head_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_clock()
        if self._idle_clock is not None:
            self._idle_clock.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data. Refuse what is not HTTP, and a head without an end."""
        self._data_bytes, self._progressed = len(data), False
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            refusal = cause if isinstance(cause, GatewayError) else InvalidRequest("This is not HTTP/1.1.")
            self._refuse(refusal)
            return
        if self._socket_head is not None:
            return
        self._idle_bytes = 0 if self._progressed else self._idle_bytes + len(data)
        if self._idle_bytes > HEAD_BYTES_MAX:
            self._refuse(_head_too_large())
            return
        if self._is_waiting_for_head():
            self._start_head_clock()

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._socket_head is not None:
                self._hand_over(self._socket_head + data[upgrade.args[0] :])
                return
            if self._upgrade_head is None:  # CONNECT
                raise httptools.HttpParserError from None
            # The parser would take the rest for another protocol: a new one reads the request again.
            head, self._upgrade_head = self._upgrade_head, None
            self.parser = httptools.HttpRequestParser(self)
            self._feed(head + data[upgrade.args[0] :])

    def on_message_begin(self) -> None:
        self._head_complete, self._progressed = False, True
        self._begin_head()

    def _begin_head(self) -> None:
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_complete:  # what follows a chunked body is no part of the head
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, unless its head is too large, or asks for another protocol."""
        may_be_large = self._idle_bytes + self._data_bytes > HEAD_BYTES_MAX
        if may_be_large and self._head_size() > HEAD_BYTES_MAX:
            raise _head_too_large()
        if self.parser.should_upgrade():
            if self._opens_socket():
                self._socket_head = upgrade_head(self.url, self.headers)
            else:
                self._upgrade_head = self._head_without_upgrade()
            return
        self._head_complete = self._progressed = True
        self._stop_head_clock()
        self._start_request()

    def _start_request(self) -> None:
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._upgrade_head is None and self._socket_head is None:
            super().on_message_complete()

    def _opens_socket(self) -> bool:
        """Return whether the request is a WebSocket handshake. Raises HeadTooLarge."""
        is_busy = bool(self.pipeline) or not (self.cycle is None or self.cycle.response_complete)
        if self.ws_protocol_class is None or is_busy:
            return False
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if not is_upgrade(method, self.url, version, self.headers):
            return False
        if not is_small(self.url, self.headers):
            raise HeadTooLarge("The head of a WebSocket handshake has too many headers, or too long ones.")
        return True

    def _hand_over(self, data: bytes) -> None:
        """Let the protocol for WebSockets have the connection, and what came on it."""
        self._stop_head_clock()
        self.connections.discard(self)
        kind: Any = self.ws_protocol_class
        protocol = kind(config=self.config, server_state=self.server_state, app_state=self.app_state)
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        protocol.data_received(data)

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _head_without_upgrade(self) -> bytes | None:
        method = self.parser.get_method()
        if method == b"CONNECT":
            return None
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                lines.append(b"connection: " + _without_upgrade(value))
            elif name != b"upgrade":
                lines.append(b"%s: %s" % (name, value))
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _is_waiting_for_head(self) -> bool:
        return not self._head_complete or self.cycle is None or self.cycle.response_complete

    def _start_head_clock(self) -> None:
        if self._head_clock is None:
            self._head_clock = self.loop.call_later(HEAD_S, self._head_overdue)

    def _stop_head_clock(self) -> None:
        if self._head_clock is not None:
            self._head_clock.cancel()
            self._head_clock = None

    def _head_overdue(self) -> None:
        self._head_clock = None
        if self.transport.is_closing():
            return
        if self._head_complete:
            self.transport.close()
        else:
            self._refuse(RequestTimeout(f"The head of the request was not whole after {HEAD_S:.0f} s."))

    def on_response_complete(self) -> None:
        """Start the next request, or wait for it. The server's own way sets a timer for each request."""
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
                return
        self._idle_since_s = self.loop.time()
        if self._idle_clock is None:
            self._idle_clock = self.loop.call_later(self.timeout_keep_alive, self._on_idle_clock)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since_s = None

    def _on_idle_clock(self) -> None:
        """End the connection if nothing has come for long enough, else look again when it may be so."""
        self._idle_clock = None
        if self._idle_since_s is None:
            return
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._idle_clock = self.loop.call_later(left_s, self._on_idle_clock)
        else:
            self.transport.abort()  # `close` would wait until the client has read all: perhaps for ever

    def _refuse(self, error: GatewayError, request_id: str | None = None) -> None:
        """Send the error and close, unless a response is under way: then only close.

        `request_id`: the one that is known of the request.
        """
        self._stop_head_clock()
        idle = self.cycle is None or self.cycle.response_complete or not self.cycle.response_started
        if idle and not self.pipeline and not self.transport.is_closing():
            id_ = request_id or f"req_{secrets.token_hex(12)}"
            self.transport.write(_response(error, id_, with_body=self.parser.get_method() != b"HEAD"))
        self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if cycle.scope["http_version"] == "1.0":
            app = _ended_by_close(app, cycle)
        super()._start_asgi_task(cycle, aborting_unread(app, cycle))


def _ended_by_close(app: ASGI3Application, cycle: RequestResponseCycle) -> ASGI3Application:
    """Return the application without chunks: HTTP/1.0 does not know them."""

    async def framed(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def send_plainly(message: ASGISendEvent) -> None:
            if message["type"] == "http.response.start":
                if all(name.lower() != b"content-length" for name, _ in message.get("headers", ())):
                    cycle.chunked_encoding = False
            elif message["type"] == "http.response.body" and cycle.chunked_encoding is False:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_plainly)

    return framed


def _without_upgrade(connection: bytes) -> bytes:
    options = [option.strip() for option in connection.split(b",")]
    return b", ".join(option for option in options if option.lower() != b"upgrade")


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"The head of the request is larger than {HEAD_BYTES_MAX:,} bytes.")


def _response(error: GatewayError, request_id: str, *, with_body: bool) -> bytes:
    body = msgspec.json.encode(error_body(error, request_id))
    headers = error_headers(error, request_id) | {"content-length": str(len(body)), "connection": "close"}
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    head = b"".join([b"%s: %s\r\n" % line for line in (*lines, *SECURITY_HEADERS)])
    return STATUS_LINE[error.status] + head + b"\r\n" + (body if with_body else b"")
