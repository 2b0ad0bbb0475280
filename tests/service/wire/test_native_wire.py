"""The native wire against drawn bytes: cut anywhere, broken anywhere, left at any moment. In memory."""

import asyncio
import gc
import ssl
import tracemalloc
from collections.abc import Iterator
from random import Random
from typing import Any

import httpcore
import httpx
import pytest

from dub5.service.wire.base import Slots, WireFailure, WireRequest
from dub5.service.wire.connector import Connector
from dub5.service.wire.http_connection import BUFFER_BYTES, HttpConnection
from dub5.service.wire.httpx_wire import HttpxWire
from dub5.service.wire.native_wire import NativeWire

URL = "http://one.test/v1"
ORIGIN = "http://one.test:80"
RESET = ConnectionResetError(104, "reset by peer")
SLOTS = 8
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # a default one would load certificates each time
Played = tuple[list[bytes], Exception | None]


class PlayedTransport(asyncio.Transport):
    """A provider's connection in memory: for each request the pieces of `answers`, one a turn of the loop.

    An answer with an end ends the connection, as an exception says.
    """

    def __init__(
        self, protocol: HttpConnection, answers: Iterator[Played], rng: Random | None = None
    ) -> None:
        super().__init__()
        self.protocol, self.answers, self.rng = protocol, answers, rng
        self.loop = asyncio.get_running_loop()
        self.heard = b""
        self.is_paused = self.is_lost = False
        protocol.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.heard = bytes(data)
        pieces, end = next(self.answers)
        self._later([*pieces], end)

    def _later(self, pieces: list[bytes], end: Exception | None) -> None:
        wait_s = self.rng.choice((0.0, 0.0, 0.001)) if self.rng else 0.0
        self.loop.call_later(wait_s, self._next, pieces, end)

    def _next(self, pieces: list[bytes], end: Exception | None) -> None:
        if self.is_lost:
            return
        if self.is_paused:
            self._later(pieces, end)
        elif pieces:
            self.protocol.data_received(pieces.pop(0))
            self._later(pieces, end)
        elif end is not None:
            self._lose(None if isinstance(end, EOFError) else end)

    def _lose(self, error: Exception | None) -> None:
        if not self.is_lost:
            self.is_lost = True
            self.loop.call_soon(self.protocol.connection_lost, error)

    def close(self) -> None:
        self._lose(None)

    abort = close

    def is_closing(self) -> bool:
        return self.is_lost

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Played]:
    """Return the answers that connections of the native wire will play, in turn."""
    to_come: list[Played] = []

    async def connect(*_: object) -> HttpConnection:
        connection = HttpConnection()
        PlayedTransport(connection, iter(to_come.pop, None), Random(len(to_come)))
        return connection

    monkeypatch.setattr(Connector, "open", connect)
    return to_come


def drawn(rng: Random) -> bytes:
    """Return an answer that is whole and well-formed, and sometimes bytes beyond it."""
    body = bytes(rng.randrange(256) for _ in range(rng.choice((0, 1, 5, 300))))
    version, status = rng.choice(("1.1", "1.1", "1.0")), rng.choice((200, 200, 429, 204))
    head = f"HTTP/{version} {status} {rng.choice(('OK', ''))}\r\n".encode()
    head += b"".join(rng.choices((b"x-a: b\r\n", b"Date: x\r\n", b"x: \xc3\xa9\r\n", b"y:  z \r\n"), k=3))
    head += rng.choice((b"", b"connection: keep-alive\r\n", b"connection: close\r\n"))
    before = rng.choice((b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 X\r\nlink: x\r\n\r\n"))
    framing = rng.randrange(3)
    if framing == 0:
        whole = head + b"content-length: %d\r\n\r\n" % len(body) + body
    elif framing == 1:
        whole = head + b"transfer-encoding: chunked\r\n\r\n" + _chunks(rng, body)
    else:
        return before + head + b"\r\n" + body
    return before + whole + rng.choice((b"", b"", b"", b"HTTP/1.1 200 OK\r\n", b"zz"))


def _chunks(rng: Random, body: bytes) -> bytes:
    parts, at = [], 0
    while at < len(body):
        size = rng.choice((1, 2, 17, 400))
        piece = body[at : at + size]
        parts.append(b"%x%b\r\n%b\r\n" % (len(piece), rng.choice((b"", b";a=b")), piece))
        at += size
    return b"".join([*parts, b"0\r\n", rng.choice((b"", b"x-t: 1\r\n")), b"\r\n"])


def broken(rng: Random, data: bytes) -> bytes:
    """Return the bytes with some changed, taken away, doubled or put in."""
    spoiled = bytearray(data)
    for _ in range(rng.choice((0, 0, 1, 1, 3))):
        at = rng.randrange(len(spoiled) + 1)
        match rng.randrange(4):
            case 0:
                spoiled[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del spoiled[at : at + rng.randrange(1, 9)]
            case 2:
                spoiled[at:at] = spoiled[at : at + rng.randrange(1, 30)]
            case _:
                spoiled[at:at] = rng.choice((b"\r\n", b"\n", b"\0", b"0\r\n\r\n", b" ", b":", b"\r"))
    return bytes(spoiled) or b"\0"


def cut(rng: Random, data: bytes) -> list[bytes]:
    """Return the bytes in pieces of drawn lengths."""
    pieces, at = [], 0
    while at < len(data):
        size = rng.choice((1, 2, 7, 60, 500))
        pieces.append(data[at : at + size])
        at += size
    return pieces


async def outcome(wire: Any) -> tuple[str, bytes, dict[str, str]]:
    """Return status or failure, the bytes of the body, and the headers."""
    body, headers = b"", {}
    try:
        response = await wire.send(WireRequest("POST", URL, {"a": "b"}, b"{}", fresh=True))
        said, headers = str(response.status), dict(response.headers)
        while data := await response.read():
            body += data
    except WireFailure as failure:
        return f"{failure.stage} {failure.kind}", body, headers
    return said, body, headers


def count(request: pytest.FixtureRequest, short: int, long: int) -> int:
    return long if request.config.getoption("--thorough") else short


async def test_cuts_change_nothing(answers: list[Played], request: pytest.FixtureRequest) -> None:
    """Whatever is sent, in whatever pieces: the outcome is that of the same bytes in one piece."""
    for number in range(count(request, 1500, 20_000)):
        rng = Random(f"cuts {number}")
        sent = broken(rng, drawn(rng))
        end = rng.choice((EOFError(), RESET))
        seen = []
        for pieces in ([sent], cut(rng, sent)):
            answers.append((pieces, end))
            wire = NativeWire()
            seen.append(await outcome(wire))
            await asyncio.sleep(0.01)
            assert not wire._open or all(one.is_reusable() for one in wire._open), number
            await wire.aclose()
        assert seen[0] == seen[1], (number, sent)


@pytest.mark.filterwarnings("ignore:.*deprecated")
async def test_never_another_answer_than_httpx(answers: list[Played], request: pytest.FixtureRequest) -> None:
    """Unbroken answers are read alike by both wires; of broken ones they never read two different bodies."""
    equal = 0
    total = count(request, 800, 10_000)
    for number in range(total):
        rng = Random(f"httpx {number}")
        whole = drawn(rng)
        sent = rng.choice((whole, whole[: rng.randrange(1, len(whole) + 1)], broken(rng, whole)))
        answers.append(([sent], EOFError()))
        wire = NativeWire()
        ours = await outcome(wire)
        await wire.aclose()
        transport = httpx.AsyncHTTPTransport(verify=NO_TLS)
        transport._pool = httpcore.AsyncConnectionPool(network_backend=httpcore.AsyncMockBackend([sent]))
        theirs = await outcome(HttpxWire(transport))
        both_took = ours[0].isdigit() and theirs[0].isdigit()
        assert not both_took or ours == theirs, (number, sent)
        assert ours[0] == theirs[0] or sent != whole, (number, sent, ours, theirs)
        equal += ours == theirs
    assert equal > 0.9 * total, f"only {equal} of {total} alike"


class NumberedProvider:
    """Answers each request with its number, in drawn framing, sometimes with bytes beyond it, or an end."""

    def __init__(self, seed: str) -> None:
        self.rng = Random(seed)
        self.transports: list[PlayedTransport] = []

    async def connect(self, *_: object) -> HttpConnection:
        await asyncio.sleep(0)
        connection = HttpConnection()
        transport = PlayedTransport(connection, iter(()), self.rng)
        transport.answers = self._answers(transport)
        self.transports = [one for one in self.transports if not one.is_lost] + [transport]
        return connection

    def _answers(self, transport: PlayedTransport) -> Iterator[Played]:
        rng = self.rng
        while True:
            body = transport.heard.rpartition(b"\r\n\r\n")[2]
            head = b"HTTP/1.1 200 OK\r\nx-a: b\r\n"
            if rng.random() < 0.5:
                sent = head + b"content-length: %d\r\n\r\n" % len(body) + body
            else:
                sent = head + b"transfer-encoding: chunked\r\n\r\n" + _chunks(rng, body)
            sent += rng.choice((b"", b"", b"", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx"))
            end = rng.choice((None, None, None, None, EOFError(), RESET))
            yield cut(rng, sent) if rng.random() < 0.5 else [sent], end


class ChangingCaller:
    """Sends numbered requests, and leaves at drawn moments: before the head, in the body, after it."""

    def __init__(self, wire: NativeWire, rng: Random) -> None:
        self.wire, self.rng = wire, rng
        self.whole = self.reused = 0

    async def ask(self, number: int) -> None:
        """Ask once, and read all, some or nothing."""
        body, reads = b"%d " % number * self.rng.choice((1, 90)), self.rng.choice((0, 1, 9_999, 9_999))
        try:
            response = await self.wire.send(WireRequest("POST", URL, {}, body, pool_s=60.0))
            got = b""
            for _ in range(reads):
                if not (data := await response.read()):
                    assert got == body, "the answer to another request"
                    self.whole += 1
                    break
                got += data
            assert body.startswith(got), "the answer to another request"
            self.reused += response.reused
            await response.aclose()
        except WireFailure:
            pass

    async def ask_or_leave(self, number: int) -> None:
        """Ask; in one case of three be cancelled after some turns of the loop."""
        task = asyncio.create_task(self.ask(number))
        if self.rng.random() < 0.33:
            for _ in range(self.rng.randrange(12)):
                await asyncio.sleep(0)
            task.cancel()
        for result in await asyncio.gather(task, return_exceptions=True):
            if result is not None and not isinstance(result, asyncio.CancelledError):
                raise result


async def soak(monkeypatch: pytest.MonkeyPatch, total: int, seed: str) -> ChangingCaller:
    """Send so many requests, eight at a time; then check that nothing is left over."""
    provider, slots = NumberedProvider(seed), Slots(SLOTS)
    monkeypatch.setattr(Connector, "open", provider.connect)
    wire = NativeWire(slots)
    caller = ChangingCaller(wire, Random(f"{seed}/caller"))
    before = asyncio.all_tasks()
    for first in range(0, total, 2 * SLOTS):
        async with asyncio.TaskGroup() as group:
            for number in range(first, first + 2 * SLOTS):
                group.create_task(caller.ask_or_leave(number))
    await asyncio.sleep(0.1)
    idle = [connection for kept in wire._idle.values() for connection in kept]
    assert asyncio.all_tasks() == before
    assert (
        wire._open
        == {one.protocol for one in provider.transports if not one.is_lost}
        >= {one for one in idle if one.transport}
    )
    assert all(one.state == 0 or one.failure for one in wire._open), "an exchange without a caller"
    for _ in range(SLOTS):
        await slots.take(ORIGIN, 0.0)
    await wire.aclose()
    await asyncio.sleep(0.01)
    assert not wire._open and not wire._idle
    return caller


async def test_reuse_under_cancels(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No answer goes to another call, and nothing leaks: no slot, connection or task."""
    total = count(request, 2400, 20_000)
    caller = await soak(monkeypatch, total, "reuse")
    assert caller.whole > total / 10 and caller.reused > total / 10


@pytest.mark.thorough
async def test_memory_stays_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four thousand exchanges more hold no more memory: less than 25 bytes an exchange."""
    held = []
    tracemalloc.start()
    try:
        for number in range(3):  # the first one fills caches, and the loop's own tables
            await soak(monkeypatch, 4_000, f"memory {number}")
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[2] - held[1] < 100_000, held


async def test_lost_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is lost before its request is sent fails the call, and is not kept in mind."""

    async def connect(*_: object) -> HttpConnection:
        connection = HttpConnection()
        PlayedTransport(connection, iter(())).abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return connection

    monkeypatch.setattr(Connector, "open", connect)
    slots = Slots(1)
    wire = NativeWire(slots)
    assert (await outcome(wire))[0] == "send closed"
    assert not wire._open
    await slots.take(ORIGIN, 0.0)


async def test_a_reader_that_is_slow(answers: list[Played]) -> None:
    """More than BUFFER_BYTES are not taken from a provider while nobody reads."""
    piece = b"8000\r\n" + bytes(0x8000) + b"\r\n"
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    answers.append(([head, *[piece] * 40, b"0\r\n\r\n"], None))
    wire = NativeWire()
    response = await wire.send(WireRequest("POST", URL, {}, b"{}"))
    await asyncio.sleep(1)
    first = await response.read()
    assert BUFFER_BYTES <= len(first) <= BUFFER_BYTES + 2 * 0x8000
    rest = 0
    while data := await response.read():
        rest += len(data)
    assert len(first) + rest == 40 * 0x8000
    await wire.aclose()


@pytest.mark.parametrize(
    "endless", [b"1;" + b"x" * 1000, b"0\r\n" + b"x: y\r\n" * 100], ids=["extension", "trailers"]
)
async def test_framing_without_an_end(answers: list[Played], endless: bytes) -> None:
    """Framing that never comes to a body is refused, and takes no memory."""
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    answers.append(([head, endless, *[b"x: y\r\n" * 1000] * 90], None))
    wire = NativeWire()
    assert (await outcome(wire))[0] == "body protocol"
    await wire.aclose()
