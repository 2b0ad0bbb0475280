"""The scenario on virtual time: the whole service in this process, a minute in a second, equal seeds equal runs."""

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import msgspec

from chaos.configure import settings, simulated
from chaos.door import AppDoor, Door
from chaos.faults import CAPACITY
from chaos.journal import Asked, Journal
from chaos.play import Play, Watch
from chaos.processes import Tell
from chaos.scenario import Fault, Scenario
from service.app import Service
from service.settings import Loaded, SettingsProblems
from service.settings_file import load
from simulators.capacity import Capacity
from simulators.faults import parse_fault
from simulators.in_force import SetFault
from simulators.ledger import Ledger
from simulators.provider import Provider, make
from simulators.settings import build
from simulators.virtual import AppClient, Connect, VirtualWire
from simulators.virtual import run as run_in_virtual_time

NAME = "virtual"


def run(scenario: Scenario, seed: int, watch: Watch, tell: Tell) -> Journal:
    """Plays it."""
    tell("virtual time: the service and its providers in this process, no sockets")
    return run_in_virtual_time(_play(scenario, seed, watch), seed=seed)


async def _play(scenario: Scenario, seed: int, watch: Watch) -> Journal:
    providers, ledger = make(
        build({**simulated(scenario.around), "seed": seed}), now=asyncio.get_running_loop().time
    )
    wire = VirtualWire({f"http://{name}": provider for name, provider in providers.items()})
    service = Service(_loaded(scenario), wire=wire, seed=str(seed))
    async with AppClient(service.asgi) as client:
        world = VirtualWorld(AppDoor(client), providers, wire, ledger, service)
        return await Play(scenario, NAME, seed, watch).run(world)


def _loaded(scenario: Scenario) -> Loaded:
    return _read(settings(scenario.around, {name: f"http://{name}" for name in scenario.providers}))


def _read(text: str) -> Loaded:
    """The settings of the service, read as it would read them. Raises SettingsProblems."""
    with tempfile.TemporaryDirectory(prefix="dub5-") as folder:
        path = Path(folder) / "service.toml"
        path.write_text(text, encoding="utf-8")
        return load(path, {})


@dataclass
class VirtualWorld:
    """Hands on simulated providers and the network before them."""

    door: Door
    providers: dict[str, Provider]
    wire: VirtualWire
    book: Ledger
    service: Service
    notes: list[str] = field(default_factory=list)
    applied: dict[Fault, SetFault] = field(default_factory=dict)

    async def apply(self, fault: Fault) -> str:
        if fault.house:
            return self._apply_to_house(fault)
        if fault.kind == "down":
            link = self.wire.link(f"http://{fault.provider}")
            link.connect, link.idle = Connect.REFUSED, 0
            return "the virtual network"
        if (said := fault.said) is None:
            return ""
        self.applied[fault] = self.providers[fault.provider].add_fault(parse_fault(said), Random(fault.label))
        return "the simulators"

    def _apply_to_house(self, fault: Fault) -> str:
        if fault.kind == CAPACITY:
            self.providers[fault.provider].set_capacity(msgspec.convert(fault.options, Capacity))
            return "the simulators"
        try:
            self.service.reload(_read("there is nothing to be read here"))
        except SettingsProblems as error:
            self.service.refuse(error.problems)
        return "the settings file"

    async def lift(self, fault: Fault) -> None:
        if fault.kind == "down":
            self.wire.link(f"http://{fault.provider}").connect = Connect.OPENS
        elif fault.kind == CAPACITY:
            self.providers[fault.provider].set_capacity()
        elif fault in self.applied:
            self.providers[fault.provider].drop_fault(self.applied.pop(fault))

    async def ledger(self) -> list[Asked]:
        return [Asked(line.provider, line.prompt, line.faults) for line in self.book.lines()]
