"""A provider in the openai dialect that says what a test tells it to, when it tells it to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from tests.support.openai_events import DONE, STOP, choice, event

END = None


class PacedProvider:
    """`asked`: the last message of each request. `left`: set once a client has left before its end."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.left = asyncio.Event()
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()

    def say(self, *pieces: str) -> None:
        """Say these pieces in the answer that is given, or the next one."""
        for piece in pieces:
            self._pieces.put_nowait(piece)

    def reply(self, *texts: str) -> None:
        """Answer so many questions."""
        for text in texts:
            self.say(text)
            self.end()

    def end(self) -> None:
        """End the answer."""
        self._pieces.put_nowait(END)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a chat request."""
        body = await request.json()
        self.asked.append(body["messages"][-1]["content"])
        try:
            if not body.get("stream"):
                return await self._whole()
            return await self._streamed(request)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise

    async def _whole(self) -> web.Response:
        text = ""
        while (piece := await self._pieces.get()) is not None:
            text += piece
        message = {"role": "assistant", "content": text}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return web.json_response({"id": "1", "object": "chat.completion", "choices": choices})

    async def _streamed(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        while (piece := await self._pieces.get()) is not None:
            await response.write(event(choices=[choice({"content": piece})]))
        await response.write(STOP + DONE)
        await response.write_eof()
        return response


@asynccontextmanager
async def paced_provider() -> AsyncIterator[PacedProvider]:
    """Run a provider; yield it."""
    provider = PacedProvider()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", provider.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield provider
    finally:
        await runner.cleanup()
