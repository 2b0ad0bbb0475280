"""What every wire promises, over real sockets on the loopback interface."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from dub5.service.wire.base import FailureKind, Slots, Stage, Wire, WireFailure
from dub5.service.wire.native_wire import NativeResponse
from dub5.simulators.script import (
    Action,
    Close,
    Data,
    End,
    Hang,
    Head,
    Raw,
    Reset,
    Respond,
    Script,
    SimRequest,
    Wait,
)
from dub5.simulators.server.sockets import SocketServer, serve
from tests.support.wires import (
    SIZED,
    SOON_S,
    WHOLE,
    CountedProvider,
    call,
    failure,
    in_turn,
    is_free,
    make,
    pieces,
    plays,
    summary,
    whole,
)

pytestmark = pytest.mark.real_sockets

OTHER_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nforeign"


class ScriptGate:
    """Holds a script back until the test has seen what came before."""

    def __init__(self) -> None:
        self.opened = False

    def script(self) -> Script:
        while not self.opened:
            yield Wait(0.001)


@contextlib.asynccontextmanager
async def calling(
    kind: str, respond: Respond, slots: Slots | None = None
) -> AsyncIterator[tuple[Wire, SocketServer]]:
    wire = make(kind, slots)
    async with asyncio.timeout(SOON_S), serve(respond) as server:
        try:
            yield wire, server
        finally:
            await wire.aclose()


@contextlib.asynccontextmanager
async def listening(
    client: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server that speaks no HTTP of its own: for TLS, and for those who do not read."""

    async def until_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await client(reader, writer)

    server = await asyncio.start_server(until_the_end, "127.0.0.1", 0)
    with contextlib.closing(server):
        async with asyncio.timeout(SOON_S):
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


class TestRequest:
    async def test_what_the_provider_sees(self, kind: str) -> None:
        """Method, path, query, our headers and the body; of its own the wire adds only what HTTP needs."""
        seen: list[SimRequest] = []

        def respond(request: SimRequest) -> Script:
            seen.append(request)
            return iter(WHOLE)

        async with calling(kind, respond) as (wire, server):
            response = await wire.send(call(server.url, body=b'{"a":1}'))
            assert (response.status, dict(response.headers)) == (200, {"content-length": "4"})
            assert await pieces(response) == [b"data"]
            assert (seen[0].method, seen[0].path, seen[0].query) == ("POST", "/v1/chat", "x=1")
            assert seen[0].body == b'{"a":1}'
            assert seen[0].headers == {
                "host": server.url.removeprefix("http://"),
                "accept-encoding": "identity",
                "content-length": "7",
                "authorization": "Bearer k",
                "content-type": "application/json",
            }

    async def test_headers_that_are_the_wires_own(self, kind: str) -> None:
        """A length, an encoding or a host that comes with the request is not believed."""
        seen: list[SimRequest] = []

        def respond(request: SimRequest) -> Script:
            seen.append(request)
            return iter(WHOLE)

        lies = {"content-length": "1", "transfer-encoding": "chunked", "host": "x", "accept-encoding": "gzip"}
        async with calling(kind, respond) as (wire, server):
            assert await whole(wire, replace(call(server.url), headers=lies)) == b"data"
            assert seen[0].body == b"{}"
            assert seen[0].headers["host"] in server.url
            assert seen[0].headers["accept-encoding"] == "identity"

    @pytest.mark.parametrize("bad", ["k\nx: y", "k\r\nx: y", "k\0"])
    async def test_a_header_with_a_line_break(self, kind: str, bad: str) -> None:
        """A key with a stray line break cannot smuggle a header in: nothing is sent."""
        async with calling(kind, plays(Hang())) as (wire, server):
            broken = await failure(wire.send(replace(call(server.url), headers={"authorization": bad})))
            assert summary(broken) == (Stage.SEND, FailureKind.PROTOCOL, False, False)

    async def test_a_large_body(self, kind: str) -> None:
        """Megabytes arrive whole, and the connection serves the next call."""
        sizes: list[int] = []

        def respond(request: SimRequest) -> Script:
            sizes.append(len(request.body))
            return iter(WHOLE)

        async with calling(kind, respond) as (wire, server):
            await whole(wire, call(server.url, body=bytes(5_000_000)))
            response = await wire.send(call(server.url))
            assert await pieces(response) == [b"data"] and response.reused
            assert sizes == [5_000_000, 2]

    async def test_the_environment_names_a_proxy(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Proxies from the environment are not used."""
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        async with calling(kind, plays(*WHOLE)) as (wire, server):
            assert await whole(wire, call(server.url)) == b"data"


class TestNoConnection:
    async def test_refused(self, kind: str) -> None:
        """A connection to a port without listener is refused."""
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))  # not listening, and nobody else can
            wire = make(kind)
            broken = await failure(wire.send(call(f"http://127.0.0.1:{bound.getsockname()[1]}")))
            assert summary(broken) == (Stage.CONNECT, FailureKind.REFUSED, False, False)
            await wire.aclose()

    @pytest.mark.parametrize("name", ["nobody.invalid", "a" * 64 + ".invalid", "xn--"])
    async def test_name_that_does_not_resolve(self, kind: str, name: str) -> None:
        """A name nobody knows, or nobody can have, is refused at the stage of its own."""
        wire = make(kind)
        broken = await failure(wire.send(call(f"http://{name}:1")))
        if broken.kind is FailureKind.TIMEOUT:
            pytest.skip("the resolver of this machine does not answer")
        assert summary(broken) == (Stage.RESOLVE, FailureKind.REFUSED, False, False)
        await wire.aclose()

    async def test_connect_stalls(self, kind: str, deaf: str) -> None:
        """A host that drops our SYN is given up after connect_s."""
        slots = Slots(1)
        wire = make(kind, slots)
        async with asyncio.timeout(SOON_S):
            broken = await failure(wire.send(replace(call(deaf), connect_s=0.05)))
        assert summary(broken) == (Stage.CONNECT, FailureKind.TIMEOUT, False, False)
        assert await is_free(slots, call(deaf).origin)
        await wire.aclose()

    async def test_we_stand_still(self, kind: str) -> None:
        """A connection that opened while nobody here could look is no failure of the host, though connect_s
        is over."""
        loop = asyncio.get_running_loop()

        def stand_still(turns: int) -> None:
            time.sleep(0.4)
            if turns > 1:
                loop.call_soon(stand_still, turns - 1)

        async with calling(kind, plays(*WHOLE)) as (wire, server):
            loop.call_soon(stand_still, 4)
            assert await whole(wire, replace(call(server.url), connect_s=0.15)) == b"data"

    async def test_tls_stalls(self, kind: str) -> None:
        """The connect clock covers the handshake; the provider sees us leave."""
        left = asyncio.Event()

        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                await reader.read(-1)
            left.set()

        async with listening(mute) as address:
            wire = make(kind)
            broken = await failure(wire.send(replace(call(f"https://{address}"), connect_s=0.05)))
            assert summary(broken) == (Stage.CONNECT, FailureKind.TIMEOUT, False, False)
            await left.wait()
            await wire.aclose()

    async def test_tls_meets_plain_http(self, kind: str) -> None:
        """An answer that is no TLS is a fault of protocol, before anything was sent."""
        async with calling(kind, plays(*WHOLE)) as (wire, server):
            broken = await failure(wire.send(call(server.url.replace("http:", "https:"))))
            assert summary(broken) == (Stage.CONNECT, FailureKind.PROTOCOL, False, False)

    async def test_no_place_free(self, kind: str) -> None:
        """With every slot taken a call waits for pool_s; calls to other hosts do not."""
        slots = Slots(1)
        async with (
            calling(kind, plays(Head(), Hang()), slots) as (wire, server),
            serve(plays(*WHOLE)) as other,
        ):
            busy = await wire.send(call(server.url))
            broken = await failure(wire.send(call(server.url)))
            assert summary(broken) == (Stage.POOL, FailureKind.TIMEOUT, False, False)
            assert await whole(wire, call(other.url)) == b"data"
            await busy.aclose()
            await (await wire.send(call(server.url))).aclose()


class TestTls:
    @contextlib.asynccontextmanager
    async def _secure(self, certificate: Path) -> AsyncIterator[str]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, str(certificate) + ".key")

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await reader.readuntil(b"{}")
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndata")

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError), contextlib.closing(writer):
                await answer(reader, writer)

        server = await asyncio.start_server(client, "127.0.0.1", 0, ssl=context)
        with contextlib.closing(server):
            async with asyncio.timeout(SOON_S):
                yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def test_unknown_certificate(self, kind: str, certificate: Path) -> None:
        """A certificate nobody vouches for ends the call before a byte of the request, and its key, is
        sent."""
        async with self._secure(certificate) as url:
            wire = make(kind)
            assert summary(await failure(wire.send(call(url)))) == (
                Stage.CONNECT,
                FailureKind.PROTOCOL,
                False,
                False,
            )
            await wire.aclose()

    async def test_trusted_certificate(self, kind: str, certificate: Path) -> None:
        """With a context that trusts the certificate calls succeed, and connections are kept."""
        async with self._secure(certificate) as url:
            wire = make(kind, tls=ssl.create_default_context(cafile=str(certificate)))
            assert await whole(wire, call(url)) == b"data"
            second = await wire.send(call(url))
            assert second.reused and await pieces(second) == [b"data"]
            await wire.aclose()


BEFORE_HEAD: dict[str, tuple[list[Action], FailureKind]] = {
    "closed": ([Close()], FailureKind.CLOSED),
    "closed in the headers": ([Raw(b"HTTP/1.1 200 OK\r\nx-a: "), Close()], FailureKind.CLOSED),
    "reset": ([Reset()], FailureKind.RESET),
    "garbage": ([Raw(b"BLAH blah\r\n\r\n"), Hang()], FailureKind.PROTOCOL),
    "endless header": ([Raw(b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * 200_000), Hang()], FailureKind.PROTOCOL),
    "two lengths": (
        [Head(200, {"content-length": "4", "Content-Length": "5"}), Hang()],
        FailureKind.PROTOCOL,
    ),
    "upgraded": (
        [Raw(b"HTTP/1.1 101 S\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"), Hang()],
        FailureKind.PROTOCOL,
    ),
}

IN_BODY: dict[str, tuple[Head, Action, FailureKind]] = {
    "sized, closed": (SIZED, Close(), FailureKind.CLOSED),
    "sized, reset": (SIZED, Reset(), FailureKind.RESET),
    "chunked, closed": (Head(), Close(), FailureKind.CLOSED),
    "chunked, reset": (Head(), Reset(), FailureKind.RESET),
    "chunk size that is no number": (Head(), Raw(b"zz\r\n"), FailureKind.PROTOCOL),
}


class TestFaults:
    @pytest.mark.parametrize("name", BEFORE_HEAD)
    async def test_before_the_answer(self, kind: str, name: str) -> None:
        """Each fault before the headers has its kind; the request counts as sent; the slot is free."""
        script, what = BEFORE_HEAD[name]
        slots = Slots(1)
        async with calling(kind, plays(*script), slots) as (wire, server):
            broken = await failure(wire.send(call(server.url)))
            assert summary(broken) == (Stage.WAIT, what, True, False)
            assert await is_free(slots, call(server.url).origin)

    @pytest.mark.parametrize("name", IN_BODY)
    async def test_in_the_body(self, kind: str, name: str) -> None:
        """What came before the fault is handed over; then the fault is told by its kind, and the slot is
        free."""
        head, fault, what = IN_BODY[name]
        gate, slots = ScriptGate(), Slots(1)

        def respond(request: SimRequest) -> Script:
            yield head
            yield Data(b"da")
            yield from gate.script()
            yield fault
            yield Hang()

        async with calling(kind, respond, slots) as (wire, server):
            response = await wire.send(call(server.url))
            assert await response.read() == b"da"
            gate.opened = True
            broken = await failure(response.read())
            assert summary(broken) == (Stage.BODY, what, True, False)
            await response.aclose()
            assert await is_free(slots, call(server.url).origin)

    async def test_bytes_and_their_cut_at_once(self, kind: str) -> None:
        """Bytes that arrive together with the end of the connection are not lost."""
        async with calling(kind, plays(Head(), Data(b"da"), Close())) as (wire, server):
            response = await wire.send(call(server.url))
            if isinstance(response, NativeResponse) and response._connection is not None:
                while response._connection.failure is None:  # both have arrived before anybody reads
                    await asyncio.sleep(0)
            assert await response.read() == b"da"
            assert (await failure(response.read())).kind is FailureKind.CLOSED
            await response.aclose()

    async def test_reset_of_a_body_of_unsaid_length(self, kind: str) -> None:
        """A body that ends with its connection does not end with a reset."""
        gate = ScriptGate()

        def respond(request: SimRequest) -> Script:
            yield Raw(b"HTTP/1.1 200 OK\r\n\r\nda")
            yield from gate.script()
            yield Reset()

        async with calling(kind, respond) as (wire, server):
            response = await wire.send(call(server.url))
            assert await response.read() == b"da"
            gate.opened = True
            assert summary(await failure(response.read())) == (Stage.BODY, FailureKind.RESET, True, False)

    async def test_compressed(self, kind: str) -> None:
        """A body compressed unasked is a fault of protocol, but its status and headers can be read."""
        head = Head(429, {"content-encoding": "gzip", "retry-after": "7", "content-length": "4"})
        slots = Slots(1)
        async with calling(kind, plays(head, Data(b"gzip"), End()), slots) as (wire, server):
            response = await wire.send(call(server.url))
            assert (response.status, response.headers["retry-after"]) == (429, "7")
            assert summary(await failure(response.read())) == (Stage.BODY, FailureKind.PROTOCOL, True, False)
            assert await is_free(slots, call(server.url).origin)

    async def test_two_hundred_broken_calls(self, kind: str) -> None:
        """Two hundred broken calls leave the pool as it was: every slot free, no connection open."""
        faults: list[list[Action]] = [
            [Close()],
            [Reset()],
            [Head(), Data(b"a"), Close()],
            [Head(), Data(b"a"), Reset()],
            [Head(), Hang()],
        ]
        watched = [CountedProvider(*fault, until=40) for fault in faults]
        turn: Iterator[Respond] = iter([*watched * 40, plays(*WHOLE)])
        slots = Slots(2)
        async with calling(kind, lambda request: next(turn)(request), slots) as (wire, server):
            for number in range(200):
                with contextlib.suppress(WireFailure):
                    response = await wire.send(call(server.url))
                    if number % 5 < 4:
                        await pieces(response)
                    await response.aclose()
            for one in watched:
                await one.over.wait()
            response = await wire.send(call(server.url))
            assert not response.reused and await pieces(response) == [b"data"]
            assert server.connections == 1
            both = [await slots.take(call(server.url).origin, 0) for _ in range(2)]
            assert len(both) == 2


class TestStream:
    async def test_head_and_chunks_as_they_come(self, kind: str) -> None:
        """Headers are there before the body begins, and each chunk before the next is sent."""
        gates = [ScriptGate(), ScriptGate()]

        def respond(request: SimRequest) -> Script:
            yield Head(201, {"X-A": "b"})
            yield from gates[0].script()
            yield Data(b"1")
            yield from gates[1].script()
            yield Data(b"2")
            yield End()

        async with calling(kind, respond) as (wire, server):
            response = await wire.send(call(server.url))
            assert (response.status, response.headers["x-a"]) == (201, "b")
            gates[0].opened = True
            assert await response.read() == b"1"
            gates[1].opened = True
            assert await pieces(response) == [b"2"]
            assert await response.read() == b""

    async def test_slow_answer(self, kind: str) -> None:
        """The connect clock stops when the connection is there: a provider may think for longer."""
        async with calling(kind, plays(Wait(0.3), *WHOLE)) as (wire, server):
            assert await whole(wire, replace(call(server.url), connect_s=0.2)) == b"data"

    @pytest.mark.only("native")
    async def test_all_that_is_ready(self, kind: str) -> None:
        """A burst of chunks is handed over in a few pieces, not one by one."""
        async with calling(kind, plays(Head(), *[Data(b"token ")] * 500, End())) as (wire, server):
            got = await pieces(await wire.send(call(server.url)))
            assert b"".join(got) == b"token " * 500
            assert len(got) <= 10

    @pytest.mark.parametrize("status", [204, 304])
    async def test_no_body(self, kind: str, status: int) -> None:
        """An answer without a body ends at once, and its connection is kept."""
        async with calling(kind, plays(Head(status), End())) as (wire, server):
            assert await pieces(await wire.send(call(server.url))) == []
            second = await wire.send(call(server.url))
            assert (second.status, second.reused) == (status, True)
            await second.aclose()

    async def test_redirect_and_cookie(self, kind: str) -> None:
        """A redirect is an answer like another; a cookie is not sent back."""
        seen: list[SimRequest] = []
        head = Head(307, {"location": "/elsewhere", "set-cookie": "a=b; Path=/", "content-length": "0"})

        def respond(request: SimRequest) -> Script:
            seen.append(request)
            return iter([head, End()])

        async with calling(kind, respond) as (wire, server):
            for _ in range(2):
                response = await wire.send(call(server.url))
                assert (response.status, response.headers["location"]) == (307, "/elsewhere")
                await pieces(response)
            assert [(r.path, "cookie" in r.headers) for r in seen] == [("/v1/chat", False)] * 2

    async def test_early_hints(self, kind: str) -> None:
        """Informational answers before the answer are passed over."""
        hints = Raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        async with calling(kind, plays(hints, *WHOLE)) as (wire, server):
            response = await wire.send(call(server.url))
            assert response.status == 200 and await pieces(response) == [b"data"]


class TestKeptConnections:
    async def test_second_call(self, kind: str) -> None:
        """A second call reuses the first one's connection and says so; a fresh call gets a fresh one."""
        async with calling(kind, plays(*WHOLE)) as (wire, server):
            reused = []
            for fresh in (False, False, True):
                response = await wire.send(call(server.url, fresh=fresh))
                reused.append(response.reused)
                assert await pieces(response) == [b"data"]
            assert reused == [False, True, False]

    async def test_provider_closes_it(self, kind: str) -> None:
        """A kept connection that dies under a request is told as reused; it is not sent again behind our
        back."""
        seen: list[SimRequest] = []
        scripts: Iterator[list[Action]] = iter([WHOLE, [Close()], WHOLE])

        def respond(request: SimRequest) -> Script:
            seen.append(request)
            return iter(next(scripts))

        async with calling(kind, respond) as (wire, server):
            await whole(wire, call(server.url))
            broken = await failure(wire.send(replace(call(server.url), method="PUT")))
            assert summary(broken) == (Stage.WAIT, FailureKind.CLOSED, True, True)
            assert len(seen) == 2
            assert await whole(wire, call(server.url, fresh=True)) == b"data"

    async def test_answer_that_is_aborted_late(self, kind: str) -> None:
        """An answer received to its end but not read to it by us: a new connection, or a clean one, serves
        the next."""
        async with calling(kind, plays(*WHOLE)) as (wire, server):
            first = await wire.send(call(server.url))
            assert await first.read() == b"data"
            await first.aclose()
            await first.aclose()
            assert await whole(wire, call(server.url)) == b"data"

    @pytest.mark.parametrize("more", [OTHER_ANSWER, OTHER_ANSWER[:12]], ids=["an answer", "half an answer"])
    async def test_bytes_beyond_the_answer(self, kind: str, more: bytes) -> None:
        """What follows an answer unasked is never read as the answer of the next call."""
        async with calling(kind, in_turn([SIZED, Data(b"data"), Raw(more), End()], WHOLE)) as (wire, server):
            assert await whole(wire, call(server.url)) == b"data"
            second = await wire.send(call(server.url))
            assert not second.reused and await pieces(second) == [b"data"]

    @pytest.mark.only("native")
    @pytest.mark.parametrize("more", [OTHER_ANSWER, OTHER_ANSWER[:12]], ids=["an answer", "half an answer"])
    async def test_bytes_on_an_idle_connection(self, kind: str, more: bytes) -> None:
        """Nor what comes while the connection is kept."""
        gate = ScriptGate()

        def first(request: SimRequest) -> Script:
            yield from WHOLE[:2]
            yield from gate.script()
            yield Raw(more)
            yield Hang()

        turn: Iterator[Respond] = iter([first, plays(*WHOLE)])
        async with calling(kind, lambda request: next(turn)(request)) as (wire, server):
            response = await wire.send(call(server.url))
            assert isinstance(response, NativeResponse) and response._connection is not None
            connection = response._connection
            assert await pieces(response) == [b"data"] and connection.is_reusable()
            gate.opened = True
            while connection.is_reusable():  # until it has arrived
                await asyncio.sleep(0)
            second = await wire.send(call(server.url))
            assert not second.reused and await pieces(second) == [b"data"]

    @pytest.mark.only("native")
    async def test_answer_while_we_still_send(self, kind: str) -> None:
        """A provider that refuses half-way is heard; the rest of our body does not run into the next call."""
        left = asyncio.Event()

        async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 4\r\n\r\nmuch")
            await heard.wait()
            reader._transport.resume_reading()  # type: ignore[attr-defined]
            with contextlib.suppress(ConnectionError):
                while await reader.read(65536):
                    pass
            left.set()

        heard = asyncio.Event()
        async with listening(refuses) as address:
            wire = make(kind)
            response = await wire.send(call(f"http://{address}", body=bytes(30_000_000)))
            assert response.status == 413 and await pieces(response) == [b"much"]
            heard.set()
            await left.wait()
            await wire.aclose()

    @pytest.mark.only("native")
    async def test_end_while_we_still_send(self, kind: str) -> None:
        """A provider that ends its side, and does not read, fails the call at once."""
        left = asyncio.Event()

        async def ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write_eof()
            await left.wait()

        async with listening(ends) as address:
            wire = make(kind)
            broken = await failure(wire.send(call(f"http://{address}", body=bytes(30_000_000))))
            assert summary(broken) == (Stage.WAIT, FailureKind.CLOSED, True, False)
            left.set()
            await wire.aclose()

    @pytest.mark.only("native")
    async def test_no_delay(self, kind: str) -> None:
        """Small writes leave at once: TCP_NODELAY is set on new connections."""
        async with calling(kind, plays(Head(), Hang())) as (wire, server):
            response = await wire.send(call(server.url))
            assert isinstance(response, NativeResponse) and response._connection is not None
            assert response._connection.transport is not None
            sock = response._connection.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            await response.aclose()


class TestLeaving:
    async def test_before_the_headers(self, kind: str) -> None:
        """A cancelled wait closes the connection: the provider sees it, and the slot is free."""
        slots, provider = Slots(1), CountedProvider(Hang())
        async with calling(kind, provider, slots) as (wire, server):
            sending = asyncio.create_task(wire.send(call(server.url)))
            await provider.began.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert await is_free(slots, call(server.url).origin)
            await provider.over.wait()

    async def test_in_the_body(self, kind: str) -> None:
        """So does a cancelled read."""
        slots, provider = Slots(1), CountedProvider(Head(), Data(b"a"), Hang())
        async with calling(kind, provider, slots) as (wire, server):
            response = await wire.send(call(server.url))
            assert await response.read() == b"a"
            reading = asyncio.create_task(response.read())
            await asyncio.wait([reading], timeout=0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert await is_free(slots, call(server.url).origin)
            await provider.over.wait()

    async def test_early_close(self, kind: str) -> None:
        """So does aclose before the end; and what is read after it is a fault, never an end."""
        slots, provider = Slots(1), CountedProvider(Head(), Data(b"a"), Hang())
        async with calling(kind, provider, slots) as (wire, server):
            response = await wire.send(call(server.url))
            assert await response.read() == b"a"
            await response.aclose()
            assert await is_free(slots, call(server.url).origin)
            await provider.over.wait()
            assert summary(await failure(response.read())) == (Stage.BODY, FailureKind.CLOSED, True, False)

    async def test_close_while_another_task_reads(self, kind: str) -> None:
        """A reader whose response is closed by another task is woken, and gets an error."""
        async with calling(kind, plays(Head(), Hang())) as (wire, server):
            response = await wire.send(call(server.url))
            reading = asyncio.create_task(response.read())
            await asyncio.wait([reading], timeout=0)
            await response.aclose()
            assert summary(await failure(reading)) == (Stage.BODY, FailureKind.CLOSED, True, False)

    async def test_while_connecting(self, kind: str) -> None:
        """A call cancelled in the handshake leaves no connection behind."""
        slots, came, left = Slots(1), asyncio.Event(), asyncio.Event()

        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            came.set()
            with contextlib.suppress(ConnectionError):
                await reader.read(-1)
            left.set()

        async with listening(mute) as address:
            wire, request = make(kind, slots), call(f"https://{address}")
            sending = asyncio.create_task(wire.send(request))
            await came.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert await is_free(slots, request.origin)
            await left.wait()
            await wire.aclose()

    async def test_while_the_provider_does_not_read(self, kind: str) -> None:
        """Unsent bytes of a stalled upload do not keep a cancelled call's connection open."""
        came, cancelled, left = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            came.set()
            await cancelled.wait()
            reader._transport.resume_reading()  # type: ignore[attr-defined]
            size = 0
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65536):
                    size += len(data)
            assert size < 30_000_000
            left.set()

        async with listening(stalls) as address:
            wire = make(kind)
            sending = asyncio.create_task(wire.send(call(f"http://{address}", body=bytes(30_000_000))))
            await came.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            cancelled.set()
            await left.wait()
            await wire.aclose()

    async def test_the_wire_is_closed(self, kind: str) -> None:
        """Closing the wire ends calls in every phase, as closed."""
        slots = Slots(2)
        began = asyncio.Event()

        def respond(request: SimRequest) -> Script:
            if request.body == b"body":
                yield Head()
            began.set()
            yield Hang()

        async with calling(kind, respond, slots) as (wire, server):
            reading = asyncio.create_task((await wire.send(call(server.url, body=b"body"))).read())
            began.clear()
            sending = asyncio.create_task(wire.send(call(server.url)))
            await began.wait()
            await wire.aclose()
            assert summary(await failure(reading)) == (Stage.BODY, FailureKind.CLOSED, True, False)
            assert summary(await failure(sending)) == (Stage.WAIT, FailureKind.CLOSED, True, False)
            assert await is_free(slots, call(server.url).origin)
