"""A Toxiproxy server with one proxy in front of each provider."""

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
PORT_ATTEMPTS = 3


class Proxies:
    """Pass `put` to `stack` as its proxy hook; afterwards `by_provider` holds the proxies."""

    def __init__(self, path: Path) -> None:
        self.by_provider: dict[str, Proxy] = {}
        self.server: Child | None = None
        self._path = path

    async def put(self, urls: Urls, folder: Path, exits: contextlib.AsyncExitStack) -> Urls:
        """Start the server and create the proxies; both end with the exit stack. Raises NotStarted."""
        self.server, api = await exits.enter_async_context(toxiproxy_server(self._path, folder))
        for name, url in urls.items():
            self.by_provider[name] = await _proxy(api, name, url, exits)
        return {name: f"http://{proxy.listen}" for name, proxy in self.by_provider.items()}


@asynccontextmanager
async def toxiproxy_server(path: Path, folder: Path) -> AsyncIterator[tuple[Child, Toxiproxy]]:
    """Run the server on a free port. Retry if another process took the port meanwhile. Raises NotStarted."""
    for left in reversed(range(PORT_ATTEMPTS)):
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
    """Say whether the server answers: it prints its start line before it listens, so call it repeatedly."""
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
        # The server may have ended already.
        with contextlib.suppress(ToxiproxyError):
            await asyncio.to_thread(proxy.delete)

    exits.push_async_callback(delete)
    return proxy
