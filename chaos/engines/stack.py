"""What a run on real sockets needs, each a process of its own, all on free ports of this machine.

    clients -> service -> (front: Toxiproxy, if an engine puts it there) -> simulators

Imports little, so that a start costs little; who speaks to these processes is elsewhere.
"""

import asyncio
import contextlib
import errno
import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from dub5.chaos.engines.processes import Child, PrintLine, child
from dub5.chaos.scenario.model import Topology
from dub5.chaos.scenario.service_config import settings, simulated, toml

HOST = "127.0.0.1"
SERVICE_READY = "listening on "
POLL_S = 0.01

Urls = Mapping[str, str]  # by provider
ProxyHook = Callable[[Urls, Path, contextlib.AsyncExitStack], Awaitable[Urls]]
"""Puts something before the providers; where they are to be reached from now on. It ends with the exits."""


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs: the service's address, the simulators' admin API and its token, the processes."""

    url: str
    admin: str
    token: str
    simulators: Child
    service: Child

    def dead(self) -> list[Child]:
        """Processes that have ended although they should not have."""
        return [one for one in (self.simulators, self.service) if not one.running]


@asynccontextmanager
async def stack(
    topology: Topology,
    print_line: PrintLine,
    *,
    proxy_hook: ProxyHook | None = None,
    port: int = 0,
) -> AsyncIterator[Stack]:
    """Simulators and service; all of it ends with the block. Port 0 is any free one. Raises NotStarted."""
    async with contextlib.AsyncExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="dub5-")))
        config = folder / "service.toml"
        os.mkfifo(config)  # the service starts at once, and waits for its settings where it reads them
        booting = asyncio.create_task(exits.enter_async_context(_service(config, folder, port)))
        try:
            simulators = await exits.enter_async_context(_simulators(topology, folder))
            said = json.loads(simulators.ready_line)
            urls: Urls = {name: one["url"] for name, one in said["providers"].items()}
            print_line(
                f"simulators: {', '.join(f'{name} speaks {persona}' for name, persona in topology.providers.items())}"
            )
            if proxy_hook is not None:
                urls = await proxy_hook(urls, folder, exits)
            await _hand_over(config, settings(topology, urls), booting)
            service = await booting
        finally:
            booting.cancel()
            await asyncio.wait([booting])
        url = service.ready_line.removeprefix(SERVICE_READY)
        print_line(f"service: {url}")
        yield Stack(url, said["admin"], said["token"], simulators, service)


async def _hand_over(fifo: Path, text: str, reader: "asyncio.Task[Child]") -> None:
    """Writes a file for whoever waits for it, and leaves it there as an ordinary one."""
    while not reader.done():
        try:
            descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody reads yet
                raise
            await asyncio.sleep(POLL_S)
        else:
            with os.fdopen(descriptor, "w", encoding="utf-8") as pipe:
                pipe.write(text)
            break
    plain = fifo.with_suffix(".plain")
    plain.write_text(text, encoding="utf-8")
    plain.replace(fifo)


def _simulators(topology: Topology, folder: Path) -> contextlib.AbstractAsyncContextManager[Child]:
    config = folder / "simulators.toml"
    config.write_text(
        "\n".join(f"{name} = {toml(value)}" for name, value in simulated(topology).items()), encoding="utf-8"
    )
    command = [sys.executable, "-m", "dub5.simulators", "--config", str(config)]
    return child("simulators", command, folder, lambda line: line.startswith("{"), environ())


def _service(config: Path, folder: Path, port: int) -> contextlib.AbstractAsyncContextManager[Child]:
    where = ("--host", HOST, "--port", str(port))
    command = [sys.executable, "-m", "dub5.service", "serve", "--config", str(config), *where]
    return child("service", command, folder, lambda line: line.startswith(SERVICE_READY), environ())


def environ() -> dict[str, str]:
    """Ours, without settings of another service that may run here."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DUB5__")}


def free_port(wanted: int = 0) -> int:
    """A port nobody listens on: the wanted one if it is free, else any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError:
            probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
