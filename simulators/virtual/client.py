"""An in-process ASGI client: streams both ways, and may leave at any time.

    async with AppClient(app) as client:                      # lifespan
        async with client.stream("POST", "/path", json={}) as reply:
            reply.status, reply.headers
            while data := await reply.read(): ...             # leaving the block early = the client leaves
        async with client.socket("/path") as socket:          # a WebSocket
            await socket.send("text")
            await socket.receive()                            # a message, or Closed

What the application raises is raised here. The client runs on any event loop, virtual or real.
"""

import asyncio
import contextvars
import json as jsonlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from dub5.simulators.virtual.asgi import LEAVE_S, App, AppFault, AppSide, AppStream, AsgiMessage, Lifespan
from dub5.simulators.virtual.socket import AppSocket, PeerGone

BUFFER_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class AppResponse:
    """A whole reply; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return jsonlib.loads(self.body)


class AppClient:
    """In-process client of an ASGI application.

    `buffer_bytes_max`: bytes that the application may send ahead of the reader before its `send` waits.
    `client`: the address that the application sees. An application without lifespan events needs
    `lifespan=False`.
    """

    def __init__(
        self,
        app: App,
        *,
        headers: Mapping[str, str] | None = None,
        client: tuple[str, int] = ("127.0.0.1", 50000),
        buffer_bytes_max: int = BUFFER_BYTES_MAX,
        lifespan: bool = True,
    ) -> None:
        self._app = app
        self._headers = {"host": "testserver", **(headers or {})}
        self._client = client
        self._buffer_bytes_max = buffer_bytes_max
        self._lifespan = Lifespan(app) if lifespan else None
        self._count = 0
        self._replies: dict[AppStream | AppSocket, None] = {}  # those that are open
        self._killed = False

    async def __aenter__(self) -> Self:
        if self._lifespan:
            await self._lifespan.say("startup")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lifespan:
            await self._lifespan.say("shutdown")
            await self._lifespan.task

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | AsyncIterator[bytes] = b"",
        json: Any = None,
    ) -> AppResponse:
        """Send a request and return the whole reply; the arguments are those of `stream`."""
        async with self.stream(method, path, headers=headers, body=body, json=json) as reply:
            data = await reply.body()
            return AppResponse(reply.status, reply.headers, data)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | AsyncIterator[bytes] = b"",
        json: Any = None,
        context: contextvars.Context | None = None,
    ) -> AsyncIterator[AppStream]:
        """Send a request and yield the reply from its first byte on.

        `path` is raw, with its query; `body` may arrive in pieces. `context`: the application's context; by
        default an empty one, as on a server. Leaving the block sends a disconnect, and waits until the
        application has ended.
        """
        if json is not None:
            body = jsonlib.dumps(json).encode()
        if self._killed:
            raise AppFault("the connection was refused: the process is dead")
        self._count += 1
        name = f"app {self._count} {method} {path}"
        reply = AppStream(self._buffer_bytes_max, is_head=method == "HEAD")
        self._replies[reply] = None
        scope = self._scope(method, path, self._header_lines(headers, body, json is not None))
        reply._app = asyncio.create_task(
            self._serve(scope, reply), name=name, context=context or contextvars.Context()
        )
        reply._app.add_done_callback(lambda _: reply._to_client.set())
        tasks = [reply._app]
        if isinstance(body, bytes):
            reply._ask({"type": "http.request", "body": body, "more_body": False})
        else:
            tasks.append(asyncio.create_task(_upload(body, reply), name=f"{name} upload"))
        try:
            await reply._until(lambda: reply.status)
            yield reply
        except BaseException as error:
            await self._end(reply, tasks, error)
            raise
        else:
            await self._end(reply, tasks, None)

    @asynccontextmanager
    async def socket(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] = (),
        context: contextvars.Context | None = None,
    ) -> AsyncIterator[AppSocket]:
        """Open a WebSocket, and yield it once it is accepted or refused.

        Leaving the block without `close` loses the connection, as when a network fails, and waits until the
        application has ended. `context`: as in `stream`.
        """
        if self._killed:
            raise AppFault("the connection was refused: the process is dead")
        self._count += 1
        socket = AppSocket(self._buffer_bytes_max)
        self._replies[socket] = None
        lines = dict(headers or {}) | (
            {"sec-websocket-protocol": ", ".join(subprotocols)} if subprotocols else {}
        )
        scope = self._scope("GET", path, self._header_lines(lines, b"", False))
        del scope["method"]
        scope |= {"type": "websocket", "scheme": "ws", "subprotocols": list(subprotocols)}
        scope["extensions"] = {"websocket.http.response": {}}
        socket._app = asyncio.create_task(
            self._serve_socket(scope, socket),
            name=f"app {self._count} socket {path}",
            context=context or contextvars.Context(),
        )
        socket._app.add_done_callback(lambda _: socket._to_client.set())
        try:
            await socket._until(lambda: socket.status)
            yield socket
        except BaseException as error:
            await self._end(socket, [socket._app], error)
            raise
        else:
            await self._end(socket, [socket._app], None)

    def kill(self) -> None:
        """Let the application's process die: every connection is lost, and no new one is made.

        Its tasks still run, but nothing that they send arrives anywhere. To end them is for the caller.
        """
        self._killed = True
        for reply in self._replies:
            reply._break()

    async def _end(
        self, reply: AppStream | AppSocket, tasks: list[asyncio.Task[None]], error: BaseException | None
    ) -> None:
        self._replies.pop(reply)
        if self._killed:
            for upload in tasks[1:]:
                upload.cancel()
            return
        try:
            await _end(reply, tasks, error)
        except (AppFault, asyncio.CancelledError):
            if not self._killed:  # else it was killed meanwhile, and what became of its task is nothing to us
                raise

    async def _serve(self, scope: AsgiMessage, reply: AppStream) -> None:
        await self._app(scope, reply._receive, reply._send)

    async def _serve_socket(self, scope: AsgiMessage, socket: AppSocket) -> None:
        with suppress(PeerGone):  # as servers do
            await self._app(scope, socket._receive, socket._send)

    def _header_lines(
        self, headers: Mapping[str, str] | None, body: bytes | AsyncIterator[bytes], is_json: bool
    ) -> list[tuple[bytes, bytes]]:
        lines = dict(self._headers)
        if is_json:
            lines["content-type"] = "application/json"
        if not isinstance(body, bytes):
            lines["transfer-encoding"] = "chunked"
        elif body:
            lines["content-length"] = str(len(body))
        lines |= {name.lower(): value for name, value in (headers or {}).items()}
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines.items()]

    def _scope(self, method: str, path: str, headers: list[tuple[bytes, bytes]]) -> AsgiMessage:
        raw, _, query = path.partition("?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(raw),
            "raw_path": raw.encode("ascii"),
            "query_string": query.encode("ascii"),
            "root_path": "",
            "headers": headers,
            "client": self._client,
            "server": ("testserver", 80),
            "state": dict(self._lifespan.state) if self._lifespan else {},
            "extensions": {},
        }


async def _upload(body: AsyncIterator[bytes], reply: AppStream) -> None:
    async for data in body:
        reply._ask({"type": "http.request", "body": data, "more_body": True})
    reply._ask({"type": "http.request", "body": b"", "more_body": False})


async def _end(reply: AppSide, tasks: list[asyncio.Task[None]], error: BaseException | None) -> None:
    """Disconnect. Raise what the application raises now, or add it as a note to the error under way."""
    app, *uploads = tasks
    reply._leave()
    for upload in uploads:
        upload.cancel()
    _, stuck = await asyncio.wait(tasks, timeout=LEAVE_S)
    for task in stuck:
        task.cancel()
    if stuck:
        await asyncio.wait(stuck)
        failure: BaseException | None = AppFault(
            f"the application had not ended {LEAVE_S} s after the client left"
        )
    else:
        failure = asyncio.CancelledError() if app.cancelled() else app.exception()
    if failure and not error:
        raise failure
    if failure and error and failure is not error:
        error.add_note(f"and the application failed: {failure!r}")
