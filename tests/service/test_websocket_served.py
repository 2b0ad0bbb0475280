"""WebSockets over real sockets, with a client that is not ours: handshakes, frames, who does not read."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from dub5.simulators.server.sockets import serve
from tests.support.child_processes import serving
from tests.support.conversation_world import counting
from tests.support.one_route import one_route
from tests.support.world import healthy

pytestmark = pytest.mark.real_sockets
PROTOCOL = Subprotocol("dub5.v1")
SETTINGS = (
    one_route("{url}/v1")
    + """
[server]
caller_keys_env = ["DUB5_TEST_KEY"]
client_stall_s = 1.0
{more}
"""
)
KEEPING = """
[conversation]
[session]
[database]
url = "sqlite:///{file}"
"""
KEY = {"authorization": "Bearer a-key-for-a-simulator"}


class Served:
    """A service as a process."""

    def __init__(self, address: str, process: Any) -> None:
        self.host = address.removeprefix("http://")
        self.process = process

    def connect(self, **more: Any) -> Any:
        """Connect as a program does."""
        options = {"additional_headers": KEY, "subprotocols": [PROTOCOL], "proxy": None, "compression": None}
        return connect(f"ws://{self.host}/v1/ws", **(options | more))


@asynccontextmanager
async def served(folder: Path, answer: Any = None, *, keeping: bool = True) -> AsyncIterator[Served]:
    """Run a service over a simulated provider; nothing that it does leaves a traceback."""
    config = folder / "dub5.toml"
    async with serve(answer or counting("hello big world", prompt=0, answer=0, wait_s=0.0)) as provider:
        more = KEEPING.format(file=folder / "kept.db") if keeping else ""
        config.write_text(SETTINGS.format(url=provider.url, more=more))
        log = folder / "log"
        with log.open("w") as file, serving(config, log=file) as (address, process):
            yield Served(address, process)
        assert "Traceback" not in log.read_text(), log.read_text()


async def hear(client: ClientConnection, type_: str) -> Any:
    """Return the next message of a type."""
    async with asyncio.timeout(20):
        while (message := json.loads(await client.recv()))["type"] != type_:
            pass
    return message


async def code_of(client: ClientConnection) -> int:
    """Return the code of the close, once all messages were heard."""
    async with asyncio.timeout(20):
        try:
            while True:
                await client.recv()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006


async def test_talking(tmp_path: Path) -> None:
    """A question is asked, answered and read on; bad messages, large and binary ones end as they should."""
    async with served(tmp_path) as service:
        async with service.connect() as client:
            assert client.subprotocol == PROTOCOL
            await hear(client, "ready")
            await client.send(json.dumps({"type": "ask", "id": "q-1", "text": "Hi"}))
            turn = (await hear(client, "accepted"))["turn"]
            assert (await hear(client, "end"))["outcome"] == "complete"
            await client.send(json.dumps({"type": "resume", "turn": turn, "after": 6}))
            assert (await hear(client, "delta"))["text"] == "big world"
            for _ in range(11):
                await client.send("{}")
            assert await code_of(client) == 1008
        for sent, code in (
            (b"{}", 1003),
            ("x" * 70_000, 1009),
            ("x" * 300_000, 1009),
            (["x" * 50_000, "x" * 50_000], 1009),
            (["x"] * 500, 1000),
        ):
            async with service.connect() as client:
                await hear(client, "ready")
                await client.send(sent)
                if code == 1000:
                    assert (await hear(client, "error"))["error"]["code"] == "invalid_request"
                    continue
                if sent in (b"{}", "x" * 70_000):
                    await hear(client, "error")
                assert await code_of(client) == code


async def test_handshakes(tmp_path: Path) -> None:
    """Who may not connect is told by an HTTP error of the one shape; other requests of the connection and
    other offers are served as ever."""
    async with served(tmp_path) as service:
        for more, status, code in (
            ({"origin": Origin("https://evil.example")}, 403, "origin_not_allowed"),
            ({"subprotocols": [Subprotocol("other")]}, 400, "invalid_request"),
        ):
            with pytest.raises(InvalidStatus) as refused:
                await service.connect(**more)
            reply = refused.value.response
            assert (reply.status_code, json.loads(reply.body)["error"]["code"]) == (status, code)
        async with service.connect(additional_headers={}) as client:
            assert (await hear(client, "error"))["error"]["code"] == "invalid_api_key"
            assert await code_of(client) == 4401
        async with service.connect(origin=Origin(f"http://{service.host}"), compression="deflate") as client:
            await hear(client, "ready")
            assert client.protocol.extensions == []


async def test_bytes_after_the_head(tmp_path: Path) -> None:
    """A frame that comes in one piece with the handshake is not lost; text that is not UTF-8 is 1007."""
    head = (
        f"GET /v1/ws HTTP/1.1\r\nhost: x\r\nauthorization: {KEY['authorization']}\r\nupgrade: websocket\r\n"
        "connection: keep-alive, Upgrade\r\nsec-websocket-version: 13\r\n"
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()
    plain = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
    ping, bad = b'\x81\x8f\0\0\0\0{"type":"ping"}', b"\x81\x81\0\0\0\0\xff"
    async with served(tmp_path) as service:
        host, port = service.host.split(":")
        for before in (b"", plain):
            reader, writer = await asyncio.open_connection(host, int(port))
            if before:
                writer.write(before)
                assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
                await reader.readuntil(b"}")
            writer.write(head + ping)
            async with asyncio.timeout(10):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
                await reader.readuntil(b'{"type":"pong"}')
                writer.write(bad)
                assert (await reader.read())[:4][2:] == b"\x03\xef"  # 1007
            writer.close()
            await writer.wait_closed()


async def test_a_client_that_does_not_read(tmp_path: Path) -> None:
    """A client that does not read loses its connection; its turn ends as ever."""
    long = healthy(first_s=0.0, gap_s=0.0, words=("x" * 200_000,) * 60)
    async with served(tmp_path, long) as service:
        async with service.connect(max_queue=1, ping_interval=None) as client:
            await hear(client, "ready")
            await client.send(json.dumps({"type": "ask", "id": "q-1", "text": "Hi"}))
            turn = (await hear(client, "accepted"))["turn"]
            client.transport.pause_reading()
            async with asyncio.timeout(20):
                while await open_sockets(service):
                    await asyncio.sleep(0.05)
            client.transport.abort()
        async with service.connect(max_size=None) as client:
            await client.send(json.dumps({"type": "resume", "turn": turn}))
            assert (await hear(client, "end"))["outcome"] == "complete"


async def open_sockets(service: Served) -> float:
    """Return how many WebSockets the service has, as its metrics say."""
    host, port = service.host.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = f"GET /metrics HTTP/1.0\r\nhost: x\r\nauthorization: {KEY['authorization']}\r\n\r\n"
    writer.write(lines.encode())
    text = (await reader.read()).decode()
    writer.close()
    return float(text.partition("\ngateway_sockets ")[2].partition("\n")[0])


async def test_drain(tmp_path: Path) -> None:
    """A signal tells all clients to go; a turn that is open ends first, and then the process."""
    slow = healthy(first_s=0.5, gap_s=0.2)
    async with served(tmp_path, slow) as service, service.connect() as idle, service.connect() as busy:
        await busy.send(json.dumps({"type": "ask", "id": "q-1", "text": "Hi"}))
        await hear(busy, "accepted")
        service.process.send_signal(signal.SIGTERM)
        assert (await hear(idle, "bye"))["why"] == "drain"
        assert await code_of(idle) == 1012
        assert (await hear(busy, "end"))["outcome"] == "complete"
        assert await code_of(busy) == 1012
        assert await asyncio.to_thread(service.process.wait, 10) == 0


async def test_without_conversations(tmp_path: Path) -> None:
    """Without conversations the path is as any unknown one, and no WebSocket is spoken."""
    async with served(tmp_path, keeping=False) as service:
        with pytest.raises(InvalidStatus) as refused:
            await service.connect()
        assert refused.value.response.status_code == 404
