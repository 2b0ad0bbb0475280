"""A client that does not read its answer loses its connection when it is given up."""

import asyncio
import socket
from typing import Any

import pytest
import uvicorn

from dub5.service.http_protocol import BoundedProtocol

pytestmark = pytest.mark.real_sockets
PIECE = b"x" * 65536


async def gives_up(scope: Any, receive: Any, send: Any) -> None:
    """Send without end, and give the client up once it has not read for a while."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    try:
        while True:
            async with asyncio.timeout(0.2):
                await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    except TimeoutError:
        pass


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_its_connection_is_closed(loop: str) -> None:
    """The server has no connection left, although the client has read nothing and is still there."""
    config = uvicorn.Config(gives_up, http=BoundedProtocol, lifespan="off", loop=loop, log_level="critical")

    async def main() -> None:
        server = uvicorn.Server(config)
        listening = socket.create_server(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        client = socket.create_connection(listening.getsockname())
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(10):
            while not server.server_state.connections:
                await asyncio.sleep(0.01)
            while server.server_state.connections:
                await asyncio.sleep(0.01)
        client.close()
        server.should_exit = True
        await serving

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(main())
