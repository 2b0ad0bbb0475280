"""The environment on real sockets: the endpoint of a running stack, and its faults through Toxiproxy and the
simulators.

A module of its own, because it imports much: engines/toxiproxy.py imports it while the service starts.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from dub5.chaos.engines.http_endpoint import HttpEndpoint, http_session
from dub5.chaos.engines.processes import Child
from dub5.chaos.engines.proxies import Proxies
from dub5.chaos.engines.simulator_admin import AdminRefused, SimulatorAdmin
from dub5.chaos.engines.stack import Stack, Urls
from dub5.chaos.engines.toxiproxy_client import Proxy, Toxic, ToxiproxyError
from dub5.chaos.run.endpoint import Endpoint
from dub5.chaos.run.journal import LedgerEntry
from dub5.chaos.scenario.model import ScenarioFault

TOXIPROXY = "Toxiproxy"
SIMULATORS = "the simulators"
SIMULATORS_INSTEAD = "the simulators, without Toxiproxy"
HARNESS_ERRORS = (ToxiproxyError, AdminRefused, aiohttp.ClientError)  # of calls to the harness itself


class EnvironmentBuilder:
    """Builds the environment in two steps: `put_proxies` while the stack starts, `build` when it runs.
    `path`: of Toxiproxy."""

    def __init__(self, path: Path | None) -> None:
        self._proxies = Proxies(path) if path else None

    async def put_proxies(self, urls: Urls, folder: Path, exits: contextlib.AsyncExitStack) -> Urls:
        """Put proxies in front of the providers if there is a Toxiproxy server."""
        return await self._proxies.put(urls, folder, exits) if self._proxies else urls

    async def build(
        self, running: Stack, exits: contextlib.AsyncExitStack, notes: Sequence[str]
    ) -> "RealEnvironment":
        """Return the environment of a running stack."""
        session = await exits.enter_async_context(http_session())
        admin = SimulatorAdmin(session, running.admin, running.token)
        proxies = self._proxies.by_provider if self._proxies else {}
        return RealEnvironment(HttpEndpoint(session, running.url), admin, proxies, notes)

    def why(self, group: ExceptionGroup[Exception], running: Stack) -> str:
        """Return why the harness made a run fail: a process that ended, else the first error. Empty if it did
        not."""
        harness_errors = group.subgroup(HARNESS_ERRORS)
        if harness_errors is None:
            return ""
        server: Child | None = self._proxies.server if self._proxies else None
        for process in (running.simulators, server):
            if process is not None and not process.running:
                return f"{process.name} ended during the run.\n{process.log_tail()}"
        return f"{type(harness_errors.exceptions[0]).__name__}: {harness_errors.exceptions[0]}"


@dataclass
class RealEnvironment:
    """Applies and lifts faults in the processes of a stack."""

    endpoint: Endpoint
    admin: SimulatorAdmin
    proxies: Mapping[str, Proxy]  # empty without Toxiproxy
    notes: Sequence[str]
    toxics: dict[ScenarioFault, Toxic] = field(default_factory=dict)
    latest: dict[tuple[str, str], ScenarioFault] = field(default_factory=dict)  # by provider and kind

    async def apply(self, fault: ScenarioFault) -> str:
        if fault.tcp and self.proxies:
            await asyncio.to_thread(self._apply_toxic, fault)
            return TOXIPROXY
        simulator_fault = fault.as_simulator_fault
        if simulator_fault is None:
            return ""
        self.latest[fault.provider, str(simulator_fault["kind"])] = fault
        await self.admin.set_fault(fault.provider, simulator_fault)
        return SIMULATORS_INSTEAD if fault.tcp else SIMULATORS

    async def lift(self, fault: ScenarioFault) -> None:
        if fault.tcp and self.proxies:
            await asyncio.to_thread(self._lift_toxic, fault)
        elif (simulator_fault := fault.as_simulator_fault) is not None:
            kind = str(simulator_fault["kind"])
            if self.latest[fault.provider, kind] is fault:  # else another fault has replaced it
                await self.admin.clear_fault(fault.provider, kind)

    async def ledger(self) -> list[LedgerEntry]:
        return await self.admin.ledger()

    def _apply_toxic(self, fault: ScenarioFault) -> None:
        proxy = self.proxies[fault.provider]
        if fault.kind == "down":
            proxy.disable()
            return
        attributes = {name: int(value) for name, value in fault.options.items() if name != "stream"}
        stream = str(fault.options.get("stream", "downstream"))
        self.toxics[fault] = proxy.add(fault.kind, attributes, stream)

    def _lift_toxic(self, fault: ScenarioFault) -> None:
        proxy = self.proxies[fault.provider]
        if fault.kind == "down":
            proxy.enable()
        else:
            proxy.lift(self.toxics.pop(fault))
