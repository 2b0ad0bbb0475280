"""A relay on TCP between clients and a service, which a test cuts, and lets work again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

PIECE_BYTES = 65536


class Relay:
    """Forwards connections. `refused`: how a first line begins that is answered by 403, as proxies do.

    `cut_at`: what breaks the connection on which it comes, until `mend`.
    """

    def __init__(self, upstream: str) -> None:
        self.url = ""
        self.refused = b"\0"
        self.cut_at: bytes | None = None
        self._port = urlsplit(upstream).port
        self._is_cut = False
        self._flows = asyncio.Event()
        self._flows.set()
        self._replies = asyncio.Event()
        self._replies.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._accepted: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Break every connection, and each new one, until `mend`."""
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def hold(self) -> None:
        """Let nothing through, until `mend`: nobody is told."""
        self._flows.clear()

    def hold_replies(self) -> None:
        """Let nothing of the service through, until `mend`."""
        self._replies.clear()

    def mend(self) -> None:
        """Work again."""
        self._is_cut, self.cut_at = False, None
        self._flows.set()
        self._replies.set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection."""
        if self._is_cut:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._accepted.add(task)
        task.add_done_callback(self._accepted.discard)

    async def close(self) -> None:
        """End every connection."""
        self.cut()
        for task in self._accepted:
            task.cancel()
        await asyncio.gather(*self._accepted, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward a connection until one of its ends leaves."""
        self._writers.add(writer)
        there: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        tasks: list[asyncio.Task[None]] = []
        try:
            head = await reader.read(PIECE_BYTES)
            if head.startswith(self.refused):
                writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                return
            there = await asyncio.open_connection("127.0.0.1", self._port)
            there[1].write(head)
            ways = [
                self._forward(reader, there[1], self._flows),
                self._forward(there[0], writer, self._replies, self._flows),
            ]
            tasks = [asyncio.create_task(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the service is not there
        finally:
            for task in tasks:
                task.cancel()
            if there is not None:
                there[1].transport.abort()
            self._writers.discard(writer)
            writer.close()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *doors: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
                for door in doors:
                    await door.wait()
                if self.cut_at is not None and self.cut_at in data:
                    return
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def relaying(upstream: str) -> AsyncIterator[Relay]:
    """Run a relay in front of a service; yield it."""
    relay = Relay(upstream)
    server = await asyncio.start_server(relay.accept, "127.0.0.1", 0)
    relay.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        server.close()
        await relay.close()
