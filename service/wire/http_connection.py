"""One connection to a provider: HTTP/1.1 as a client speaks it, one exchange after another.

    start: one write --> HEAD --> SIZED | CHUNKED | TO_CLOSE --> ENDED --> start ...
                          |  any fault, an end too early, abort: `failure` is set, and the reader is woken

Bytes that came before a fault are handed over before the fault is told. A head is read by the rule of
head.py. Chunks are read by httptools, which sees the same short head before each body: nothing of the
provider's head can mislead it.
"""

import asyncio
import errno
import ssl
from collections.abc import Mapping
from typing import Any, cast

from httptools import HttpParserError, HttpResponseParser

from dub5.service.wire.base import FailureKind, is_local
from dub5.service.wire.head import HEAD_BYTES_MAX, BadHead, head_end, ordinary_head, read_head

BUFFER_BYTES = 256 * 1024  # reading from the provider pauses while more is unread
JOIN_BYTES_MAX = 64 * 1024  # up to this size one copy is cheaper than a second write
DETAIL_CHARS_MAX = 200
END_OF_HEAD = b"\r\n\r\n"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
BODILESS = (204, 304)
IDLE, HEAD, SIZED, CHUNKED, TO_CLOSE, ENDED = range(6)


class HttpConnection(asyncio.Protocol):
    """The protocol of one connection. It serves one exchange at a time, and knows no pool.

    `opened_s`, `idle_since_s`: loop seconds. `failure`: what ended the exchange before its end.
    """

    status: int
    headers: Mapping[str, str]

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.opened_s = self.idle_since_s = self.loop.time()
        self.open_connections: set[HttpConnection] = set()
        self.transport: asyncio.Transport | None = None
        self.state = IDLE
        self.failure: tuple[FailureKind, str] | None = None
        self._is_bodiless = False
        self._is_clean = True  # all bytes that came belong to an answer
        self._is_paused = False
        self._head = bytearray()  # of a head that is not yet whole
        self._left = 0  # bytes of a sized body to come, or that trailers may have
        self._chunks: Any = None  # a HttpResponseParser, once a body has chunks
        self._parts: list[bytes] = []
        self._unread = 0  # bytes since the last read, with their framing
        self._waiter: asyncio.Future[None] | None = None

    def count_among(self, open_connections: "set[HttpConnection]") -> None:
        """Be in the set until the connection is lost, which may have happened already."""
        self.open_connections = open_connections
        if self.transport is not None:
            open_connections.add(self)

    def start(self, head: bytes, body: bytes = b"", *, bodiless: bool = False) -> bool:
        """Send a request; return whether the connection was still there. `bodiless`: so is the answer."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        self.state, self._is_bodiless, self._unread = HEAD, bodiless, 0
        if len(body) <= JOIN_BYTES_MAX:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        return True

    def take(self) -> bytes:
        """Return the bytes that have come and were not yet taken."""
        parts = self._parts
        if not parts:
            return b""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._unread = 0
        if self._is_paused:
            self._is_paused = False
            if self.transport is not None:
                self.transport.resume_reading()
        return data

    def wait(self) -> asyncio.Future[None]:
        """Return what is done when there is more to see: a head, bytes, the end, or a failure."""
        self._waiter = waiter = self.loop.create_future()
        return waiter

    def release(self) -> bool:
        """End the exchange; return whether another may follow: all was sent, and no byte too much came."""
        transport, self.state = self.transport, IDLE
        if self._parts:
            self.take()
        self.idle_since_s = self.loop.time()
        return self.is_reusable() and transport is not None and not transport.get_write_buffer_size()

    def is_reusable(self) -> bool:
        """Return whether the connection is open and has been silent since its last answer."""
        return self._is_clean and self.transport is not None and not self.transport.is_closing()

    def abort(self, detail: str = "closed by us") -> None:
        """Close at once, without a wait for unsent bytes or for TLS's goodbye. Wake the reader."""
        self._fail(FailureKind.CLOSED, detail)
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def connection_lost(self, exc: Exception | None) -> None:
        """End a body without a length; any other exchange has failed."""
        self.transport, self._chunks = None, None
        self.open_connections.discard(self)
        if self.state == TO_CLOSE and exc is None:
            self.state = ENDED
            self._wake()
        else:
            self._fail(failure_kind(exc), failure_detail(exc))

    def eof_received(self) -> None:
        """Close at once where bytes are unsent: else the transport would wait until the peer reads them."""
        if self.transport is not None and self.transport.get_write_buffer_size():
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take bytes of an answer, and wake who waits for them."""
        if self.failure is not None:
            return
        self._unread += len(data)
        try:
            if self.state == CHUNKED:
                self._chunks.feed_data(data)
            else:
                self._take_in(data)
        except (BadHead, HttpParserError) as error:
            if self.state != ENDED:
                cause = error.__context__ if isinstance(error.__context__, BadHead) else error
                self._fail(FailureKind.PROTOCOL, failure_detail(cause))
            self._is_clean = False
        if self._unread > BUFFER_BYTES and self.state != HEAD:
            self._pause()
        if self._waiter is not None and (self._parts or self.state == ENDED):
            self._wake()

    def _take_in(self, data: bytes) -> None:
        """Take bytes by the state of the exchange. Raises BadHead, HttpParserError."""
        state = self.state
        if state == CHUNKED:
            self._chunks.feed_data(data)
        elif state == SIZED:
            self._left = left = self._left - len(data)
            self._parts.append(data if left >= 0 else data[:left])
            if left <= 0:
                self.state, self._is_clean = ENDED, left == 0 and self._is_clean
        elif state == TO_CLOSE:
            self._parts.append(data)
        elif state == HEAD:
            self._take_head(data)
        else:
            self._is_clean = False

    def _take_head(self, data: bytes) -> None:
        """Take heads, or a part of one, and what follows them. Raises BadHead, HttpParserError."""
        end = data.find(END_OF_HEAD) + len(END_OF_HEAD)
        if not self._head and end >= len(END_OF_HEAD) and (read := ordinary_head(data[:end])) is not None:
            self._begin_body(*read)
            data = data[end:]
        while data and self.state == HEAD:
            before = len(self._head)
            self._head += data
            if not (end := head_end(self._head, before)):
                return
            head = bytes(self._head[:end])
            self._head.clear()
            data = data[end - before :]
            status, headers = read_head(head)
            if status == 101:
                raise BadHead("upgraded though not asked for")
            if status >= 200:  # else 100 Continue, 103 Early Hints: another head follows
                self._begin_body(status, headers, head[:8] == b"HTTP/1.0")
        if data:
            self._take_in(data)

    def _begin_body(self, status: int, headers: dict[str, str], is_old: bool = False) -> None:
        """Set status, headers and how the body is framed. `is_old`: the head is of HTTP/1.0."""
        self.status, self.headers = status, headers
        connection = headers.get("connection", "").lower()
        if "close" in connection or (is_old and "keep-alive" not in connection):
            self._is_clean = False
        if self._is_bodiless or status in BODILESS:
            self.state = ENDED
        elif "transfer-encoding" in headers:  # the rule lets only `chunked` pass
            self._begin_chunks()
        elif (length := headers.get("content-length")) is not None:
            self._left = int(length)
            self.state = SIZED if self._left else ENDED
        else:
            self.state, self._is_clean = TO_CLOSE, False
        self._wake()

    def _begin_chunks(self) -> None:
        if self._chunks is None:
            self._chunks = HttpResponseParser(self)
        self._left = HEAD_BYTES_MAX  # for trailers
        self._chunks.feed_data(CHUNKED_HEAD)
        self.state = CHUNKED

    def on_message_begin(self) -> None:
        """Take the beginning of a body's short head, and of nothing else. Raises BadHead."""
        if self.state == ENDED:
            raise BadHead("bytes beyond the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Pass over a trailer, if they are not too large. Raises BadHead."""
        self._left -= len(name) + len(value) + 2
        if self._left < 0:
            raise BadHead("the trailers are too large")

    def on_body(self, data: bytes) -> None:
        """Take bytes of a chunk."""
        self._parts.append(data)

    def on_message_complete(self) -> None:
        """Note the end of the last chunk's trailers."""
        self.state = ENDED

    def _pause(self) -> None:
        if not self._parts:  # framing without an end: it would never be read
            self._fail(FailureKind.PROTOCOL, "no body in its framing")
        elif self.transport is not None and not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    def _fail(self, kind: FailureKind, detail: str) -> None:
        """End the exchange, unless it has ended or failed before, and the connection."""
        self._is_clean = False
        if self.state not in (IDLE, ENDED) and self.failure is None:
            self.failure = kind, detail
        if kind is FailureKind.PROTOCOL and self.transport is not None:
            self.transport.abort()
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def failure_kind(error: BaseException | None) -> FailureKind:
    """Return what an error of the event loop means; None: the connection was closed as it should be."""
    if error is None:
        return FailureKind.CLOSED
    if isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
        return FailureKind.PROTOCOL
    if is_local(error):
        return FailureKind.LOCAL
    if isinstance(error, OSError):
        return FailureKind.TIMEOUT if error.errno == errno.ETIMEDOUT else FailureKind.RESET
    return FailureKind.PROTOCOL


def failure_detail(error: BaseException | None) -> str:
    """Return the kind of an error, and its words on one line."""
    if error is None:
        return "the provider closed the connection"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:DETAIL_CHARS_MAX]
