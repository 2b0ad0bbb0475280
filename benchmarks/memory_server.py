"""A server without sockets: its protocol on transports in memory. What is left out is the kernel.

    MemoryClient.exchange(request bytes) -> the server's protocol -> application -> MemoryTransport -> answer

One request at a time on a connection, which is kept alive. Everything that the server's own protocol does is
done: it parses bytes, and writes bytes.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from uvicorn.lifespan.on import LifespanOn
from uvicorn.server import ServerState

END_OF_HEAD = b"\r\n\r\n"
END_OF_CHUNKS = b"0\r\n\r\n"


class MemoryTransport(asyncio.Transport):
    """The server's end of a connection. `answer` has its result when all of a response is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 50_000), "sockname": ("127.0.0.1", 80)})
        self.answer: asyncio.Future[bytes] | None = None
        self._parts: list[bytes] = []
        self._left: int | None = None  # bytes of the response to come; None: not known yet, or it has chunks
        self._has_chunks = False
        self._closing = False

    def expect(self) -> asyncio.Future[bytes]:
        """Begin a response; return what will have its bytes."""
        self._parts, self._left, self._has_chunks = [], None, False
        self.answer = asyncio.get_running_loop().create_future()
        return self.answer

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes of the response."""
        self._parts.append(bytes(data))
        if self._left is None and not self._has_chunks:
            self._read_head(bytes(data))
        elif self._left is not None:
            self._left -= len(data)
        if self._left == 0 or (self._has_chunks and data[-5:] == END_OF_CHUNKS):
            self._end()

    def _read_head(self, data: bytes) -> None:
        head, end, rest = data.partition(END_OF_HEAD)
        if not end:
            raise RuntimeError("the head of a response came in parts")
        at = head.lower().find(b"content-length:")
        if at < 0:
            self._has_chunks = True
        else:
            self._left = int(head[at + 15 :].partition(b"\r\n")[0]) - len(rest)

    def _end(self) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(b"".join(self._parts))

    def close(self) -> None:
        """Note that the server closes."""
        self._closing = True
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError("the server closed before the response was whole"))

    abort = close

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return None

    def pause_reading(self) -> None:
        return None

    def resume_reading(self) -> None:
        return None

    def is_reading(self) -> bool:
        return True


class MemoryClient:
    """The client's end of a kept-alive connection."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol
        self._transport = MemoryTransport()
        protocol.connection_made(self._transport)

    async def exchange(self, request: bytes) -> bytes:
        """Send the bytes of a request; return those of the whole response. Raises ConnectionError."""
        answer = self._transport.expect()
        self._protocol.data_received(request)
        return await answer

    def close(self) -> None:
        """Leave, as a client that closes its connection."""
        self._transport.close()
        self._protocol.connection_lost(None)


class MemoryServer:
    """A server as `config` says, whose connections are in memory."""

    def __init__(self, config: uvicorn.Config) -> None:
        self._config = config
        self._state = ServerState()

    def connect(self) -> MemoryClient:
        """Open a connection."""
        kind: Any = self._config.http_protocol_class
        loop = asyncio.get_running_loop()
        return MemoryClient(kind(config=self._config, server_state=self._state, app_state={}, _loop=loop))


@asynccontextmanager
async def memory_server(config: uvicorn.Config) -> AsyncIterator[MemoryServer]:
    """Start the application of `config`, serve it in memory, and end it."""
    config.load()
    lifespan = LifespanOn(config)
    await lifespan.startup()
    try:
        yield MemoryServer(config)
    finally:
        await lifespan.shutdown()


def request_bytes(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a POST request with a JSON body, with about as many headers as official SDKs send."""
    lines = {
        "host": "127.0.0.1",
        "accept": "application/json",
        "accept-encoding": "gzip, deflate",
        "connection": "keep-alive",
        "user-agent": "OpenAI/Python 2.8.0",
        "authorization": "Bearer sk-1",
        "x-stainless-lang": "python",
        "x-stainless-retry-count": "0",
        "content-type": "application/json",
        "content-length": str(len(body)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in (lines | dict(headers or {})).items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body
