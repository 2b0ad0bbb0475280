"""The scenario on virtual time: the whole service in this process, a minute in a second, equal seeds equal runs."""

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from chaos.configure import WORDS, settings
from chaos.door import AppDoor, Door
from chaos.faults import stand_in
from chaos.journal import Asked, Journal
from chaos.play import Play, Watch
from chaos.processes import Tell
from chaos.scenario import Fault, Scenario
from service.app import Service
from service.settings import Loaded, load
from simulators.faults import parse_fault
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
    named = [f"{name}={persona}" for name, persona in scenario.providers.items()]
    simulated = build({}, named, words=WORDS, seed=seed)
    providers, ledger = make(simulated, now=asyncio.get_running_loop().time)
    wire = VirtualWire({f"http://{name}": provider for name, provider in providers.items()})
    service = Service(_loaded(scenario), wire=wire, seed=str(seed))
    async with AppClient(service.asgi) as client:
        world = VirtualWorld(AppDoor(client), providers, wire, ledger)
        return await Play(scenario, NAME, seed, watch).run(world)


def _loaded(scenario: Scenario) -> Loaded:
    """The settings of the service, read as it would read them."""
    urls = {name: f"http://{name}" for name in scenario.providers}
    with tempfile.TemporaryDirectory(prefix="dub5-") as folder:
        path = Path(folder) / "service.toml"
        path.write_text(settings(scenario.providers, urls, scenario.clocks), encoding="utf-8")
        return load(path, {})


@dataclass
class VirtualWorld:
    """Hands on simulated providers and the network before them."""

    door: Door
    providers: dict[str, Provider]
    wire: VirtualWire
    book: Ledger
    notes: list[str] = field(default_factory=list)

    async def apply(self, fault: Fault) -> str:
        if fault.kind == "down":
            link = self.wire.link(f"http://{fault.provider}")
            link.connect, link.idle = Connect.REFUSED, 0
            return "the virtual network"
        said = stand_in(fault.kind, fault.options) if fault.tcp else {"kind": fault.kind, **fault.options}
        if said is None:
            return ""
        self.providers[fault.provider].set_fault(parse_fault(said))
        return "the simulators"

    async def lift(self, fault: Fault) -> None:
        said = stand_in(fault.kind, fault.options) if fault.tcp else {"kind": fault.kind}
        if fault.kind == "down":
            self.wire.link(f"http://{fault.provider}").connect = Connect.OPENS
        elif said is not None:
            self.providers[fault.provider].clear_faults(str(said["kind"]))

    async def ledger(self) -> list[Asked]:
        return [Asked(line.provider, line.prompt, line.faults) for line in self.book.lines()]
