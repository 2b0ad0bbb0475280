"""A provider in the openai dialect that says its answer in parts to many at once, when a test lets it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.support.openai_events import DONE, STOP, choice, event


class SlowProvider:
    """Gives every question the same answer. `asked` counts the questions."""

    def __init__(self, parts: Sequence[str]) -> None:
        self.url = ""
        self.asked = 0
        self._parts = parts
        self._may_say = [asyncio.Event() for _ in parts]

    def say(self, count: int) -> None:
        """Let the first `count` parts be said."""
        for may_say in self._may_say[:count]:
            may_say.set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close the connection."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            self.asked += 1
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
            for may_say, part in zip(self._may_say, self._parts, strict=True):
                await may_say.wait()
                for word in part.split(" "):
                    writer.write(event(choices=[choice({"content": f"{word} "})]))
                await writer.drain()
            writer.write(STOP + DONE)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the service has left
        finally:
            writer.close()


@asynccontextmanager
async def slow_provider(parts: Sequence[str]) -> AsyncIterator[SlowProvider]:
    """Listen while the block runs."""
    provider = SlowProvider(parts)
    server = await asyncio.start_server(provider.answer, "127.0.0.1", 0)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield provider
    finally:
        provider.say(len(parts))
        server.close()
