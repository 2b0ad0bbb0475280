"""A connection of a client to the service's HTTP protocol, without a socket."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from dub5.service.http_protocol import BoundedProtocol


class Connection(asyncio.Transport):
    """A client's connection: `received` is what it got; `closed_s` is when the service has closed it.

    Without an application, one answers that notes in `asked` what it got. `ws`: the protocol of WebSockets.
    `make`: makes the protocol of HTTP. `client`: the address of the client.
    """

    def __init__(
        self,
        app: Any = None,
        ws: type[asyncio.Protocol] | None = None,
        make: Callable[..., BoundedProtocol] = BoundedProtocol,
        client: str | None = None,
    ) -> None:
        super().__init__({"peername": (client, 1)} if client else {})
        self.received = b""
        self.closed_s: float | None = None
        self.asked: list[tuple[str, str, bytes]] = []
        config = uvicorn.Config(
            app or self._app,
            interface="asgi3",
            http=BoundedProtocol,
            ws=ws or "none",
            lifespan="off",
            access_log=False,
        )
        self._loop = asyncio.get_running_loop()
        self.handed_to: Any = None  # the protocol that has the connection after HTTP
        self.is_aborted = self.is_paused = False
        self.protocol = make(config=config, server_state=ServerState(), app_state={}, _loop=self._loop)
        self.protocol.connection_made(self)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        parts, more = b"", True
        while more:
            message = await receive()
            parts += message.get("body", b"")
            more = message.get("more_body", False)
        self.asked.append((scope["method"], scope["path"], parts))
        headers = [(b"content-length", b"2")] if scope["path"] == "/json" else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await asyncio.sleep(1)
        await send({"type": "http.response.body", "body": b"b"})

    async def send(self, *pieces: bytes, gap_s: float = 0.0) -> None:
        """Send the pieces until the connection is closed."""
        for piece in pieces:
            if self.closed_s is None:
                (self.handed_to or self.protocol).data_received(piece)
            await asyncio.sleep(gap_s)

    def error(self) -> tuple[int, str]:
        """Return the status and the code of the error that came back."""
        head, _, body = self.received.partition(b"\r\n\r\n")
        assert b"connection: close" in head and b"application/json" in head
        return int(head.split()[1]), json.loads(body)["error"]["code"]

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.handed_to = protocol

    def write(self, data: Any) -> None:
        self.received += data

    def close(self) -> None:
        if self.closed_s is None:
            self.closed_s = self._loop.time()
            self._loop.call_soon(self.protocol.connection_lost, None)

    def is_closing(self) -> bool:
        return self.closed_s is not None

    def abort(self) -> None:
        self.is_aborted = True
        self.close()

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False
