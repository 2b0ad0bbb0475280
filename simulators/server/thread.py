"""Simulated providers in a thread, beside a program that may block.

our thread: start, set_faults, ledger --run there, wait for the result--> thread with an event loop: servers, ledgers
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
    """The thread. `close` ends it, and every provider in it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulators", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that runs there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)

    def start(self, persona: str, faults: Sequence[object], table: Mapping[str, object]) -> "ProviderHandle":
        """A provider on a free port. Raises BadSettings, BadFault."""
        rest = {"name": "one", "latency": "zero", **table}
        seed = rest.pop("seed", 0)
        settings = build({"seed": seed, "provider": [{**rest, "persona": persona}]})
        loop, begun_s = self._loop, self._loop.time()
        ((_, provider),) = make(settings, now=lambda: loop.time() - begun_s)[0].items()
        simulated = ProviderHandle(provider, self)
        simulated.open(tls=settings.providers[0].tls)
        try:
            if faults:
                simulated.set_faults(*faults)
        except ValueError:
            simulated.close()
            raise
        return simulated

    def close(self) -> None:
        """Ends the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class ProviderHandle:
    """One provider: where it is, what is wrong with it, what it has seen.

    With `tls=True` clients must trust the CA in `ca_file`.
    """

    url: str
    ca_file: str = ""

    def __init__(self, provider: SimulatedProvider, simulator_thread: SimulatorThread) -> None:
        self._provider = provider
        self._simulator_thread = simulator_thread
        self._stack = AsyncExitStack()

    def open(self, *, tls: bool = False) -> None:
        """Listens from now on."""
        shown = self._stack.enter_context(certificates()) if tls else None
        self.ca_file = shown.ca_file if shown else ""
        entering = self._stack.enter_async_context(serve(self._provider, tls=shown))
        self.url = self._simulator_thread.run(entering).url

    def close(self) -> None:
        """Listens no more; every connection is dropped."""
        self._simulator_thread.run(self._stack.aclose())

    def set_faults(self, *faults: object) -> None:
        """These faults and no others, from now on; without any it is well again. Raises BadFault."""
        parsed = [parse_fault(fault) for fault in faults]
        self._simulator_thread.run(_do(lambda: self._provider.set_faults(parsed)))

    def ledger(self) -> list[LedgerLine]:
        """What it was asked and what it did, oldest first; requests under way are not in it."""
        return self._simulator_thread.run(_do(self._provider.ledger.lines))


async def _do(work: Callable[[], T]) -> T:
    return work()
