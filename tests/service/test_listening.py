"""What `dub5 serve` makes of the connections it accepts."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from uvicorn.config import LOOP_FACTORIES

from dub5.service.command import DrainingServer, main

SETTINGS = """
[[provider]]
name = "one"
dialect = "openai"
base_url = "http://127.0.0.1:9"
[[route]]
name = "chat"
targets = ["one/m"]
"""
LOOPS = {"uvloop": "auto", "asyncio": "asyncio"}


@pytest.mark.parametrize("loop", LOOPS)
def test_no_delay(loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token leaves at once: TCP_NODELAY is set on what is accepted, on the loop of production and on any
    other."""
    seen: list[tuple[str, int]] = []
    startup = DrainingServer.startup

    async def visited(server: DrainingServer, sockets: list[socket.socket] | None = None) -> None:
        await startup(server, sockets)
        assert sockets is not None
        reader, writer = await asyncio.open_connection(*sockets[0].getsockname()[:2])
        writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        for connection in server.server_state.connections:
            seen.append((type(asyncio.get_running_loop()).__module__, no_delay_of(connection)))
        writer.close()
        await writer.wait_closed()
        server.should_exit = True

    monkeypatch.setattr(DrainingServer, "startup", visited)
    monkeypatch.setitem(LOOP_FACTORIES, "auto", LOOP_FACTORIES[LOOPS[loop]])
    (tmp_path / "dub5.toml").write_text(SETTINGS)
    assert main(["serve", "--config", str(tmp_path / "dub5.toml"), "--port", "0"]) == 0
    ((module, no_delay),) = seen
    assert module.startswith(loop) and no_delay


def no_delay_of(connection: Any) -> int:
    with socket.socket(fileno=os.dup(connection.transport.get_extra_info("socket").fileno())) as same:
        return same.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
