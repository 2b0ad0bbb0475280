"""The scenario on real processes, sockets and time, with the real Toxiproxy server where there is one."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp

from chaos.admin import Admin, AdminRefused
from chaos.door import Door, HttpDoor, http_session
from chaos.faults import stand_in
from chaos.journal import Asked, Journal
from chaos.play import Play, Watch
from chaos.processes import HarnessFailed, Tell, run_until_told
from chaos.proxies import Proxies
from chaos.scenario import Fault, Scenario
from chaos.stack import Stack, stack
from chaos.tools import Found, find_or_build
from chaos.toxiproxy import Proxy, Toxic, ToxiproxyError

NAME = "toxiproxy"
TOXIPROXY = "Toxiproxy"
SIMULATORS = "the simulators"
OURS = (ToxiproxyError, AdminRefused, aiohttp.ClientError)  # calls to what is not under test
INSTEAD = "the simulators, for want of Toxiproxy"


def run(scenario: Scenario, seed: int, watch: Watch, tell: Tell) -> Journal:
    """Plays it. Raises NotStarted, HarnessFailed."""
    return run_until_told(_play(scenario, seed, watch, tell, find_or_build()))


async def _play(scenario: Scenario, seed: int, watch: Watch, tell: Tell, found: Found) -> Journal:
    proxies, notes = (Proxies(found.path), []) if found.path else (None, [_without(found)])
    for line in notes or ["toxiproxy: a proxy before each provider"]:
        tell(line)
    front = proxies.put if proxies else None
    async with (
        stack(scenario.providers, scenario.clocks, tell, front=front) as running,
        http_session() as session,
    ):
        door, admin = HttpDoor(session, running.url), Admin(session, running.admin, running.token)
        world = RealWorld(door, admin, proxies.by_provider if proxies else {}, notes)
        try:
            journal = await Play(scenario, NAME, seed, watch).run(world)
        except ExceptionGroup as group:
            ours = group.subgroup(OURS)
            raise group if ours is None else HarnessFailed(_why(ours, running, proxies)) from group
        if not running.service.running:
            journal.notes.append(f"The service ended by itself: {running.service.last_words()}")
    return journal


def _without(found: Found) -> str:
    return f"No Toxiproxy ({found.why}): TCP faults are played by the simulators instead."


def _why(ours: ExceptionGroup[Exception], running: Stack, proxies: Proxies | None) -> str:
    """Who has died, else the first error."""
    server = proxies.server if proxies else None
    for one in (running.simulators, server):
        if one is not None and not one.running:
            return f"{one.name} ended during the run.\n{one.last_words()}"
    return f"{type(ours.exceptions[0]).__name__}: {ours.exceptions[0]}"


@dataclass
class RealWorld:
    """Hands on the processes of a stack."""

    door: Door
    admin: Admin
    proxies: Mapping[str, Proxy]  # none without Toxiproxy
    notes: Sequence[str]
    toxics: dict[Fault, Toxic] = field(default_factory=dict)

    async def apply(self, fault: Fault) -> str:
        if not fault.tcp:
            await self.admin.set_fault(fault.provider, {"kind": fault.kind, **fault.options})
            return SIMULATORS
        if self.proxies:
            await asyncio.to_thread(self._apply_toxic, fault)
            return TOXIPROXY
        instead = stand_in(fault.kind, fault.options)
        if instead is None:
            return ""
        await self.admin.set_fault(fault.provider, instead)
        return INSTEAD

    async def lift(self, fault: Fault) -> None:
        instead = stand_in(fault.kind, fault.options)
        if not fault.tcp:
            await self.admin.clear_fault(fault.provider, fault.kind)
        elif self.proxies:
            await asyncio.to_thread(self._lift_toxic, fault)
        elif instead is not None:
            await self.admin.clear_fault(fault.provider, str(instead["kind"]))

    async def ledger(self) -> list[Asked]:
        return await self.admin.ledger()

    def _apply_toxic(self, fault: Fault) -> None:
        proxy = self.proxies[fault.provider]
        if fault.kind == "down":
            proxy.disable()
            return
        attributes = {name: int(value) for name, value in fault.options.items() if name != "stream"}
        stream = str(fault.options.get("stream", "downstream"))
        self.toxics[fault] = proxy.add(fault.kind, attributes, stream)

    def _lift_toxic(self, fault: Fault) -> None:
        proxy = self.proxies[fault.provider]
        if fault.kind == "down":
            proxy.enable()
        else:
            proxy.lift(self.toxics.pop(fault))
