"""On real sockets a client receives what the script says."""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

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
from dub5.simulators.server.http1 import BODY_BYTES_MAX, HEAD_BYTES_MAX
from dub5.simulators.server.sockets import SocketServer, _Connection, serve

pytestmark = pytest.mark.real_sockets

GET = b"GET /x HTTP/1.1\r\nhost: h\r\n\r\n"
CHUNK = b"100000\r\n" + bytes(0x100000) + b"\r\n"
FIVE = Head(200, {"content-length": "5"})


def always(*actions: Action) -> Respond:
    return lambda request: iter(actions)


async def connect(server: SocketServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(server.host, server.port)


async def said(respond: Respond, *sent: bytes) -> bytes:
    """Return all that a client reads that sends these pieces and then waits for the end."""
    async with asyncio.timeout(10), serve(respond) as server:
        reader, writer = await connect(server)
        for piece in sent:
            writer.write(piece)
            await writer.drain()
        try:
            return await reader.read(-1)
        finally:
            writer.close()


class TestFraming:
    async def test_answer_without_length(self) -> None:
        """An answer of unknown length goes out in chunks, and the connection stays open for the next
        request."""
        script = always(Head(200, {"a": "b"}), Data(b"hello"), Data(b""), Data(b"!"), End())
        last = GET.replace(b"host", b"connection: close\r\nhost")

        answer = await said(script, GET + last)

        first = (
            b"HTTP/1.1 200 OK\r\na: b\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"
        )
        assert first == answer[: len(first)]
        assert answer[len(first) :] == first.replace(b"chunked\r\n", b"chunked\r\nconnection: close\r\n")

    async def test_provider_closes(self) -> None:
        """A head with `connection: close` is the last on its connection."""
        script = always(Head(200, {"content-length": "2", "Connection": "close"}), Data(b"ok"), End())
        assert await said(script, GET + GET) == (
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nConnection: close\r\n\r\nok"
        )

    async def test_lie_about_length(self) -> None:
        """A body shorter or longer than promised is sent as it is, and ends the connection."""
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"

        assert await said(always(FIVE, Data(b"abc"), End()), GET) == head + b"abc"
        assert await said(always(FIVE, Data(b"abcdefg"), End()), GET) == head + b"abcdefg"

    async def test_raw_bytes(self) -> None:
        """Broken framing reaches the client byte for byte."""
        assert await said(always(Raw(b"HTTP/9 what\r\n"), Close()), GET) == b"HTTP/9 what\r\n"
        answer = await said(always(Head(), Raw(b"zz\r\n"), Close()), GET)
        assert answer.endswith(b"\r\n\r\nzz\r\n")

    @pytest.mark.parametrize("method, status", [("HEAD", 200), ("GET", 204)])
    async def test_answer_that_has_no_body(self, method: str, status: int) -> None:
        """HEAD and 204 send no byte after the headers."""
        request = f"{method} / HTTP/1.1\r\nconnection: close\r\n\r\n".encode()
        answer = await said(always(Head(status), Data(b"body"), End()), request)
        assert answer.endswith(b"\r\n\r\n")

    async def test_http_1_0(self) -> None:
        """A client without chunks gets the plain body and then the end of the connection."""
        answer = await said(always(Head(), Data(b"body"), End()), b"GET / HTTP/1.0\r\n\r\n")
        assert answer == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nbody"


class TestRequests:
    @staticmethod
    def echo(request: SimRequest) -> Script:
        text = f"{request.method} {request.path} ? {request.query} {request.headers.get('x')} ".encode()
        body = text + request.body
        return iter([Head(200, {"content-length": str(len(body))}), Data(body), End()])

    async def test_pieces_and_pipelines(self) -> None:
        """Requests cut at any byte, pipelined, with a length or in chunks, are told apart and answered in
        order."""
        sent = (
            b"POST /a?q=1 HTTP/1.1\r\nX: 1\r\ncontent-length: 3\r\n\r\none"
            b"POST /b HTTP/1.1\r\nx: 2\r\nX: 3\r\ntransfer-encoding: chunked\r\n\r\n"
            b"2\r\ntw\r\n1;e=1\r\no\r\n0\r\nx: 9\r\n\r\n"
            b"GET /c HTTP/1.1\r\nconnection: close\r\n\r\n"
        )

        whole = await said(self.echo, sent)

        bodies = [part.split(b"\r\n\r\n")[1] for part in whole.split(b"HTTP/1.1 200 OK")[1:]]
        assert bodies == [b"POST /a ? q=1 1 one", b"POST /b ?  2, 3 two", b"GET /c ?  None "]
        assert await said(self.echo, *(sent[i : i + 1] for i in range(len(sent)))) == whole

    @pytest.mark.parametrize(
        "sent, status",
        [
            (b"\x16\x03\x01\x02 hello, TLS?\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nx: " + b"a" * (HEAD_BYTES_MAX + 1), 431),
            (b"GET / HTTP/1.1\r\n" + b"x: a\r\n" * (HEAD_BYTES_MAX // 5) + b"\r\n", 431),
            (b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1), 413),
            (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNK * 33, 413),
            (b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", 400),
        ],
        ids=[
            "no HTTP",
            "endless header",
            "too many headers",
            "too large a body",
            "endless chunks",
            "upgrade",
        ],
    )
    async def test_no_proper_request(self, sent: bytes, status: int) -> None:
        """A request that is malformed or too large is rejected with a reason, which the client can still
        read."""
        answer = await said(self.echo, sent)
        assert answer.startswith(b"HTTP/1.1 %d " % status)

    async def test_expects_100_continue(self) -> None:
        """A client that expects 100-continue before a large body gets it."""
        async with serve(self.echo) as server:
            reader, writer = await connect(server)
            writer.write(b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"hi")
            assert (await reader.readuntil(b"hi")).startswith(b"HTTP/1.1 200 OK")
            writer.close()


class TestEnds:
    async def test_reset(self) -> None:
        """A reset is a real RST, before the head and after it."""
        with pytest.raises(ConnectionResetError):
            await said(always(Reset()), GET)
        with pytest.raises(ConnectionResetError):
            await said(always(Head(), Data(b"abc"), Reset()), GET)

    @pytest.mark.parametrize("ends", [(Close(),), ()], ids=["close", "script runs out"])
    async def test_end_without_the_end(self, ends: tuple[Action, ...]) -> None:
        """A connection closed mid-body gives what was sent, then FIN, and no last chunk."""
        answer = await said(always(Head(), Data(b"abc"), *ends), GET)
        assert answer.endswith(b"3\r\nabc\r\n")

    async def test_broken_script(self) -> None:
        """A script that raises ends its client's connection, without an endless wait, and the error is
        reported."""
        heard: list[object] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: heard.append(context["exception"])
        )

        def broken(request: SimRequest) -> Script:
            yield Wait(0.001)
            raise ZeroDivisionError

        assert await said(broken, GET) == b""
        assert [ZeroDivisionError] == [type(error) for error in heard]


class WatchedScript:
    """A script that records when it was closed."""

    def __init__(self, *actions: Action) -> None:
        self.actions = actions
        self.closed = asyncio.Event()
        self.bytes_sent = 0

    def __call__(self, request: SimRequest) -> Iterator[Action]:
        try:
            for action in self.actions:
                yield action
                self.bytes_sent += len(action.data) if isinstance(action, Data) else 0
        finally:
            self.closed.set()


def leave(writer: asyncio.StreamWriter) -> None:
    writer.close()


def leave_rudely(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class TestClientLeaves:
    @pytest.mark.parametrize("rest", [Hang(), Wait(3600)], ids=["hang", "wait"])
    @pytest.mark.parametrize("how", [leave, leave_rudely], ids=["FIN", "RST"])
    async def test_while_nothing_is_sent(
        self, rest: Action, how: Callable[[asyncio.StreamWriter], None]
    ) -> None:
        """A script ends as soon as its client leaves, even while it has nothing to send."""
        script = WatchedScript(Head(), Data(b"a"), rest, Data(b"never"))
        async with serve(script) as server:
            reader, writer = await connect(server)
            writer.write(GET)
            await reader.readuntil(b"a\r\n")
            assert not script.closed.is_set()

            how(writer)

            async with asyncio.timeout(5):
                await script.closed.wait()

    async def test_does_not_read(self) -> None:
        """A client that stops reading stops the script, with bounded memory; when it leaves, the script
        ends."""
        script = WatchedScript(Head(), *([Data(bytes(65536))] * 10_000), End())
        async with serve(script) as server:
            reader, writer = await connect(server)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(GET)
            sent = -1
            while sent < script.bytes_sent or not sent:  # until the script is stopped
                sent = script.bytes_sent
                await asyncio.sleep(0.01)
            assert sent < 20_000_000

            leave_rudely(writer)

            async with asyncio.timeout(5):
                await script.closed.wait()

    async def test_server_ends(self) -> None:
        """Leaving `serve` drops every connection and closes every script."""
        script = WatchedScript(Head(), Hang())
        async with serve(script) as server:
            reader, writer = await connect(server)
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n")
            assert server.connections == 1
        assert script.closed.is_set()
        assert await reader.read(-1) == b""
        writer.close()


async def test_no_delay() -> None:
    """Small pieces are not held back: TCP_NODELAY is set."""
    options: list[int] = []

    def spy(request: SimRequest) -> Script:
        for connection in connections:
            assert isinstance(connection, _Connection)
            sock = connection._transport.get_extra_info("socket")
            options.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return iter([Head(204), Close()])

    async with serve(spy) as server:
        connections = server._connections
        reader, writer = await connect(server)
        writer.write(GET)
        await reader.read(-1)
        writer.close()
    assert len(options) == 1 and options[0]
