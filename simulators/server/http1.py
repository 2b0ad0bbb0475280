"""HTTP/1.1 as bytes: parses requests and frames responses. No I/O.

bytes -> RequestReader.feed -> [Incoming ...]          Head, Data, End -> Framing -> bytes
"""

from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import httptools

from dub5.simulators.script import Head, SimRequest

HEAD_BYTES_MAX = 64 * 1024  # request line and headers together
BODY_BYTES_MAX = 32 * 1024 * 1024
PIPELINED_MAX = 100  # requests that wait behind the one being answered

REASONS = {status.value: status.phrase for status in HTTPStatus}
BODILESS = (204, 304)


class RequestRejected(Exception):
    """A request that is malformed or too large; the connection ends with this status."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status

    def answer(self) -> bytes:
        """Return the response to the client."""
        body = f"{self}\n"
        head = f"HTTP/1.1 {self.status} {REASONS[self.status]}\r\ncontent-type: text/plain\r\n"
        return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode("latin-1")


@dataclass(frozen=True, slots=True)
class Incoming:
    """A whole request, and what its client supports."""

    request: SimRequest
    keep_alive: bool
    chunked_ok: bool  # HTTP/1.0 has no chunks


class RequestReader:
    """A parser from bytes to whole requests, in their order; a request may arrive in any number of pieces."""

    def __init__(self) -> None:
        self.expects_continue = False
        self._done: list[Incoming] = []
        self._refused: RequestRejected | None = None
        self._in_head = False
        self._head_bytes = 0  # fed since the head began: an upper bound while it is not complete
        self._header_bytes = 0
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> list[Incoming]:
        """Return the requests that `data` completes. Raises RequestRejected; feed nothing after that."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise RequestRejected(400, "no protocol upgrade here") from None
        except httptools.HttpParserError as error:
            raise RequestRejected(400, f"not HTTP/1.1: {error}") from None
        if self._in_head:  # the parser keeps an unfinished header without a callback
            self._head_bytes += len(data)
            self._check_head()
        if self._refused:
            raise self._refused
        done, self._done = self._done, []
        return done

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = self._header_bytes = 0
        self._url, self._headers, self._body = b"", {}, bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer
        self._header_bytes += len(name) + len(value) + 4
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = len(self._url) + self._header_bytes
        self._check_head()
        length = self._headers.get("content-length", "")
        if length.isdecimal() and int(length) > BODY_BYTES_MAX:
            self._too_large()
        self.expects_continue = self._headers.get("expect", "").lower() == "100-continue"

    def on_body(self, data: bytes) -> None:
        self.expects_continue = False
        if len(self._body) + len(data) > BODY_BYTES_MAX:
            self._too_large()
        else:
            self._body += data

    def on_message_complete(self) -> None:
        self.expects_continue = False
        url = urlsplit(self._url.decode("latin-1"))
        method = self._parser.get_method().decode("latin-1")
        request = SimRequest(method, url.path or "/", self._headers, bytes(self._body), url.query)
        self._body = bytearray()
        chunked_ok = self._parser.get_http_version() != "1.0"
        self._done.append(Incoming(request, self._parser.should_keep_alive(), chunked_ok))

    def _too_large(self) -> None:
        self._refused = RequestRejected(413, f"the body is larger than {BODY_BYTES_MAX} bytes")

    def _check_head(self) -> None:
        if self._head_bytes > HEAD_BYTES_MAX:
            self._refused = RequestRejected(431, f"the headers are larger than {HEAD_BYTES_MAX} bytes")


class Framing:
    """The framing of one response. `keeps`: the connection can carry another response after it."""

    def __init__(self, incoming: Incoming) -> None:
        self.keeps = False
        self._incoming = incoming
        self._chunked = False
        self._bodiless = False
        self._left: int | None = None  # bytes of the body still promised; None: no length, or no number

    def head(self, head: Head) -> bytes:
        names = {name.lower() for name in head.headers}
        self._bodiless = self._incoming.request.method == "HEAD" or head.status in BODILESS
        self._chunked = not self._bodiless and "content-length" not in names and self._incoming.chunked_ok
        self._left = None
        for name, value in head.headers.items():
            if name.lower() == "content-length" and value.isdecimal() and not self._bodiless:
                self._left = int(value)
        self.keeps = self._incoming.keep_alive and (self._bodiless or self._chunked or self._left is not None)
        lines = [f"HTTP/1.1 {head.status} {REASONS.get(head.status, '')}"]
        lines += [f"{name}: {value}" for name, value in head.headers.items()]
        if self._chunked and "transfer-encoding" not in names:
            lines.append("transfer-encoding: chunked")
        if not self.keeps and "connection" not in names:
            lines.append("connection: close")
        closes = any(n.lower() == "connection" and v.lower() == "close" for n, v in head.headers.items())
        self.keeps = self.keeps and not closes
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def data(self, data: bytes) -> bytes:
        if self._bodiless or not data:
            return b""
        if self._left is not None:
            self._left -= len(data)
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data

    def end(self) -> bytes:
        """Return the last bytes; a body shorter than promised ends the connection."""
        if self._left:
            self.keeps = False
        return b"0\r\n\r\n" if self._chunked else b""
