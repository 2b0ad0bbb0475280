"""One rule for the head of a response: both wires take the same heads and refuse the same, for the same
reason, over real sockets."""

import asyncio

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from dub5.service.wire.base import WireFailure
from dub5.simulators.script import Action, Close, Raw, Wait
from dub5.simulators.server.sockets import serve
from tests.support.wires import SOON_S, call, make, pieces, plays

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH, CHUNKED = b"content-length: 2\r\n", b"transfer-encoding: chunked\r\n"
SIZED, CHUNKS = b"\r\nok", b"\r\n2\r\nok\r\n0\r\n"
TAKEN, REFUSED, BROKEN = "200 ok", "wait protocol", "body protocol"


def many(count: int, size: int) -> bytes:
    """Return headers, each with a value of this size."""
    return b"".join(b"x-%d: %b\r\n" % (n, b"a" * size) for n in range(count))


HEADS: dict[str, tuple[bytes, str]] = {
    "one header of 8,300 bytes": (OK + many(1, 8300) + LENGTH + SIZED, TAKEN),
    "one header of 60,000 bytes": (OK + many(1, 60_000) + LENGTH + SIZED, TAKEN),
    "one header of 66,000 bytes": (OK + many(1, 66_000) + LENGTH + SIZED, REFUSED),
    "one header of 120,000 bytes": (OK + many(1, 120_000) + LENGTH + SIZED, REFUSED),
    "999 headers and a length": (OK + many(999, 5) + LENGTH + SIZED, TAKEN),
    "1,000 headers and a length": (OK + many(1000, 5) + LENGTH + SIZED, REFUSED),
    "100 headers of 3,000 bytes": (OK + many(100, 3000) + LENGTH + SIZED, REFUSED),
    "a status text of 60,000 bytes": (OK[:-2] + b"o" * 60_000 + b"\r\n" + LENGTH + SIZED, TAKEN),
    "a length twice": (OK + LENGTH + LENGTH + SIZED, TAKEN),
    "a length twice in one line": (OK + b"Content-Length: 2, 2\r\n" + SIZED, TAKEN),
    "a length twice among others": (OK + LENGTH + b"x: y\r\n" + LENGTH + b"z: w\r\n" + SIZED, TAKEN),
    "two lengths": (OK + LENGTH + b"content-length: 3\r\n" + SIZED, REFUSED),
    "two lengths in one line": (OK + b"content-length: 2, 3\r\n" + SIZED, REFUSED),
    "no length in its line": (OK + b"content-length:\r\n" + SIZED, REFUSED),
    "a signed length": (OK + b"content-length: +2\r\n" + SIZED, REFUSED),
    "a length beside chunks": (OK + LENGTH + CHUNKED + CHUNKS + b"\r\n", REFUSED),
    "chunks beside a length": (OK + CHUNKED + LENGTH + CHUNKS + b"\r\n", REFUSED),
    "gzip in chunks": (OK + b"transfer-encoding: gzip, chunked\r\n" + CHUNKS + b"\r\n", REFUSED),
    "chunks twice": (OK + CHUNKED + CHUNKED + CHUNKS + b"\r\n", REFUSED),
    "gzip in a line before": (OK + b"Transfer-Encoding: gzip\r\n" + CHUNKED + CHUNKS + b"\r\n", REFUSED),
    "coding identity": (OK + b"transfer-encoding: identity\r\n" + LENGTH + SIZED, REFUSED),
    "chunks in capitals": (OK + b"Transfer-Encoding: CHUNKED\r\n" + CHUNKS + b"\r\n", TAKEN),
    "NUL": (OK + b"x: a\0b\r\n" + LENGTH + SIZED, REFUSED),
    "a control character": (OK + b"x: a\x01b\r\n" + LENGTH + SIZED, REFUSED),
    "a lone CR": (OK + b"x: a\rb: c\r\n" + LENGTH + SIZED, REFUSED),
    "a space before the colon": (OK + b"x : a\r\n" + LENGTH + SIZED, REFUSED),
    "a line without a colon": (OK + b"x\r\n" + LENGTH + SIZED, REFUSED),
    "a folded header": (OK + b"x: a\r\n b\r\n" + LENGTH + SIZED, TAKEN),
    "a folded length": (OK + b"content-length:\r\n 2\r\n" + SIZED, TAKEN),
    "a folded status line": (OK + b" x: a\r\n" + LENGTH + SIZED, REFUSED),
    "LF for line ends": ((OK + LENGTH).replace(b"\r", b"") + b"\nok", TAKEN),
    "Latin-1": (OK + b"x: \xe9\r\n" + LENGTH + SIZED, TAKEN),
    "no status text": (b"HTTP/1.1 200\r\n" + LENGTH + SIZED, TAKEN),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n" + SIZED, TAKEN),
    "HTTP/2.0": (b"HTTP/2.0 200 OK\r\n" + LENGTH + SIZED, REFUSED),
    "an empty line first": (b"\r\n" + OK + LENGTH + SIZED, REFUSED),
    "status 099": (b"HTTP/1.1 099 X\r\n" + LENGTH + SIZED, REFUSED),
    "status 20": (b"HTTP/1.1 20 X\r\n" + LENGTH + SIZED, REFUSED),
    "after 100 and 103": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK + LENGTH + SIZED,
        TAKEN,
    ),
    "a bad head after 100": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + LENGTH + CHUNKED + CHUNKS, REFUSED),
    "trailers": (OK + CHUNKED + CHUNKS + b"x: y\r\n\r\n", TAKEN),
    "3,000 trailers": (OK + CHUNKED + CHUNKS + many(3000, 50) + b"\r\n", BROKEN),
    "a bad trailer": (OK + CHUNKED + CHUNKS + b"x\r\n\r\n", BROKEN),
    "bad chunks at once": (OK + CHUNKED + b"\r\nzz\r\nok\r\n", BROKEN),
}


async def heard(kind: str, *sent: Action, headers: dict[str, str] | None = None) -> str:
    """Return status and body, or stage and kind of the failure. Fill in the headers."""
    wire, headers = make(kind), {} if headers is None else headers
    async with asyncio.timeout(SOON_S), serve(plays(*sent)) as server:
        try:
            response = await wire.send(call(server.url))
            body = b"".join(await pieces(response)).decode("latin-1")
            headers.update(response.headers)
            return f"{response.status} {body}"
        except WireFailure as failure:
            return f"{failure.stage} {failure.kind}"
        finally:
            await wire.aclose()


@pytest.mark.real_sockets
@pytest.mark.parametrize("name", HEADS)
async def test_the_table(kind: str, name: str) -> None:
    """Each head is taken, or refused with the same stage and kind, on every wire."""
    sent, expected = HEADS[name]
    assert await heard(kind, Raw(sent), Wait(0.01), Close()) == expected


@pytest.mark.real_sockets
@pytest.mark.parametrize("size", [1, 3, 17])
async def test_in_pieces(kind: str, size: int) -> None:
    """A head may come in pieces of any size, and so may a refused one."""
    for name in ("after 100 and 103", "a length twice", "gzip in chunks"):
        sent, expected = HEADS[name]
        cut = [sent[at : at + size] for at in range(0, len(sent), size)]
        paced = [action for piece in cut for action in (Raw(piece), Wait(0.0005))]
        assert await heard(kind, *paced, Wait(0.01), Close()) == expected


LINES = (
    LENGTH,
    b"Content-Length : 2\r\n",
    b"content-length:\t2 \r\n",
    b"content-length: 02\r\n",
    b"content-length: 2,\r\n",
    b"content-length: 3\r\n",
    CHUNKED,
    b"transfer-encoding:\r\n",
    b"transfer-encoding: chunked, chunked\r\n",
    b"transfer-encoding: x\r\n",
    b"connection: close\r\n",
    b"connection: upgrade\r\nupgrade: h2c\r\n",
    b"x-content-length: 9\r\n",
    b"content-encoding: identity\r\n",
    b": a\r\n",
    b"\xe9: a\r\n",
    b"x;: a\r\n",
    b"x:\r\n",
    b" folded\r\n",
    b"\t\r\n",
    b"\x0b\r\n",
    b"x: \x7f\r\n",
    b"x: \xff\xfe\r\n",
    b"date: 1\ndate: 2\n",
)
STATUSES = (
    *(
        b"HTTP/1.1 %b\r\n" % status
        for status in (b"200 OK", b"200", b"200 ", b"429 \xe9", b"999 x", b"2000 x")
    ),
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 200 O\x01K\r\n",
    b"HTTP/1.1  200 OK\r\n",
    b"HTTP/1.1 200\tOK\r\n",
    b"HTTP/1.2 200 OK\r\n",
    b"http/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\n",
    b"HTTP/1.1 204 None\r\n",
    b"HTTP/1.1 304 Same\r\n",
)
DRAWN = st.one_of(
    st.sampled_from(LINES),
    st.builds(b"x-%d: %b\r\n".__mod__, st.tuples(st.integers(0, 9), st.binary(max_size=6))),
    st.builds(many, st.sampled_from((10, 300, 700, 1100)), st.sampled_from((0, 40, 200))),
)


@pytest.mark.real_sockets
@given(
    status=st.sampled_from(STATUSES),
    lines=st.lists(DRAWN, max_size=5),
    body=st.sampled_from((SIZED, CHUNKS + b"\r\n", CHUNKS + b"x: y\r\n\r\n")),
)
def test_drawn_heads(status: bytes, lines: list[bytes], body: bytes) -> None:
    """Whatever a provider sends for a head, both wires say the same."""
    bodiless = status.split()[1:2] in (
        [b"204"],
        [b"304"],
    )  # what follows is the next answer's
    sent = status + b"".join(lines) + (b"\r\n" if bodiless else body)
    note(repr(sent[:500]))

    async def both() -> list[tuple[str, dict[str, str]]]:
        seen = []
        for kind in ("native", "httpx"):
            headers: dict[str, str] = {}
            seen.append((await heard(kind, Raw(sent), Wait(0.002), Close(), headers=headers), headers))
        return seen

    one, other = asyncio.run(both())
    assert one == other
