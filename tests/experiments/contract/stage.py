"""Where the cases are played: real sockets, and what of each request arrived.

http://127.0.0.1:PORT/<column>/<case number> -> the column's persona, with that case's faults
"""

import asyncio
import contextlib
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

from dub5.simulators.faults.answers import parse_fault
from dub5.simulators.latency import PRESETS
from dub5.simulators.personas.base import Profile
from dub5.simulators.provider import SimulatedProvider
from dub5.simulators.script import Script, SimRequest
from dub5.simulators.server.sockets import serve
from tests.experiments.contract.cases import CASES, ContractCase

HOST = "127.0.0.1"
PERSONAS = {"openai": "openai", "anthropic": "anthropic", "mistralai": "mistral"}


class ContractStage:
    """All cases for all columns. `requests` counts what arrived, `headers` are those of the last request."""

    def __init__(self, packages: Mapping[str, str]) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.headers: dict[tuple[str, str], Mapping[str, str]] = {}
        self.url = self.refused = self.tls = ""
        self._packages = packages  # by column
        self._providers: dict[tuple[str, str], SimulatedProvider] = {}

    def address(self, column: str, case: ContractCase) -> str:
        """Return the base URL for a package."""
        match case.place:
            case "refused":
                return self.refused
            case "nowhere":
                return "http://nowhere.invalid"
            case "tls":
                return self.tls
        return f"{self.url}/{column}/{CASES.index(case)}"

    def forget(self, column: str, case: ContractCase) -> None:
        """Reset the counts of a case."""
        for known in (self.requests, self.headers, self._providers):
            known.pop((column, case.name), None)

    def __call__(self, request: SimRequest) -> Script:
        _, column, number, path = request.path.split("/", 3)
        case = CASES[int(number)]
        key = column, case.name
        self.requests[key] += 1
        self.headers[key] = request.headers
        script = self._provider(column, case)(replace(request, path=f"/{path}"))
        return case.shape(script, PERSONAS[self._packages[column]]) if case.shape else script

    def _provider(self, column: str, case: ContractCase) -> SimulatedProvider:
        key = column, case.name
        if key not in self._providers:
            persona = PERSONAS[self._packages[column]]
            profile = Profile("one", PRESETS["zero"], words=20)
            made = SimulatedProvider(persona, profile, rng=random.Random(case.name), now=lambda: 0.0)
            made.set_faults(map(parse_fault, case.faults))
            self._providers[key] = made
        return self._providers[key]


@contextlib.asynccontextmanager
async def playing(packages: Mapping[str, str]) -> AsyncIterator[ContractStage]:
    """Serve these columns, each with its package's name."""
    stage = ContractStage(packages)
    async with contextlib.AsyncExitStack() as stack:
        stage.url = (await stack.enter_async_context(serve(stage))).url
        silent = await asyncio.get_running_loop().create_server(asyncio.Protocol, HOST, 0)
        stack.callback(silent.close)
        stage.tls = f"https://{HOST}:{silent.sockets[0].getsockname()[1]}"
        closed = stack.enter_context(socket.socket())
        closed.bind((HOST, 0))  # bound, and never listening: every connection is refused
        stage.refused = f"http://{HOST}:{closed.getsockname()[1]}"
        yield stage
