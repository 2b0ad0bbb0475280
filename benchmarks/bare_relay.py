"""The relay that the service is measured against: one ASGI function and one HTTP client, and nothing else.

    uvicorn (httptools, uvloop) -> relay -> aiohttp.ClientSession -> upstream

    python -m benchmarks.bare_relay http://127.0.0.1:8001

It parses nothing, keeps nothing and handles no failure; uvicorn and aiohttp are as they come. It prints its
address, and serves until a signal.
"""

import socket
import sys
from typing import Any

import aiohttp
import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

JSON = {"content-type": "application/json"}


class BareRelay:
    """The application: it forwards each request to `upstream`, and the answer as it comes."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "http":
            await self._forward(scope["path"], receive, send)
        elif scope["type"] == "lifespan":
            await receive()
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self._session:
                await send({"type": "lifespan.startup.complete"})
                await receive()
            await send({"type": "lifespan.shutdown.complete"})

    async def _forward(self, path: str, receive: Any, send: Any) -> None:
        assert self._session is not None
        body = await body_of(receive)
        async with self._session.post(self._upstream + path, data=body, headers=JSON) as answer:
            headers = [(b"content-type", answer.headers["content-type"].encode())]
            if answer.content_length is not None:
                data = await answer.read()
                headers.append((b"content-length", b"%d" % len(data)))
                await send({"type": "http.response.start", "status": answer.status, "headers": headers})
                await send({"type": "http.response.body", "body": data})
                return
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            async for data in answer.content.iter_any():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


async def body_of(receive: Any) -> bytes:
    """Return the body of a request."""
    message = await receive()
    body: bytes = message["body"]
    while message["more_body"]:
        message = await receive()
        body += message["body"]
    return body


def main() -> None:
    """Serve on a free port."""
    # Only for a socket that says TCP, TCP_NODELAY is set on its connections.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    app: Any = BareRelay(sys.argv[1])
    config = uvicorn.Config(app, http="httptools", loop="uvloop", access_log=False, log_level="warning")
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
