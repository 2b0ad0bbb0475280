"""The stack of a run on real sockets: service and simulators, each a process, on free ports of this machine.

    clients -> service -> (Toxiproxy, if an engine puts it there) -> simulators

Imports little, so that it starts fast. The clients of these processes are in real_world.py.
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
"""Puts proxies in front of the providers. Returns their new URLs; the proxies end with the exit stack."""


@dataclass(frozen=True, slots=True)
class Stack:
    """The running stack: the service's address, the simulators' admin API and its token, the processes."""

    url: str
    admin: str
    token: str
    simulators: Child
    service: Child

    def dead(self) -> list[Child]:
        """Return the processes that ended although they should run."""
        return [child for child in (self.simulators, self.service) if not child.running]


@asynccontextmanager
async def stack(
    topology: Topology,
    print_line: PrintLine,
    *,
    proxy_hook: ProxyHook | None = None,
    port: int = 0,
    more_settings: str = "",
) -> AsyncIterator[Stack]:
    """Run simulators and service until the end of the block. Port 0 is any free port. Raises NotStarted.

    `more_settings`: further tables of the service's settings, as TOML.
    """
    async with contextlib.AsyncExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="dub5-")))
        config = folder / "service.toml"
        os.mkfifo(config)  # the service starts now, and waits where it reads its settings
        booting = asyncio.create_task(exits.enter_async_context(_service(config, folder, port, print_line)))
        try:
            simulators = await exits.enter_async_context(_simulators(topology, folder, print_line))
            ready = json.loads(simulators.ready_line)
            urls: Urls = {name: one["url"] for name, one in ready["providers"].items()}
            speaks = (f"{name} speaks {persona}" for name, persona in topology.providers.items())
            print_line(f"simulators: {', '.join(speaks)}")
            if proxy_hook is not None:
                urls = await proxy_hook(urls, folder, exits)
            await _hand_over(config, settings(topology, urls) + more_settings, booting)
            service = await booting
        finally:
            booting.cancel()
            await asyncio.wait([booting])
        url = service.ready_line.removeprefix(SERVICE_READY)
        print_line(f"service: {url}")
        yield Stack(url, ready["admin"], ready["token"], simulators, service)


async def _hand_over(fifo: Path, text: str, reader: "asyncio.Task[Child]") -> None:
    """Write a file for the process that waits to read it, and leave it there as an ordinary file."""
    while not reader.done():
        try:
            descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no reader yet
                raise
            await asyncio.sleep(POLL_S)
        else:
            with os.fdopen(descriptor, "w", encoding="utf-8") as pipe:
                pipe.write(text)
            break
    plain = fifo.with_suffix(".plain")
    plain.write_text(text, encoding="utf-8")
    plain.replace(fifo)


def _simulators(
    topology: Topology, folder: Path, print_line: PrintLine
) -> contextlib.AbstractAsyncContextManager[Child]:
    config = folder / "simulators.toml"
    config.write_text(
        "\n".join(f"{name} = {toml(value)}" for name, value in simulated(topology).items()), encoding="utf-8"
    )
    command = [sys.executable, "-m", "dub5.simulators", "--config", str(config)]
    return child("simulators", command, folder, lambda line: line.startswith("{"), environ(), print_line)


def _service(
    config: Path, folder: Path, port: int, print_line: PrintLine
) -> contextlib.AbstractAsyncContextManager[Child]:
    address = ("--host", HOST, "--port", str(port))
    command = [sys.executable, "-m", "dub5.service", "serve", "--config", str(config), *address]
    return child(
        "service", command, folder, lambda line: line.startswith(SERVICE_READY), environ(), print_line
    )


def environ() -> dict[str, str]:
    """Return this process's environment without settings of a service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DUB5__")}


def free_port(wanted: int = 0) -> int:
    """Return a free port: the wanted one if it is free, else any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError:
            probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
