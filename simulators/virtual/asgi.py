"""The server's side of ASGI, without a server: a reply that is arriving, and an application's lifespan."""

import asyncio
import contextvars
import re
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

AsgiMessage = dict[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]

LEAVE_S = 60.0  # how long an application may go on after it should end
BAD_NAME = re.compile(rb"[^!#$%&'*+.^_`|~0-9A-Za-z-]|\A\Z")
BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class AppFault(AssertionError):
    """The application broke the protocol: what a server refuses to send, no whole reply, or no end."""


class AppSide:
    """What a reply and a socket share: an application in a task, which each side waits for."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._left = False
        self._fault: AppFault | None = None
        self._app: asyncio.Task[None]
        self._to_app = asyncio.Event()  # a message, room in the buffer, or the client has left
        self._to_client = asyncio.Event()  # headers, data, or the application has ended

    async def _until(self, arrived: Callable[[], object]) -> None:
        while not arrived():
            self._raise_fault()
            if self._app.done():
                self._app.result()
                raise AppFault(f"the application ended without a whole reply (status so far: {self.status})")
            self._to_client.clear()
            await self._to_client.wait()

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _leave(self) -> None:
        self._left = True
        self._to_app.set()

    def _take_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        for name, value in headers:
            if BAD_NAME.search(name) or BAD_VALUE.search(value):
                raise AppFault(f"a header that no server sends: {name!r}: {value!r}")
        self.headers = _joined(headers)


class AppStream(AppSide):
    """A reply that is still arriving. `AppClient.stream` yields it once status and headers are there.

    It is as strict as a server about header bytes, lengths and the order of messages. After such a fault
    nothing more is sent, and the client fails with it, even if the application has caught it. The body of
    an answer to HEAD is not sent, as on a server.
    """

    def __init__(self, buffer_bytes_max: int, *, is_head: bool = False) -> None:
        super().__init__()
        self._buffer_bytes_max = buffer_bytes_max
        self._requests: deque[AsgiMessage] = deque()
        self._data: deque[bytes] = deque()
        self._buffered = 0
        self._complete = False
        self._is_head = is_head
        self._length_left: int | None = None  # of a body with a content-length

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

    def _ask(self, message: AsgiMessage) -> None:
        self._requests.append(message)
        self._to_app.set()

    def _break(self) -> None:
        """Lose the connection at this moment, both ways: the process of the application has died."""
        self._fault = AppFault("the connection was lost: the process died")
        self._data.clear()
        self._complete = False
        self._leave()
        self._to_client.set()

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
        try:
            self._check_order(message["type"])
            if message["type"] == "http.response.start":
                self._take_head(message["status"], list(message.get("headers", ())))
            else:
                self._take(message.get("body", b""), message.get("more_body", False))
        except AppFault as fault:
            self._fault = fault
            raise
        finally:
            self._to_client.set()

    def _check_order(self, kind: str) -> None:
        self._raise_fault()
        if self._complete:
            raise AppFault("a body after the end")
        if kind != "http.response.start" and not self.status:
            raise AppFault("a body before the status line")
        if kind != ("http.response.body" if self.status else "http.response.start"):
            raise AppFault(f"an unexpected message: {kind}")

    def _take_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._take_headers(headers)
        self.status = status
        if length := self.headers.get("content-length"):
            self._length_left = int(length)

    def _take(self, data: bytes, more: bool) -> None:
        data = b"" if self._is_head else bytes(data)
        if self._length_left is not None and not self._is_head:
            self._length_left -= len(data)
            if self._length_left < 0 or (self._length_left and not more):
                raise AppFault(f"a body of another length than announced: {self._length_left} bytes left")
        if data:
            self._data.append(data)
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
