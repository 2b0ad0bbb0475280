"""A Toxiproxy server of our own, with one proxy before each provider."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from dub5.chaos.engines.processes import Child, NotStarted, child
from dub5.chaos.engines.stack import HOST, Urls, environ, free_port
from dub5.chaos.engines.toxiproxy_client import Proxy, Toxiproxy, ToxiproxyError

READY = "Starting Toxiproxy HTTP server"
PORT_TRIES = 3


class Proxies:
    """Give `put` to a stack as its front; afterwards `by_provider` holds the proxies."""

    def __init__(self, path: Path) -> None:
        self.by_provider: dict[str, Proxy] = {}
        self.server: Child | None = None
        self._path = path

    async def put(self, urls: Urls, folder: Path, exits: contextlib.AsyncExitStack) -> Urls:
        """Starts the server and makes the proxies; both end with the exits. Raises NotStarted."""
        self.server, api = await exits.enter_async_context(toxiproxy_server(self._path, folder))
        for name, url in urls.items():
            self.by_provider[name] = await _proxy(api, name, url, exits)
        return {name: f"http://{proxy.listen}" for name, proxy in self.by_provider.items()}


@asynccontextmanager
async def toxiproxy_server(path: Path, folder: Path) -> AsyncIterator[tuple[Child, Toxiproxy]]:
    """The server, on a port that was free a moment ago: another try if somebody was faster. Raises NotStarted."""
    for left in reversed(range(PORT_TRIES)):
        port = free_port()
        command = [str(path), "-host", HOST, "-port", str(port)]
        async with child("toxiproxy", command, folder, _is_ready, environ()) as server:
            api = Toxiproxy(HOST, port)
            if await _answers(server, api):
                yield server, api
                return
            if not left:
                raise NotStarted(f"toxiproxy does not answer.\n{server.log_tail()}")


def _is_ready(line: str) -> bool:
    return READY in line


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
