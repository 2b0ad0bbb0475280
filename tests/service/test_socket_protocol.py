"""What the service makes of the bytes of a WebSocket, in virtual time: a transport of the test, the real
protocol, and applications of the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from dub5.service.socket_protocol import LINGER_S, MESSAGES_AHEAD_MAX, PIECES_MAX, SocketProtocol


class Wire(asyncio.Transport):
    """A client on a connection: `client` reads what comes. `ended`: how and when the service has ended it."""

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.ended: tuple[str, float] | None = None
        self.client = ClientProtocol(parse_uri("ws://x/v1/ws"))
        self.unread = 0  # bytes that were written while the client does not read
        self.reads = True
        config = uvicorn.Config(
            app, interface="asgi3", ws=SocketProtocol, lifespan="off", log_config=None, **options
        )
        self.protocol = SocketProtocol(config, ServerState(), {}, _loop=self.loop)
        self.protocol.connection_made(self)
        self.client.send_request(self.client.connect())
        self.flush()

    def flush(self) -> None:
        """Hand the bytes of the client to the service, in one piece."""
        self.protocol.data_received(b"".join(self.client.data_to_send()))

    def heard(self) -> list[Any]:
        """Return what the client has heard."""
        return [event.data for event in self.client.events_received() if isinstance(event, Frame)]

    def write(self, data: Any) -> None:
        if self.reads:
            self.client.receive_data(bytes(data))
        else:
            self.unread += len(data)

    def close(self) -> None:
        self._end("close")

    def abort(self) -> None:
        self._end("abort")

    def _end(self, how: str) -> None:
        if self.ended is None and (how == "abort" or self.reads):  # `close` waits for what is unread
            self.ended = how, self.loop.time()
            self.loop.call_soon(self.protocol.connection_lost, None)

    def is_closing(self) -> bool:
        return self.ended is not None

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def sleepy(scope: Any, receive: Any, send: Any) -> None:
    """Read nothing for a minute, then leave without a close."""
    await receive()
    await send({"type": "websocket.accept"})
    await asyncio.sleep(60)


async def closing(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 4000})


async def late(scope: Any, receive: Any, send: Any) -> None:
    """Send without a look at what has come."""
    await receive()
    await send({"type": "websocket.accept"})
    await asyncio.sleep(1)
    await send({"type": "websocket.send", "text": "late"})


@asynccontextmanager
async def opened(app: Any, ping_s: float | None = None) -> AsyncIterator[Wire]:
    wire = Wire(app, ws_ping_interval=ping_s, ws_ping_timeout=ping_s)
    await asyncio.sleep(0.1)
    wire.client.events_received()
    yield wire
    wire.abort()
    await asyncio.sleep(100)


async def test_a_message_in_many_pieces() -> None:
    """A message in very many pieces comes whole, and no more than PIECES_MAX of them are held."""
    async with opened(echo) as wire:
        wire.client.send_text(b"x", fin=False)
        for _ in range(5000):
            wire.client.send_continuation(b"", fin=False)
        wire.client.send_continuation(b"y", fin=False)
        wire.flush()
        assert len(wire.protocol.frames) <= PIECES_MAX
        wire.client.send_continuation(b"z", fin=True)
        wire.flush()
        await asyncio.sleep(0.1)
        assert wire.heard() == [b"xyz"]


async def test_very_many_messages() -> None:
    """Messages that come faster than they are read end the connection."""
    async with opened(sleepy) as wire:
        for _ in range(MESSAGES_AHEAD_MAX + 5):
            wire.client.send_text(b"x")
        wire.flush()
        assert wire.protocol.queue.qsize() <= MESSAGES_AHEAD_MAX + 1
        assert wire.client.close_rcvd and wire.client.close_rcvd.code == 1008


async def test_pings_of_a_client_that_does_not_read() -> None:
    """Pongs are not written for a client that does not read."""
    async with opened(echo) as wire:
        wire.reads = False
        wire.protocol.pause_writing()
        for _ in range(1000):
            wire.client.send_ping(b"x" * 100)
        wire.flush()
        assert wire.unread == 0
        wire.reads = True
        wire.protocol.resume_writing()
        wire.client.send_ping(b"a")
        wire.flush()
        assert wire.heard() == [b"a"]


@pytest.mark.parametrize("data", [b"\xff", b"\xc3"])
async def test_text_that_is_none(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Text that is not UTF-8 ends the connection with 1007, and leaves no line in the log."""
    async with opened(echo) as wire:
        wire.client.send_frame(Frame(Opcode.TEXT, data))
        wire.flush()
        assert wire.client.close_rcvd and wire.client.close_rcvd.code == 1007
        await asyncio.sleep(60)
        assert wire.ended == ("abort", pytest.approx(0.1 + LINGER_S))
        assert not [line for line in caplog.records if line.levelname in ("WARNING", "ERROR")]


async def test_a_broken_frame_before_the_end_of_the_other() -> None:
    """A frame that breaks the protocol is told with its code; what comes after it is read, and left."""
    async with opened(echo) as wire:
        wire.protocol.data_received(b"\xff\xff")
        await asyncio.sleep(1)
        wire.protocol.data_received(b"x" * 100_000)
        assert wire.client.close_rcvd and wire.client.close_rcvd.code == 1002
        await asyncio.sleep(60)
        assert wire.ended == ("abort", pytest.approx(0.1 + LINGER_S))


async def test_ends_that_would_not_come() -> None:
    """A connection of a client that does not read ends: at once where the application leaves it without a
    close, LINGER_S after one, and so after a ping that was not answered."""
    async with opened(sleepy) as left, opened(closing) as closed, opened(echo, ping_s=20.0) as silent:
        for wire in (left, closed, silent):
            wire.reads = False
        await asyncio.sleep(200)
    assert left.ended == ("abort", pytest.approx(60.0))
    assert closed.ended == ("abort", pytest.approx(0.1 + LINGER_S, abs=0.2))
    assert silent.ended == ("abort", pytest.approx(40.0 + LINGER_S, abs=0.3))


async def test_a_server_that_ends() -> None:
    """A server that ends tells its clients, and waits for none of them."""
    async with opened(sleepy) as wire:
        wire.reads = False
        wire.protocol.shutdown()
        await asyncio.sleep(50)
        assert wire.ended == ("abort", pytest.approx(0.1 + LINGER_S))


async def test_a_message_after_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """A message that is sent after the end, whoever has ended it, leaves no line in the log."""
    async with opened(late) as one, opened(late) as two:
        one.protocol.data_received(b"\xff\xff")
        two.protocol.keepalive_timeout()
        await asyncio.sleep(2)
    assert not [line for line in caplog.records if line.levelname in ("WARNING", "ERROR")]
