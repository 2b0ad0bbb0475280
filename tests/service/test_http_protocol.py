"""What the service makes of the bytes of a connection, in virtual time: a transport of the test, the real
protocol, and an application that says what it got."""

import asyncio

import pytest

from dub5.service.api.edge_rules import SECURITY_HEADERS
from dub5.service.http_protocol import HEAD_BYTES_MAX, HEAD_S
from tests.support.connection import Connection

POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
BODY = b'{"model": "chat"}'
LENGTH = b"content-length: %d\r\n\r\n" % len(BODY)
H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\n"


@pytest.mark.parametrize("upgrade", [H2C, b"Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\n", b""])
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_upgrades(upgrade: bytes, size: int) -> None:
    """A request that offers another protocol is served as it is, with its body, and so is the next one,
    however the bytes are cut."""
    data = (POST + upgrade + LENGTH + BODY) * 2
    connection = Connection()
    await connection.send(*(data[at : at + size] for at in range(0, len(data), size)))
    await asyncio.sleep(5)
    assert connection.asked == [("POST", "/v1/chat/completions", BODY)] * 2
    assert connection.received.count(b"HTTP/1.1 200") == 2


class Taken(asyncio.Protocol):
    """A protocol of WebSockets that keeps what it gets."""

    def __init__(self, **options: object) -> None:
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data


SOCKET = (
    b"GET /v1/ws?x HTTP/1.1\r\nhost: x\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade, h2\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("before", [b"", POST + LENGTH + BODY])
async def test_a_handshake(before: bytes, size: int) -> None:
    """A WebSocket handshake is handed over, with all that comes after it, however the bytes are cut; the
    clock of heads ends with it."""
    connection, after = Connection(ws=Taken), b"\x81\x85\0\0\0\0hello\r\n\r\nGET / HTTP/1.1"
    await connection.send(before)
    await asyncio.sleep(5)
    data = SOCKET + after
    await connection.send(*(data[at : at + size] for at in range(0, len(data), size)))
    assert connection.handed_to.data == (
        b"GET /v1/ws?x HTTP/1.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\nhost: x\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + after
    )
    assert len(connection.asked) == bool(before)
    await asyncio.sleep(2 * HEAD_S)
    assert connection.closed_s is None
    assert connection.protocol not in connection.protocol.connections


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"/v1/ws?x", b"/v1/ws/"),
        (b"GET", b"POST"),
        (b"WebSocket\r", b"h2c\r"),
        (b"Version: 13", b"Version: 12"),
        (b"host: x", b"content-length: 4"),
    ],
)
async def test_what_is_no_handshake(old: bytes, new: bytes) -> None:
    """What is not wholly a handshake for the one path is served by HTTP, and so is a handshake where no
    WebSocket is spoken, or while an answer is under way."""
    connection = Connection(ws=Taken)
    await connection.send(SOCKET.replace(old, new, 1) + b"abcd"[: 4 * (b"length" in new)])
    await asyncio.sleep(5)
    assert (connection.handed_to, len(connection.asked)) == (None, 1)

    silent = Connection()
    await silent.send(SOCKET)
    busy = Connection(ws=Taken)
    await busy.send(POST + LENGTH + BODY + SOCKET)
    await asyncio.sleep(10)
    assert (silent.handed_to, len(silent.asked)) == (None, 1)
    assert (busy.handed_to, len(busy.asked)) == (None, 2)


@pytest.mark.parametrize("more", [b"x-a: " + b"a" * 9000, b"\r\n".join([b"x-a: a"] * 200)])
async def test_a_large_handshake(more: bytes) -> None:
    """A handshake whose head is larger than the library takes is refused in our words."""
    connection = Connection(ws=Taken)
    await connection.send(SOCKET.replace(b"host: x", more))
    assert connection.error() == (431, "request_head_too_large")
    assert connection.handed_to is None


async def test_an_upgrade_with_chunks() -> None:
    """So is one whose body comes in chunks."""
    connection = Connection()
    await connection.send(
        POST + H2C + b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n", b"1\r\nc\r\n0\r\n\r\n"
    )
    await asyncio.sleep(5)
    assert connection.asked == [("POST", "/v1/chat/completions", b"abc")]


@pytest.mark.parametrize(
    "data", [b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n", b"\x16\x03\x01\x02\x00", b"hello\r\n\r\n"]
)
async def test_not_http(data: bytes) -> None:
    """What is no request gets 400 in our shape, and the connection is closed."""
    connection = Connection()
    await connection.send(data)
    assert connection.error() == (400, "invalid_request")
    assert connection.closed_s == 0
    head = connection.received.partition(b"\r\n\r\n")[0]
    for name, value in SECURITY_HEADERS:  # no edge is asked, which might not want them: they harm nobody
        assert b"\r\n%s: %s" % (name, value) in head


@pytest.mark.parametrize(
    "piece",
    [b"x-a: " + b"a" * 1000 + b"\r\n", b"a" * 1000, b"x: y\r\n" * 100],
    ids=["headers", "one header", "tiny headers"],
)
async def test_an_endless_head(piece: bytes) -> None:
    """A head without an end is refused at the bound, and no more of it is taken."""
    connection = Connection()
    await connection.send(b"GET / HTTP/1.1\r\nx-first: ", *([piece] * 70_000))
    assert connection.error() == (431, "request_head_too_large")
    assert sum(len(n) + len(v) for n, v in connection.protocol.headers) <= HEAD_BYTES_MAX


async def test_endless_trailers() -> None:
    """Headers after a chunked body are bounded as those before it."""
    connection, chunk = Connection(), b"1\r\na\r\n0\r\n"
    await connection.send(POST + b"transfer-encoding: chunked\r\n\r\n" + chunk, *([b"x: y\r\n"] * 20_000))
    assert connection.error() == (431, "request_head_too_large")
    assert sum(len(n) + len(v) for n, v in connection.protocol.headers) <= HEAD_BYTES_MAX
    await asyncio.sleep(5)  # the application's own end


async def test_a_large_body_before_the_next_head() -> None:
    """What comes together with the beginning of the next head does not count as that head."""
    connection, data = Connection(), b"x" * (3 * HEAD_BYTES_MAX)
    await connection.send(POST + b"content-length: %d\r\n\r\n" % len(data), data + POST[:20])
    await connection.send(POST[20:] + LENGTH + BODY)
    await asyncio.sleep(5)
    assert [body for _, _, body in connection.asked] == [data, BODY]


async def test_a_large_head_at_once() -> None:
    """A large head that comes whole, with its end, is refused as well; an application never sees it."""
    connection = Connection()
    await connection.send(b"GET /" + b"a" * HEAD_BYTES_MAX + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    assert connection.error() == (431, "request_head_too_large")
    assert connection.asked == []


async def test_a_large_body_is_no_head() -> None:
    """The bound is not for bodies, whatever comes together with the head."""
    connection, data = Connection(), b"x" * (3 * HEAD_BYTES_MAX)
    await connection.send(POST + b"content-length: %d\r\n\r\n" % len(data) + data[:-1], data[-1:])
    await asyncio.sleep(5)
    assert connection.asked == [("POST", "/v1/chat/completions", data)]


async def test_a_half_sent_head() -> None:
    """A head that is not whole in time gets 408, on a new connection, after a request, and when it drips."""
    new = Connection()
    await new.send(POST)
    used = Connection()
    await used.send(POST + LENGTH + BODY)
    await asyncio.sleep(5)
    used.received = b""
    await used.send(POST)
    dripping = Connection()
    await dripping.send(POST, *([b"x: y\r\n"] * 50), gap_s=1.0)
    for connection, since_s in ((new, 0.0), (used, 5.0), (dripping, 5.0)):
        assert connection.error() == (408, "request_timeout")
        assert connection.closed_s == since_s + HEAD_S


@pytest.mark.parametrize("data", [(), (b"\r\n",) * 40])
async def test_a_silent_connection(data: tuple[bytes, ...]) -> None:
    """A connection without a request, also one that sends empty lines, is closed without a word."""
    connection = Connection()
    await connection.send(*data, gap_s=1.0)
    await asyncio.sleep(100)
    assert (connection.received, connection.closed_s) == (b"", HEAD_S)


async def test_empty_lines_after_a_request() -> None:
    """Empty lines do not keep a used connection open."""
    connection = Connection()
    await connection.send(POST + LENGTH + BODY)
    await asyncio.sleep(5)
    await connection.send(*[b"\r\n"] * 60, gap_s=1.0)
    assert connection.closed_s == 5 + HEAD_S


async def test_a_slow_answer() -> None:
    """The clock of the head does not run while the body arrives, or the answer is made."""
    connection = Connection()
    await connection.send(POST + LENGTH, BODY[:5], BODY[5:], gap_s=3 * HEAD_S)
    assert connection.asked and connection.received.endswith(b"0\r\n\r\n")


async def test_http_1_0() -> None:
    """A client of HTTP/1.0 gets no chunks: the body ends with the connection, or by its length."""
    plain, known, head = Connection(), Connection(), Connection()
    await plain.send(b"GET / HTTP/1.0\r\n\r\n")
    await known.send(b"GET /json HTTP/1.0\r\n\r\n")
    await head.send(b"HEAD / HTTP/1.0\r\n\r\n")
    await asyncio.sleep(0.5)
    assert plain.received.endswith(b"\r\n\r\na")
    await asyncio.sleep(5)
    for connection, body in ((plain, b"ab"), (known, b"ab"), (head, b"")):
        headers, _, received = connection.received.partition(b"\r\n\r\n")
        assert b"chunked" not in headers and received == body
        assert connection.closed_s == 1


async def test_a_refused_head_request() -> None:
    """An error for HEAD has no body, as no answer to it has one."""
    connection = Connection()
    await connection.send(b"HEAD / HTTP/1.1\r\nhost: x\r\n")
    await asyncio.sleep(30)
    assert connection.received.startswith(b"HTTP/1.1 408 ") and connection.received.endswith(b"\r\n\r\n")
