"""The front: what comes back on a connection is what the framework would have sent, byte for byte.

Each case is played twice at the same moments of virtual time: by the front, and by the application behind
the server's own protocol. `AS_APPLICATION` names what the front hands on.
"""

import asyncio
import json
import re
from typing import Any, NamedTuple

import pytest

from dub5.service.api.chat import Exchange
from dub5.service.config.options import LimitOptions, LimitsOptions
from dub5.service.config.settings import ServerSettings, SessionSettings
from dub5.service.events import Crashed, Event, RequestEnded
from dub5.service.front import FrontPeer, protocol_of
from dub5.service.http_protocol import BoundedProtocol
from dub5.simulators.script import Hang, Head, Respond, SimRequest, Wait
from tests.support.connection import Connection
from tests.support.edge_cases import CASES, PASSES, SERVER, EdgeCase
from tests.support.world import SSE, ServiceWorld, body, chunk, healthy, script, status

HOST = b"host: x\r\ncontent-type: application/json\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST
GENERATED = re.compile(rb"req_[0-9a-f]{24}")
SERVED = ServerSettings(client_stall_s=5.0, request_bytes_max=100_000)


def sized(data: bytes, head: bytes = POST) -> bytes:
    """Return a request with a length."""
    return head + b"content-length: %d\r\n\r\n" % len(data) + data


def asked(**fields: Any) -> bytes:
    return json.dumps(body(**fields)).encode()


JSON, STREAM = sized(asked()), sized(asked(stream=True))
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n5\r\n" + asked()[:5] + b"\r\n%x\r\n" % len(asked()[5:])
CHUNKED += asked()[5:] + b"\r\n0\r\nx-trailer: 1\r\n\r\n"


def cut(data: bytes, size: int) -> tuple[bytes, ...]:
    return tuple(data[at : at + size] for at in range(0, len(data), size))


NO_OPTIONS: dict[str, Any] = {}


class Case(NamedTuple):
    """What a client sends, `gap_s` apart, over which provider; and the statuses of what comes back."""

    pieces: tuple[bytes, ...]
    statuses: tuple[int, ...] = (200,)
    respond: Respond = healthy()
    gap_s: float = 0.0
    server: ServerSettings = SERVED
    caller_keys: tuple[str, ...] = ()
    options: dict[str, Any] = NO_OPTIONS


def large(size: int) -> bytes:
    return asked(messages=[{"role": "user", "content": "x" * size}])


BY_FRONT = {
    "JSON": Case((JSON,)),
    "a stream": Case((STREAM,)),
    "in pieces of 1": Case(cut(JSON, 1)),
    "in pieces of 7": Case(cut(STREAM, 7)),
    "chunked": Case((CHUNKED,)),
    "chunked, in pieces": Case(cut(CHUNKED, 3)),
    "a slow body": Case((JSON[:-9], JSON[-9:-3], JSON[-3:]), gap_s=4.0),
    "a stalled body": Case((JSON[:-9],), (408,)),
    "three, one after another": Case((JSON, STREAM, JSON), (200, 200, 200), gap_s=2.0),
    "closed by the client's wish": Case((sized(asked(), POST + b"connection: close\r\n"),)),
    "no JSON": Case((sized(b"{"),), (400,)),
    "an empty body": Case((POST + b"content-length: 0\r\n\r\n",), (400,)),
    "no body": Case((POST + b"\r\n",), (400,)),
    "an unknown model": Case((sized(asked(model="other")),), (404,)),
    "a large body": Case((sized(large(90_000)),)),
    "too large": Case((sized(large(110_000)), JSON), (413, 200), gap_s=2.0),
    "too large, in pieces": Case((*cut(sized(large(110_000)), 30_000), JSON), (413, 200), gap_s=1.0),
    "without a key": Case((JSON,), (401,), caller_keys=("sk-1",)),
    "a key": Case((sized(asked(), POST + b"Authorization: Bearer sk-1\r\n"),), caller_keys=("sk-1",)),
    "a key behind the body": Case(
        (CHUNKED.replace(b"x-trailer: 1", b"authorization: Bearer sk-1"),), (401,), caller_keys=("sk-1",)
    ),
    "over a limit": Case(
        (JSON, JSON, STREAM),
        (200, 200, 429),
        gap_s=1.0,
        options={"limits": LimitsOptions(ip=LimitOptions(2))},
    ),
    "too many headers": Case((sized(asked(), POST + b"a: b\r\n" * 101),), (400,)),
    "an id of the client": Case((sized(asked(), POST + b"X-Request-ID: mine-1\r\n"),)),
    "an odd id": Case((sized(asked(), POST + b"x-request-id: \xff!\r\n"),)),
    "all fail": Case((STREAM,), (503,), status(530)),
    "cut in mid-stream": Case((STREAM,), respond=script(Head(200, SSE), chunk({"content": "a"}), Hang())),
    "a refusal in other letters": Case((JSON,), (400,), status(400, '{"error":{"message":"\xe9"}}'.encode())),
    "empty lines between": Case((JSON, b"\r\n\r\n", JSON), (200, 200), gap_s=2.0),
    "an upgrade that nobody offers": Case(
        (sized(asked(), POST + b"connection: upgrade\r\nupgrade: h2c\r\n"),)
    ),
    "silence after an answer": Case((JSON, b""), gap_s=90.0),
}
AS_APPLICATION = {
    "two at once": Case((JSON + STREAM,), (200, 200)),
    "three at once": Case((JSON + STREAM + JSON,), (200, 200, 200)),
    "Expect": Case((POST + b"expect: 100-continue\r\n" + JSON[len(POST) :],), (100, 200)),
    "HTTP/1.0": Case((STREAM.replace(b"HTTP/1.1", b"HTTP/1.0"),)),
    "a query": Case((JSON.replace(b"completions", b"completions?a=b"),)),
    "a slash at the end": Case((JSON.replace(b"completions", b"completions/"),)),
    "a double slash": Case((JSON.replace(b"v1/chat", b"v1//chat"),)),
    "an escape": Case((JSON.replace(b"v1/chat", b"v1/ch%61t"),)),
    "an absolute target": Case((JSON.replace(b"/v1", b"http://x/v1"),)),
    "GET": Case((b"GET /v1/chat/completions HTTP/1.1\r\n" + HOST + b"\r\n",), (405,)),
    "HEAD": Case((b"HEAD /v1/chat/completions HTTP/1.1\r\n" + HOST + b"\r\n",), (405,)),
    "another route": Case((b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n",)),
    "no HTTP": Case((b"hello\r\n\r\n",), (400,)),
    "half a head": Case((POST,), (408,)),
}


class Result(NamedTuple):
    """What a client saw, with generated ids made equal."""

    received: bytes
    closed_s: float | None
    asked: int
    outcomes: dict[str, int]
    peers: int  # requests that the front has shown to their exchanges itself


async def play(case: Case, *, by_front: bool, patch: pytest.MonkeyPatch) -> Result:
    peers: list[FrontPeer] = []
    made = FrontPeer.__init__

    def counted(self: FrontPeer, *arguments: Any, **options: Any) -> None:
        peers.append(self)
        made(self, *arguments, **options)

    patch.setattr(FrontPeer, "__init__", counted)
    start_s = asyncio.get_running_loop().time()
    async with ServiceWorld(
        one=case.respond, server=case.server, caller_keys=case.caller_keys, options=case.options
    ) as world:
        make = {"make": protocol_of(world.service)} if by_front else {}
        connection = Connection(world.service.asgi, **make)  # type: ignore[arg-type]
        await connection.send(*case.pieces, gap_s=case.gap_s)
        await asyncio.sleep(200)
        assert not connection.protocol.tasks
        closed_s = None if connection.closed_s is None else round(connection.closed_s - start_s, 6)
        received = GENERATED.sub(b"req", connection.received)
        return Result(received, closed_s, len(world.asked["one"]), world.outcomes(), len(peers))


def statuses(received: bytes) -> tuple[int, ...]:
    return tuple(int(line[9:12]) for line in re.findall(rb"HTTP/1\.1 \d{3}", received))


@pytest.mark.parametrize("name", [*BY_FRONT, *AS_APPLICATION])
async def test_equal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The front sends what the framework sends, and closes when it closes."""
    case = BY_FRONT.get(name) or AS_APPLICATION[name]
    front = await play(case, by_front=True, patch=monkeypatch)
    framework = await play(case, by_front=False, patch=monkeypatch)
    assert front[:-1] == framework[:-1]
    assert statuses(front.received) == case.statuses
    assert framework.peers == 0
    if name in BY_FRONT:
        assert front.peers == len(case.statuses)
    else:
        assert front.peers <= 1, "only the first of several at once"


class FrontConnection(Connection):
    """A connection to the front of a world."""

    def __init__(self, world: ServiceWorld, client: str | None = None) -> None:
        super().__init__(world.service.asgi, make=protocol_of(world.service), client=client)


def endless(request: SimRequest) -> Any:
    """Answer with a stream that has no end."""
    yield Head(200, SSE)
    while True:
        yield chunk({"content": "word " * 2000})
        yield Wait(0.01)


async def test_leaving() -> None:
    """A client that closes its connection ends its exchange, and the call of the provider, at once."""
    async with ServiceWorld(one=endless) as world:
        connection = FrontConnection(world)
        await connection.send(STREAM)
        await asyncio.sleep(1)
        assert world.wire._open
        connection.protocol.connection_lost(None)
        await asyncio.sleep(0.1)
        assert not world.wire._open
        assert not connection.protocol.tasks
        assert world.outcomes() == {"cancelled": 1}


@pytest.mark.parametrize("size", [10, len(POST) + 20, len(JSON) - 1])
async def test_leaving_before_the_end_of_the_request(size: int) -> None:
    """So does one that leaves before all of its request is there: no provider is asked."""
    async with ServiceWorld(one=healthy()) as world:
        connection = FrontConnection(world)
        await connection.send(JSON[:size])
        connection.protocol.connection_lost(None)
        await asyncio.sleep(1)
        assert (len(world.asked["one"]), connection.received) == (0, b"")
        assert not connection.protocol.tasks


async def test_leaving_while_another_waits() -> None:
    """A client that leaves has also taken back what it sent behind: the answer before it ends, too."""
    async with ServiceWorld(one=endless) as world:
        connection = FrontConnection(world)
        await connection.send(STREAM + JSON)
        await asyncio.sleep(1)
        connection.protocol.connection_lost(None)
        await asyncio.sleep(0.1)
        assert not world.wire._open
        assert world.outcomes() == {"cancelled": 1}


async def test_a_slow_reader() -> None:
    """Nothing is sent to a client that does not read; after `client_stall_s` its connection is aborted."""
    async with ServiceWorld(one=endless, server=SERVED) as world:
        connection = FrontConnection(world)
        await connection.send(STREAM)
        await asyncio.sleep(1)
        connection.protocol.pause_writing()
        await asyncio.sleep(0.1)
        before = len(connection.received)
        await asyncio.sleep(4)
        assert len(connection.received) == before
        connection.protocol.resume_writing()
        await asyncio.sleep(1)
        assert len(connection.received) > before
        assert not connection.is_aborted
        connection.protocol.pause_writing()
        await asyncio.sleep(6)
        assert connection.is_aborted
        assert not world.wire._open
        assert not connection.protocol.tasks


async def test_paused_before_the_head() -> None:
    """A head waits until the client reads, as all else does."""
    async with ServiceWorld(one=healthy(), server=SERVED) as world:
        connection = FrontConnection(world)
        connection.protocol.pause_writing()
        await connection.send(JSON)
        await asyncio.sleep(4)
        assert connection.received == b""
        connection.protocol.resume_writing()
        await asyncio.sleep(0.1)
        assert statuses(connection.received) == (200,)
        assert connection.received.endswith(b"}")


@pytest.mark.parametrize("by_front", [True, False])
async def test_an_answer_while_a_heartbeat_waits(by_front: bool) -> None:
    """A client that could not be sent a heartbeat yet is sent the answer with its head."""
    async with ServiceWorld(one=healthy(first_s=12.0), route={"delivery": "whole"}) as world:
        connection = FrontConnection(world) if by_front else Connection(world.service.asgi)
        connection.protocol.pause_writing()
        await connection.send(STREAM)
        await asyncio.sleep(15)
        connection.protocol.resume_writing()
        await asyncio.sleep(1)
        assert statuses(connection.received) == (200,)
        assert b"x-dub5-target: one/m\r\n" in connection.received
        assert connection.received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize(("size", "gap_s"), [(300_000, 0.0), (120_000, 0.1)])
async def test_a_large_body(size: int, gap_s: float) -> None:
    """A body is read no faster than its exchange takes it, and is not kept; nor is the connection unread."""
    async with ServiceWorld(one=healthy(first_s=2.0)) as world:
        connection, data = FrontConnection(world), sized(large(200_000))
        paused = 0
        for piece in cut(data, size):
            connection.protocol.data_received(piece)
            paused += connection.is_paused
            await asyncio.sleep(gap_s)
        assert paused > 0
        await asyncio.sleep(1)
        assert not connection.is_paused, "a client that leaves now must be noticed"
        assert isinstance(connection.protocol.cycle, FrontPeer)
        assert not connection.protocol.cycle._parts
        await asyncio.sleep(2)
        assert statuses(connection.received) == (200,)


async def test_a_drain() -> None:
    """A drain cuts what is not over in time with an honest error, and the connection with it."""
    async with ServiceWorld(one=endless, server=ServerSettings(announce_s=0.0, drain_s=2.0)) as world:
        connection, idle = FrontConnection(world), FrontConnection(world)
        await connection.send(STREAM)
        await idle.send(JSON.replace(b'"chat"', b'"none"'))
        await asyncio.sleep(1)
        await world.service.drain()
        for each in (connection, idle):
            each.protocol.shutdown()
        await asyncio.sleep(0.1)
        assert b'"code":"shutting_down"' in connection.received
        assert connection.received.endswith(b"0\r\n\r\n")
        assert b"[DONE]" not in connection.received
        assert idle.closed_s is not None


async def test_shut_down_in_mid_answer() -> None:
    """A connection that is told to end does so after the answer that is under way."""
    async with ServiceWorld(one=healthy(first_s=2.0)) as world:
        connection = FrontConnection(world)
        await connection.send(STREAM)
        await asyncio.sleep(1)
        connection.protocol.shutdown()
        assert connection.closed_s is None
        await asyncio.sleep(5)
        assert connection.received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert connection.closed_s is not None


@pytest.mark.parametrize("begun", [False, True])
async def test_a_defect(begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of ours is told as an event, and to the client as an honest error, or by a cut connection."""

    async def serve(self: Exchange, scope: Any, headers: object, peer: FrontPeer) -> None:
        if begun:
            peer.start(200, {"content-length": "9"}, b"{", more=True)
        raise ZeroDivisionError

    monkeypatch.setattr(Exchange, "serve", serve)
    async with ServiceWorld(one=healthy()) as world:
        events: list[Event] = []
        world.service.events.subscribe(events.append)
        connection = FrontConnection(world)
        await connection.send(JSON)
        await asyncio.sleep(1)
        (crash,) = [event for event in events if isinstance(event, Crashed)]
        assert connection.is_aborted == begun
        if not begun:
            assert connection.error() == (500, "internal_error")
            assert b"x-request-id: %b\r\n" % crash.request_id.encode() in connection.received


async def test_another_server() -> None:
    """A server that does not lower the names of headers, as ASGI wants it, is understood all the same."""
    messages: list[Any] = [{"type": "http.request", "body": asked(), "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "path": "/v1/chat/completions", "client": None}
    scope["headers"] = iter([(b"Authorization", b"Bearer sk-1"), (b"Content-Type", b"application/json")])
    async with ServiceWorld(one=healthy(), caller_keys=("sk-1",)) as world:
        await Exchange(world.service.deps)(scope, receive, send)
    assert sent[0]["status"] == 200


SAME_SITE = {b"sec-fetch-site": b"same-origin"}
CROSS_SITE = {b"sec-fetch-site": b"cross-site", b"origin": b"https://evil.example"}
PASSED = [case for case in CASES if case.expected == PASSES and case.method == "GET" and not case.path]


@pytest.mark.parametrize(
    ("more", "code"), [(SAME_SITE, ""), (CROSS_SITE, "csrf_refused")], ids=["own", "cross-site"]
)
async def test_sessions(more: dict[bytes, bytes], code: str) -> None:
    """A session's cookie counts on the front as it does elsewhere, and so does the site that sends it."""
    options: dict[str, Any] = {"options": {"session": SessionSettings()}, "session_secrets": ("s" * 32,)}
    async with ServiceWorld(one=healthy(), **options) as world:
        ended: list[RequestEnded] = []
        world.service.events.subscribe(lambda e: ended.append(e) if isinstance(e, RequestEnded) else None)
        begun = await world.client.request("POST", "/v1/session", headers={"sec-fetch-site": "same-origin"})
        lines = {b"cookie": begun.headers["set-cookie"].partition(";")[0].encode(), **more}
        head = POST + b"".join(b"%b: %b\r\n" % line for line in lines.items())
        for make in (protocol_of(world.service), BoundedProtocol):
            connection = Connection(world.service.asgi, make=make)
            await connection.send(sized(asked(), head))
            await asyncio.sleep(1)
            assert statuses(connection.received) == (403 if code else 200,)
            assert code.encode() in connection.received
        assert len({event.session for event in ended}) == 1
        assert (ended[0].session is None) == bool(code)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_edge(case: EdgeCase) -> None:
    """The rules for hosts, https and origins hold on the front as they do elsewhere."""
    lines = b"".join(b"%b: %b\r\n" % line for line in case.lines() if not line[0].startswith(b"access"))
    begin = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json\r\n"
    async with ServiceWorld(one=healthy(), server=SERVER) as world:
        seen = []
        for make in (protocol_of(world.service), None):
            connection = Connection(world.service.asgi, client=case.peer, **({"make": make} if make else {}))
            connection.protocol.scheme = "https" if case.scheme == "https" else "http"
            await connection.send(sized(asked(), begin + lines))
            await asyncio.sleep(1)
            seen.append(GENERATED.sub(b"req", connection.received))
        assert seen[0] == seen[1]
        assert seen[0].startswith(b"HTTP/1.1 ")
        if case in PASSED:
            assert statuses(seen[0]) == (200,)


async def test_an_idle_connection() -> None:
    """A connection is kept for as long as the server says after its last answer, however many it had."""
    async with ServiceWorld(one=healthy()) as world:
        connection = FrontConnection(world)
        keep_s = connection.protocol.timeout_keep_alive
        for _ in range(5):
            await connection.send(JSON)
            await asyncio.sleep(keep_s - 1)
        last_s = asyncio.get_running_loop().time() - (keep_s - 1) + 0.1  # when the last answer was out
        assert connection.closed_s is None
        await asyncio.sleep(2)
        assert connection.closed_s == pytest.approx(last_s + keep_s, abs=0.01)


class UnreadConnection(FrontConnection):
    """One whose client reads nothing: it cannot be closed, but aborted."""

    def close(self) -> None:
        if self.is_aborted:
            super().close()
        elif self.closed_s is None:
            self.closed_s = asyncio.get_running_loop().time()


@pytest.mark.parametrize("request_", [JSON, sized(asked(), POST + b"connection: close\r\n")])
async def test_an_unread_answer(request_: bytes) -> None:
    """A connection whose client never reads the end of a whole answer does not stay for ever."""
    async with ServiceWorld(one=healthy()) as world:
        connection = UnreadConnection(world)
        await connection.send(request_)
        await asyncio.sleep(1)
        assert not connection.is_aborted
        await asyncio.sleep(connection.protocol.timeout_keep_alive)
        assert connection.is_aborted


async def test_nothing_is_kept() -> None:
    """A connection keeps nothing of its requests."""
    async with ServiceWorld(one=healthy(first_s=0.0)) as world:
        connection = FrontConnection(world)
        for _ in range(200):
            await connection.send(JSON)
            await asyncio.sleep(0.1)
        assert statuses(connection.received) == (200,) * 200
        assert not connection.protocol.tasks
        assert not connection.protocol.pipeline
