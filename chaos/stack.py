"""Everything a run on real sockets needs, each a process of its own, all on free ports of this machine.

clients -> service -> Toxiproxy, one proxy a provider -> simulators        (without Toxiproxy: straight)
"""

import asyncio
import contextlib
import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from chaos.admin import Admin
from chaos.configure import WORDS, settings
from chaos.door import HttpDoor, http_session
from chaos.processes import Child, NotStarted, Tell, child
from chaos.tools import Found
from chaos.toxiproxy import Proxy, Toxiproxy, ToxiproxyError

HOST = "127.0.0.1"
TOXIPROXY_READY = "Starting Toxiproxy HTTP server"
SERVICE_READY = "listening on "
PORT_TRIES = 3


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs. `proxies` is empty where Toxiproxy is missing, which `note` says, or not wanted."""

    url: str
    door: HttpDoor
    admin: Admin
    proxies: Mapping[str, Proxy]
    note: str
    children: tuple[Child, ...]

    def dead(self) -> list[Child]:
        """Processes that have ended although they should not have."""
        return [one for one in self.children if not one.running]


@asynccontextmanager
async def stack(
    providers: Mapping[str, str],
    clocks: Mapping[str, float],
    found: Found | None,
    tell: Tell,
    *,
    port: int = 0,
) -> AsyncIterator[Stack]:
    """Simulators, proxies if there is a server for them, and service; all of it ends with the block.

    `found` is None where nobody wants proxies; port 0 is any free one. Raises NotStarted.
    """
    async with contextlib.AsyncExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="dub5-")))
        simulators = await exits.enter_async_context(_simulators(providers, folder))
        said = json.loads(simulators.ready_line)
        urls = {name: one["url"] for name, one in said["providers"].items()}
        tell(f"simulators: {', '.join(f'{name} speaks {persona}' for name, persona in providers.items())}")
        children, proxies, note = [simulators], {}, ""
        if found is not None and found.path is not None:
            server, toxiproxy = await exits.enter_async_context(toxiproxy_server(found.path, folder))
            children.append(server)
            proxies = {name: await _proxy(toxiproxy, name, url, exits) for name, url in urls.items()}
            urls = {name: f"http://{proxy.listen}" for name, proxy in proxies.items()}
            tell("toxiproxy: a proxy before each provider")
        elif found is not None:
            note = f"No Toxiproxy ({found.why}): TCP faults are played by the simulators instead."
            tell(note)
        config = folder / "service.toml"
        config.write_text(settings(providers, urls, clocks), encoding="utf-8")
        service = await exits.enter_async_context(_service(config, folder, port))
        url = service.ready_line.removeprefix(SERVICE_READY)
        tell(f"service: {url}")
        session = await exits.enter_async_context(http_session())
        door, admin = HttpDoor(session, url), Admin(session, said["admin"], said["token"])
        yield Stack(url, door, admin, proxies, note, (*children, service))


def _simulators(providers: Mapping[str, str], folder: Path) -> contextlib.AbstractAsyncContextManager[Child]:
    named = [word for name, persona in providers.items() for word in ("--provider", f"{name}={persona}")]
    command = [sys.executable, "-m", "simulators", *named, "--words", str(WORDS)]
    return child("simulators", command, folder, lambda line: line.startswith("{"), _environ())


def _service(config: Path, folder: Path, port: int) -> contextlib.AbstractAsyncContextManager[Child]:
    where = ("--host", HOST, "--port", str(port))
    command = [sys.executable, "-m", "service", "serve", "--config", str(config), *where]
    return child("service", command, folder, lambda line: line.startswith(SERVICE_READY), _environ())


def _environ() -> dict[str, str]:
    """Ours, without settings of another service that may run here."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DUB5__")}


@asynccontextmanager
async def toxiproxy_server(path: Path, folder: Path) -> AsyncIterator[tuple[Child, Toxiproxy]]:
    """The server, on a port that was free a moment ago: another try if somebody was faster. Raises NotStarted."""
    for left in reversed(range(PORT_TRIES)):
        port = free_port()
        command = [str(path), "-host", HOST, "-port", str(port)]
        async with child("toxiproxy", command, folder, _toxiproxy_starts, _environ()) as server:
            api = Toxiproxy(HOST, port)
            if await _answers(server, api):
                yield server, api
                return
            if not left:
                raise NotStarted(f"toxiproxy does not answer.\n{server.last_words()}")


def _toxiproxy_starts(line: str) -> bool:
    return TOXIPROXY_READY in line


async def _answers(server: Child, api: Toxiproxy) -> bool:
    """It says that it starts before it listens, so we ask until it does."""
    for _ in range(40):
        try:
            await asyncio.to_thread(api.version)
        except ToxiproxyError:
            if not server.running:
                return False
            await asyncio.sleep(0.05)
        else:
            return server.running
    return False


async def _proxy(api: Toxiproxy, name: str, url: str, exits: contextlib.AsyncExitStack) -> Proxy:
    proxy = await asyncio.to_thread(api.create, name, urlsplit(url).netloc)

    async def delete() -> None:
        with contextlib.suppress(
            ToxiproxyError
        ):  # the server may be gone already, and it ends with us anyway
            await asyncio.to_thread(proxy.delete)

    exits.push_async_callback(delete)
    return proxy


def free_port(wanted: int = 0) -> int:
    """A port nobody listens on: the wanted one if it is free, else any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError:
            probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
