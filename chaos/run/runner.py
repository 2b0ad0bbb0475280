"""A scenario played against a world, on whatever time the event loop keeps: virtual and real engines share this.

clients   send what the plan says          |
faults    on at at_s, off after for_s      |--> Journal, and `watch` hears of everything
sampler   asks the service how it does     |
"""

import asyncio
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from dub5.chaos.run.clients import Clients
from dub5.chaos.run.endpoint import Door
from dub5.chaos.run.journal import Asked, Journal, Sample, Seen, Window
from dub5.chaos.run.judge import Outcome
from dub5.chaos.scenario.model import Fault, Scenario
from dub5.chaos.scenario.workload import plan

SAMPLE_S = 0.5
LONG_SAMPLE_S, SPARSE_SAMPLE_S = 2.0, 30.0  # in a run of hours: where the load is dense, and elsewhere
LEAD_S = 0.2  # between the last preparation and the first request


class World(Protocol):
    """What an engine brings: a service to ask, and hands on its providers."""

    @property
    def door(self) -> Door: ...

    @property
    def notes(self) -> Sequence[str]:
        """For people: what this run cannot do as the scenario says."""
        ...

    async def apply(self, fault: Fault) -> str:
        """Begins a fault; says who carries it out, empty if nobody can."""
        ...

    async def lift(self, fault: Fault) -> None:
        """Ends it."""
        ...

    async def ledger(self) -> list[Asked]:
        """Every attempt that the providers have seen."""
        ...


class Watch(Protocol):
    """Looks on. Must not wait or raise."""

    def ended(self, seen: Seen) -> None: ...

    def changed(self, window: Window) -> None: ...

    def sampled(self, at_s: float, status: Mapping[str, Any] | None) -> None: ...


class Nobody:
    """Looks away."""

    def ended(self, seen: Seen) -> None:
        """Ignored."""

    def changed(self, window: Window) -> None:
        """Ignored."""

    def sampled(self, at_s: float, status: Mapping[str, Any] | None) -> None:
        """Ignored."""


class Play:
    """One run."""

    def __init__(self, scenario: Scenario, engine: str, seed: int, watch: Watch | None = None) -> None:
        self.journal = Journal(
            scenario,
            engine,
            seed,
            machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            started=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),  # UTC
        )
        self._watch = watch or Nobody()
        self._scenario = scenario
        self._stretches = scenario.stretches
        self._began_s = 0.0

    async def run(self, world: World) -> Journal:
        """Plays it to the end of its last request; what was broken is healed whatever happens."""
        scenario, journal = self._scenario, self.journal
        asks = plan(scenario, journal.seed)
        journal.planned, journal.notes = len(asks), list(world.notes)
        before = await world.door.status()
        self._began_s = asyncio.get_running_loop().time() + LEAD_S
        clients = Clients(world.door, scenario.workload, self._began_s, self._ended)
        async with asyncio.TaskGroup() as group:
            aside = [
                group.create_task(self._break(world, fault), name=fault.label) for fault in scenario.faults
            ]
            aside.append(group.create_task(self._sample(world), name="sampler"))
            await clients.send_all(asks)
            journal.seconds = round(self._now_s(), 3)
            for task in aside:
                task.cancel()
        journal.ledger = await world.ledger()
        self._count(before, await world.door.status())
        return journal

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() - self._began_s

    def _ended(self, seen: Seen) -> None:
        self.journal.requests.append(seen)
        self._watch.ended(seen)

    async def _break(self, world: World, fault: Fault) -> None:
        await asyncio.sleep(fault.at_s - self._now_s())
        from_s = round(self._now_s(), 3)  # before: a stream may feel it while it is being applied
        by = await world.apply(fault)
        if not by:
            self.journal.notes.append(f"{fault.kind} at {fault.provider}: nobody here can do that; left out.")
            return
        window = Window(fault.provider, fault.kind, fault.label, by, fault.cuts, from_s)
        self.journal.windows.append(window)
        self._watch.changed(window)
        try:
            await asyncio.sleep(fault.until_s - self._now_s())
        finally:
            await world.lift(fault)
            window.until_s = round(self._now_s(), 3)
            self._watch.changed(window)

    async def _sample(self, world: World) -> None:
        while True:
            status = await world.door.status()
            at_s = round(self._now_s(), 3)
            if status is not None:
                self.journal.samples += _samples(at_s, status)
            self._watch.sampled(at_s, status)
            await asyncio.sleep(self._pause_s(at_s))

    def _pause_s(self, at_s: float) -> float:
        """Until the next look: soon where the load is dense, and not before it is dense again elsewhere."""
        workload = self._scenario.workload
        for _, until_s, rate_per_s in self._stretches:
            if at_s < until_s:
                if rate_per_s == workload.plateau_rate_per_s:
                    return min(SPARSE_SAMPLE_S, max(SAMPLE_S, until_s - at_s))
                return SAMPLE_S if workload.plateau_rate_per_s is None else LONG_SAMPLE_S
        return SAMPLE_S

    def _count(self, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> None:
        """What happened meanwhile: by the service's own count if it keeps one."""
        if before is not None and after is not None and isinstance(after.get("happened"), dict):
            was = before.get("happened") or {}
            self.journal.happened = {name: n - was.get(name, 0) for name, n in after["happened"].items()}
            self.journal.told_by = "the service's /status"
        else:
            self.journal.happened = derived(self.journal)
            self.journal.told_by = "the clients and the providers' ledgers (the service has no /status)"


def derived(journal: Journal) -> dict[str, int]:
    """What clients and ledgers show without the service's help; breakers cannot be seen from there."""
    asked: dict[str, set[str]] = {}
    for line in journal.ledger:
        asked.setdefault(line.tag, set()).add(line.provider)
    answered = [seen for seen in journal.requests if seen.outcome in (Outcome.COMPLETE, Outcome.CUT)]
    return {
        "failed_over": sum(bool(asked.get(seen.tag, set()) - {seen.provider}) for seen in answered),
        "stream_cut": sum(seen.outcome is Outcome.CUT for seen in journal.requests),
    }


def _samples(at_s: float, status: Mapping[str, Any]) -> list[Sample]:
    return [
        Sample(at_s, row["provider"], row["health"], row["breaker"], row["cooling_s"], row["name"])
        for row in status.get("targets", ())
    ]
