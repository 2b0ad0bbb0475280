"""The server's side of ASGI, without a server: a reply that is arriving, and an application's lifespan."""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

AsgiMessage = dict[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]

LEAVE_S = 60.0  # how long an application may go on after it should end


class AppFault(AssertionError):
    """The application broke the protocol: no whole reply, or no end after the client had left."""


class AppStream:
    """A reply that is still arriving. `AppClient.stream` yields it once status and headers are there."""

    def __init__(self, buffer_bytes_max: int) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._buffer_bytes_max = buffer_bytes_max
        self._requests: deque[AsgiMessage] = deque()
        self._data: deque[bytes] = deque()
        self._buffered = 0
        self._complete = self._left = False
        self._app: asyncio.Task[None]
        self._to_app = asyncio.Event()  # a request message, room in the buffer, or the client has left
        self._to_client = asyncio.Event()  # headers, data, or the application has ended

    async def read(self) -> bytes:
        """Return the next bytes as the application sent them; `b""` at the end of the reply."""
        if not (self._data or self._complete):
            await self._until(lambda: self._data or self._complete)
        if not self._data:
            return b""
        data = self._data.popleft()
        self._buffered -= len(data)
        self._to_app.set()
        return data

    async def body(self) -> bytes:
        """Return the rest of the body."""
        parts = []
        while data := await self.read():
            parts.append(data)
        return b"".join(parts)

    async def _until(self, arrived: Callable[[], object]) -> None:
        while not arrived():
            if self._app.done():
                self._app.result()
                raise AppFault(f"the application ended without a whole reply (status so far: {self.status})")
            self._to_client.clear()
            await self._to_client.wait()

    def _ask(self, message: AsgiMessage) -> None:
        self._requests.append(message)
        self._to_app.set()

    def _leave(self) -> None:
        self._left = True
        self._to_app.set()

    async def _receive(self) -> AsgiMessage:
        """Receive, as ASGI defines it: a disconnect overtakes the rest of the request, as on a server."""
        while True:
            if self._left or self._complete:
                return {"type": "http.disconnect"}
            if self._requests:
                return self._requests.popleft()
            self._to_app.clear()
            await self._to_app.wait()

    async def _send(self, message: AsgiMessage) -> None:
        """Send, as ASGI defines it: wait while the buffer is full; do nothing after the client has left."""
        while self._buffered >= self._buffer_bytes_max and not self._left:
            self._to_app.clear()
            await self._to_app.wait()
        if self._left:
            return
        if message["type"] == "http.response.start":
            self.headers = _joined(message.get("headers", ()))
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self._take(message.get("body", b""), message.get("more_body", False))
        self._to_client.set()

    def _take(self, data: bytes, more: bool) -> None:
        if not self.status or self._complete:
            raise AppFault("a body before the status line" if not self.status else "a body after the end")
        if data:
            self._data.append(bytes(data))
            self._buffered += len(data)
        if not more:
            self._complete = True
            self._to_app.set()


class Lifespan:
    """Start-up and shutdown of an application, in a task of its own."""

    def __init__(self, app: App) -> None:
        self.state: AsgiMessage = {}
        self.task: asyncio.Task[None]
        self._app = app
        self._to_app: asyncio.Queue[AsgiMessage] = asyncio.Queue()
        self._from_app: asyncio.Queue[AsgiMessage] = asyncio.Queue()

    async def say(self, what: str) -> None:
        """Send "startup" or "shutdown", and wait for the answer.

        Raises what the application raises, or AppFault with the application's message if it reports a
        failure.
        """
        if what == "startup":
            scope = {
                "type": "lifespan",
                "asgi": {"version": "3.0", "spec_version": "2.0"},
                "state": self.state,
            }
            self.task = asyncio.create_task(
                self._serve(scope), name="app lifespan", context=contextvars.Context()
            )
        self._to_app.put_nowait({"type": f"lifespan.{what}"})
        answer = asyncio.create_task(self._from_app.get(), name=f"app lifespan {what}")
        await asyncio.wait([self.task, answer], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            await self.task
            raise AppFault(f"the application ended before lifespan.{what}.complete")
        if answer.result()["type"] != f"lifespan.{what}.complete":
            await asyncio.wait([self.task], timeout=LEAVE_S)  # time to raise the error that it reported
            if self.task.done():
                self.task.result()
            self.task.cancel()
            raise AppFault(f"{answer.result()['type']}: {answer.result().get('message', '')}")

    async def _serve(self, scope: AsgiMessage) -> None:
        await self._app(scope, self._to_app.get, self._from_app.put)


def _joined(headers: Any) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = bytes(raw_name).decode("latin-1").lower(), bytes(raw_value).decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined
