"""Whatever bytes a client sends, the service answers: with what was asked for, or with an error of its shape.
The whole service, behind its own HTTP protocol, in virtual time."""

import asyncio
import json

import h11
from hypothesis import given, note
from hypothesis import strategies as st

from dub5.simulators.virtual import run
from tests.support.connection import Connection
from tests.support.world import ServiceWorld, healthy

ASKED = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}).encode()
STREAMED = ASKED[:-1] + b', "stream": true}'
METHODS = (b"GET", b"HEAD", b"PUT", b"OPTIONS", b"TRACE", b"PATCH", b"post", b"FOO", b"PRI", b"CONNECT", b"")
PATHS = (
    *(b"/v1/models", b"/v1/models/chat", b"/health", b"/livez", b"/metrics", b"/status", b"/", b"*", b""),
    *(b"/v1/embeddings", b"/v1/responses", b"/admin/isolate", b"/v1/chat/completions/", b"//v1//models"),
    *(b"http://x/v1/models", b"/v1/models/%ff%00%0d%0a", b"/\xe9", b"/%", b"/?a=%zz&b", b"/../..", b"x:443"),
    *(b"/v1/models?" + b"a" * 70_000, b"/v1/models/" + b"a/" * 300, b"/a b", b"/\x01", b"#", b"/v1/%6dodels"),
)
VERSIONS = (b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.1 ", b"ICY", b"")
HEADERS = (
    *(b"host: y", b"host:", b"host: a b", b"host: \xff", b"connection: close", b"connection: keep-alive"),
    *(b"connection: upgrade\r\nupgrade: h2c", b"upgrade: websocket", b"expect: 100-continue", b"expect: x"),
    *(
        b"content-length: 0",
        b"content-length: 5",
        b"content-length: -1",
        b"content-length: 99999999999999999999",
    ),
    *(
        b"transfer-encoding: gzip, chunked",
        b"transfer-encoding: x",
        b"content-encoding: gzip",
        b"te: trailers",
    ),
    *(
        b"content-type: text/plain",
        b"content-type: \xff",
        b"content-type:",
        b"authorization: \xe9",
        b"x" * 9000,
    ),
    *(
        b"x-request-id: a b",
        b"x-request-id: \xff",
        b"x-deadline-ms: 1",
        b"x-deadline-ms: \xb2",
        b"cookie: \x00",
    ),
    *(
        b"x-dub5-delivery: whole",
        b"x-dub5-delivery: \xff",
        b"accept-language: \xff;q=x",
        b"accept: *",
    ),
    *(b"origin: null", b"origin: \xff", b"if-none-match: \xff", b" folded: x", b": x", b"x : y", b"a\nb: c"),
    *(b"forwarded: \xff", b"x-forwarded-for: \xff", b"traceparent: \xff", b"\xff: x", b"range: bytes=0-1"),
)
CHUNKS = b"transfer-encoding: chunked"


def usually(usual: bytes, others: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Draw the usual value half of the time."""
    return st.one_of(st.just(usual), st.sampled_from(others))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw the bytes of a request."""
    method, path = draw(usually(b"POST", METHODS)), draw(usually(b"/v1/chat/completions", PATHS))
    version = draw(usually(b"HTTP/1.1", VERSIONS))
    body = draw(st.sampled_from((ASKED, STREAMED, b"", b"{", b"\xff\xfe", b"[]", b'{"model": "\\ud800"}')))
    lines = [b" ".join((method, path, version)), b"host: x", b"content-type: application/json"]
    lines += draw(st.lists(st.sampled_from(HEADERS), max_size=3))
    match draw(st.sampled_from(("length", "length", "chunks", "bad chunks", "none"))):
        case "length":
            lines.append(b"content-length: %d" % len(body))
        case "chunks":
            lines.append(CHUNKS)
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        case "bad chunks":
            lines.append(CHUNKS)
            body = b"zz\r\n" + body
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def answers(received: bytes, method: bytes) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    """Return the answers that another parser reads of these bytes; none is cut."""
    found = []
    while received:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(received)
        head, body = client.next_event(), b""
        while isinstance(head, h11.InformationalResponse):
            head = client.next_event()
        assert isinstance(head, h11.Response), received
        event = client.next_event()
        if event is h11.NEED_DATA:  # without a length: ended by the close
            client.receive_data(b"")
            event = client.next_event()
        while isinstance(event, h11.Data):
            body += event.data
            if (event := client.next_event()) is h11.NEED_DATA:
                client.receive_data(b"")
                event = client.next_event()
        assert isinstance(event, h11.EndOfMessage), received
        found.append((head.status_code, dict(head.headers), body))
        received = client.trailing_data[0]
    return found


@given(sent=requests(), size=st.sampled_from((1 << 20, 7, 100)), cut=st.sampled_from((0, 0, 0, 1, 40)))
def test_drawn_requests(sent: bytes, size: int, cut: int) -> None:
    """Each request, however odd, and however its bytes are cut, is answered in our shape; one that is not
    whole is told so, or closed; nothing stays open without a word."""
    sent = sent[: len(sent) - cut]
    note(repr(sent[:300]))

    async def play() -> tuple[bytes, float | None]:
        async with ServiceWorld(one=healthy()) as world:
            connection = Connection(world.service.asgi)
            await connection.send(*(sent[at : at + size] for at in range(0, len(sent), size)))
            await asyncio.sleep(1000)
            return connection.received, connection.closed_s

    received, closed_s = run(play(), seed=1)
    method = b"HEAD" if sent.startswith(b"HEAD ") else b"POST"
    assert closed_s is not None
    found = answers(received, method)
    assert found or not sent.strip()
    for status, headers, body in found:
        assert status < 400 or b"application/json" in headers[b"content-type"]
        if status >= 400 and method != b"HEAD":
            error = json.loads(body)["error"]
            assert error["code"] and error["message"] and error["id"] == headers[b"x-request-id"].decode()
        assert status != 500
