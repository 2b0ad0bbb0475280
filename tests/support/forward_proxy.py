"""A forward proxy on sockets, as companies run one, and TLS in front of a provider."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PIECE_BYTES = 65536


class ForwardProxy:
    """A proxy that tunnels CONNECT requests and forwards the others. Only the proxy resolves the names in
    `ports`.

    `asked`: the first line of each request; `heard`: all bytes of the clients; `came` and `left`: set when a
    client connects and when it leaves. `instead` replaces all of this for each client.
    """

    def __init__(self, ports: dict[str, int]) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.heard = b""
        self.came = asyncio.Event()
        self.left = asyncio.Event()
        self.instead: Client | None = None
        self.ports = ports

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = self._hears(await reader.readuntil(b"\r\n\r\n"))
            self.came.set()
            if self.instead is not None:
                await self.instead(reader, writer)
            elif head.startswith(b"CONNECT "):
                await self._tunnel(head, reader, writer)
            else:
                await self._forward(head, reader, writer)
        finally:
            self.left.set()

    async def _tunnel(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = head.split()[1].decode()
        provider = await asyncio.open_connection("127.0.0.1", self.ports[address])
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await joined((reader, writer), provider)

    async def _forward(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = head.split()[1].removeprefix(b"http://").partition(b"/")[0]
        provider = await asyncio.open_connection("127.0.0.1", self.ports[f"{host.decode()}:80"])

        def shortened(data: bytes) -> bytes:
            return data.replace(b" http://" + host, b" ", 1)

        provider[1].write(shortened(head))
        await joined((reader, writer), provider, lambda data: shortened(self._hears(data)))

    def _hears(self, data: bytes) -> bytes:
        self.heard += data
        first = data.partition(b"\r\n")[0]
        if first.endswith(b" HTTP/1.1"):
            self.asked.append(first.decode())
        return data


@dataclass(frozen=True)
class SendThenStall:
    """Send these bytes to the client, then nothing more."""

    data: bytes

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.data)
        while await reader.read(PIECE_BYTES):
            pass


async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close the client's connection properly."""
    writer.close()


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reset the client's connection."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def joined(
    one: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    other: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    change: Callable[[bytes], bytes] = bytes,
) -> None:
    """Copy bytes in both directions until one side closes."""
    ways = [
        asyncio.create_task(_pump(one[0], other[1], change)),
        asyncio.create_task(_pump(other[0], one[1], bytes)),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        one[1].close()
        other[1].close()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Callable[[bytes], bytes]
) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(PIECE_BYTES):
            writer.write(change(data))
            await writer.drain()


@contextlib.asynccontextmanager
async def listening(client: Client, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Listen on a port that `client` serves; yield the port."""

    async def until_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            await client(reader, writer)

    server = await asyncio.start_server(until_the_end, "127.0.0.1", 0, ssl=tls)
    with contextlib.closing(server):
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def in_front_of(port: int, tls: ssl.SSLContext) -> AsyncIterator[int]:
    """Listen with TLS in front of a provider that has none; yield the port."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await joined((reader, writer), await asyncio.open_connection("127.0.0.1", port))

    async with listening(client, tls) as secure:
        yield secure
