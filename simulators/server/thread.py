"""Simulated providers in a thread, for programs and tests that block.

caller's thread: start, set_faults, ledger --run, wait for the result--> thread with an event loop: servers
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from dub5.simulators.faults.answers import parse_fault
from dub5.simulators.ledger import LedgerLine
from dub5.simulators.provider import SimulatedProvider, make
from dub5.simulators.server.sockets import serve
from dub5.simulators.server.tls import certificates
from dub5.simulators.settings import build

T = TypeVar("T")
START_S = 30.0


class SimulatorThread:
    """A thread with an event loop of simulated providers.

    `close` ends the thread and every provider in it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulators", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)

    def start(self, persona: str, faults: Sequence[object], table: Mapping[str, object]) -> "ProviderHandle":
        """Start a provider on a free port. Raises BadSettings, BadFault."""
        rest = {"name": "one", "latency": "zero", **table}
        seed = rest.pop("seed", 0)
        settings = build({"seed": seed, "provider": [{**rest, "persona": persona}]})
        loop, begun_s = self._loop, self._loop.time()
        ((_, provider),) = make(settings, now=lambda: loop.time() - begun_s)[0].items()
        handle = ProviderHandle(provider, self)
        handle.open(tls=settings.providers[0].tls)
        try:
            if faults:
                handle.set_faults(*faults)
        except ValueError:
            handle.close()
            raise
        return handle

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class ProviderHandle:
    """A running provider: its url, its faults, its ledger.

    With TLS, clients must trust the CA in `ca_file`.
    """

    url: str
    ca_file: str = ""

    def __init__(self, provider: SimulatedProvider, simulator_thread: SimulatorThread) -> None:
        self._provider = provider
        self._simulator_thread = simulator_thread
        self._stack = AsyncExitStack()

    def open(self, *, tls: bool = False) -> None:
        """Start to listen."""
        certificate = self._stack.enter_context(certificates()) if tls else None
        self.ca_file = certificate.ca_file if certificate else ""
        entering = self._stack.enter_async_context(serve(self._provider, tls=certificate))
        self.url = self._simulator_thread.run(entering).url

    def close(self) -> None:
        """Stop listening, and drop every connection."""
        self._simulator_thread.run(self._stack.aclose())

    def set_faults(self, *faults: object) -> None:
        """Replace all active faults; without arguments the provider is healthy again. Raises BadFault."""
        parsed = [parse_fault(fault) for fault in faults]
        self._simulator_thread.run(_do(lambda: self._provider.set_faults(parsed)))

    def ledger(self) -> list[LedgerLine]:
        """Return the ledger's lines, oldest first; requests under way are not in it."""
        return self._simulator_thread.run(_do(self._provider.ledger.lines))


async def _do(work: Callable[[], T]) -> T:
    return work()
