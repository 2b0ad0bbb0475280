"""The `virtual` engine: the whole service in this process on virtual time. Equal seeds give equal runs."""

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import msgspec

from dub5.chaos.engines.processes import PrintLine
from dub5.chaos.run.endpoint import AsgiEndpoint, Endpoint
from dub5.chaos.run.journal import Journal, LedgerEntry
from dub5.chaos.run.runner import RunObserver, ScenarioRun
from dub5.chaos.scenario.faults import CAPACITY
from dub5.chaos.scenario.model import Scenario, ScenarioFault
from dub5.chaos.scenario.service_config import settings, simulated
from dub5.service.app import Service
from dub5.service.config.load import load
from dub5.service.config.settings import LoadedSettings, SettingsProblems
from dub5.simulators.faults.active import ActiveFault
from dub5.simulators.faults.answers import parse_fault
from dub5.simulators.ledger import Ledger
from dub5.simulators.limits.concurrency import Capacity
from dub5.simulators.provider import SimulatedProvider, make
from dub5.simulators.settings import build
from dub5.simulators.virtual import AppClient, Connect, VirtualWire
from dub5.simulators.virtual import run as run_in_virtual_time

NAME = "virtual"


def run(scenario: Scenario, seed: int, observer: RunObserver, print_line: PrintLine) -> Journal:
    """Run a scenario."""
    print_line("virtual time: the service and its providers in this process, no sockets")
    return run_in_virtual_time(_play(scenario, seed, observer), seed=seed)


async def _play(scenario: Scenario, seed: int, observer: RunObserver) -> Journal:
    providers, ledger = make(
        build({**simulated(scenario.topology), "seed": seed}), now=asyncio.get_running_loop().time
    )
    wire = VirtualWire({f"http://{name}": provider for name, provider in providers.items()})
    service = Service(_loaded(scenario), wire=wire, seed=str(seed))
    async with AppClient(service.asgi) as client:
        environment = VirtualEnvironment(AsgiEndpoint(client), providers, wire, ledger, service)
        return await ScenarioRun(scenario, NAME, seed, observer).run(environment)


def _loaded(scenario: Scenario) -> LoadedSettings:
    return _read(settings(scenario.topology, {name: f"http://{name}" for name in scenario.providers}))


def _read(text: str) -> LoadedSettings:
    """Load settings of the service from a text, as the service does. Raises SettingsProblems."""
    with tempfile.TemporaryDirectory(prefix="dub5-") as folder:
        path = Path(folder) / "service.toml"
        path.write_text(text, encoding="utf-8")
        return load(path, {})


@dataclass
class VirtualEnvironment:
    """Applies and lifts faults in simulated providers and their virtual network."""

    endpoint: Endpoint
    providers: dict[str, SimulatedProvider]
    wire: VirtualWire
    provider_ledger: Ledger
    service: Service
    notes: list[str] = field(default_factory=list)
    applied: dict[ScenarioFault, ActiveFault] = field(default_factory=dict)

    async def apply(self, fault: ScenarioFault) -> str:
        if fault.environmental:
            return self._apply_to_environment(fault)
        if fault.kind == "down":
            link = self.wire.link(f"http://{fault.provider}")
            link.connect, link.idle = Connect.REFUSED, 0
            return "the virtual network"
        if (simulator_fault := fault.as_simulator_fault) is None:
            return ""
        self.applied[fault] = self.providers[fault.provider].add_fault(
            parse_fault(simulator_fault), Random(fault.label)
        )
        return "the simulators"

    def _apply_to_environment(self, fault: ScenarioFault) -> str:
        if fault.kind == CAPACITY:
            self.providers[fault.provider].set_capacity(msgspec.convert(fault.options, Capacity))
            return "the simulators"
        try:
            self.service.reload(_read("this is not a settings file"))
        except SettingsProblems as error:
            self.service.reject_settings(error.problems)
        return "the settings file"

    async def lift(self, fault: ScenarioFault) -> None:
        if fault.kind == "down":
            self.wire.link(f"http://{fault.provider}").connect = Connect.OPENS
        elif fault.kind == CAPACITY:
            self.providers[fault.provider].set_capacity()
        elif fault in self.applied:
            self.providers[fault.provider].drop_fault(self.applied.pop(fault))

    async def ledger(self) -> list[LedgerEntry]:
        return [LedgerEntry(line.provider, line.prompt, line.faults) for line in self.provider_ledger.lines()]
