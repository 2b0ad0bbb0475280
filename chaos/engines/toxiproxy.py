"""The scenario on real processes, sockets and time, with the real Toxiproxy server where there is one."""

import asyncio
from dataclasses import dataclass, field

from chaos.door import Door
from chaos.faults import stand_in
from chaos.journal import Asked, Journal
from chaos.play import Play, Watch
from chaos.processes import Tell, run_until_told
from chaos.scenario import Fault, Scenario
from chaos.stack import Stack, stack
from chaos.tools import Found, find_or_build
from chaos.toxiproxy import Toxic

NAME = "toxiproxy"
TOXIPROXY = "Toxiproxy"
SIMULATORS = "the simulators"
INSTEAD = "the simulators, for want of Toxiproxy"


class ProcessDied(Exception):
    """A part of the stack ended during the run; with its last words."""


def run(scenario: Scenario, seed: int, watch: Watch, tell: Tell) -> Journal:
    """Plays it. Raises NotStarted, ProcessDied."""
    return run_until_told(_play(scenario, seed, watch, tell, find_or_build()))


async def _play(scenario: Scenario, seed: int, watch: Watch, tell: Tell, found: Found) -> Journal:
    async with stack(scenario.providers, scenario.clocks, found, tell) as running:
        world = RealWorld(running)
        journal = await Play(scenario, NAME, seed, watch).run(world)
        for dead in running.dead():
            raise ProcessDied(f"{dead.name} ended during the run.\n{dead.last_words()}")
    return journal


@dataclass
class RealWorld:
    """Hands on the processes of a stack."""

    stack: Stack
    toxics: dict[str, Toxic] = field(default_factory=dict)  # by the label of their fault and provider

    @property
    def door(self) -> Door:
        return self.stack.door

    @property
    def notes(self) -> list[str]:
        return [self.stack.note] if self.stack.note else []

    async def apply(self, fault: Fault) -> str:
        if not fault.tcp:
            await self.stack.admin.set_fault(fault.provider, {"kind": fault.kind, **fault.options})
            return SIMULATORS
        if self.stack.proxies:
            await asyncio.to_thread(self._apply_toxic, fault)
            return TOXIPROXY
        instead = stand_in(fault.kind, fault.options)
        if instead is None:
            return ""
        await self.stack.admin.set_fault(fault.provider, instead)
        return INSTEAD

    async def lift(self, fault: Fault) -> None:
        instead = stand_in(fault.kind, fault.options)
        if not fault.tcp:
            await self.stack.admin.clear_fault(fault.provider, fault.kind)
        elif self.stack.proxies:
            await asyncio.to_thread(self._lift_toxic, fault)
        elif instead is not None:
            await self.stack.admin.clear_fault(fault.provider, str(instead["kind"]))

    async def ledger(self) -> list[Asked]:
        return await self.stack.admin.ledger()

    def _apply_toxic(self, fault: Fault) -> None:
        proxy = self.stack.proxies[fault.provider]
        if fault.kind == "down":
            proxy.disable()
            return
        attributes = {name: int(value) for name, value in fault.options.items() if name != "stream"}
        stream = str(fault.options.get("stream", "downstream"))
        self.toxics[_key(fault)] = proxy.add(fault.kind, attributes, stream)

    def _lift_toxic(self, fault: Fault) -> None:
        proxy = self.stack.proxies[fault.provider]
        if fault.kind == "down":
            proxy.enable()
        else:
            proxy.lift(self.toxics.pop(_key(fault)))


def _key(fault: Fault) -> str:
    return f"{fault.provider} {fault.kind} {fault.at_s}"
