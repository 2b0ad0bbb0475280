"""Run a scenario in an environment: `ScenarioRun(...).run(environment)` returns the journal.

clients   send the planned requests        |
faults    on at at_s, off after for_s      |--> Journal; `observer` is notified of everything
sampler   reads the service's status       |

The engines share this code; it runs on the event loop's time, virtual or real.
"""

import asyncio
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from dub5.chaos.run.clients import ScenarioClients
from dub5.chaos.run.endpoint import Endpoint
from dub5.chaos.run.journal import AppliedFault, Journal, LedgerEntry, RequestResult, StatusSample
from dub5.chaos.run.judge import ClientOutcome
from dub5.chaos.scenario.model import Scenario, ScenarioFault
from dub5.chaos.scenario.workload import plan

SAMPLE_S = 0.5
LONG_SAMPLE_S, SPARSE_SAMPLE_S = 2.0, 30.0  # in a run of hours: where the load is dense, and elsewhere
LEAD_S = 0.2  # between the preparations and the first request


class Environment(Protocol):
    """What an engine provides: the endpoint of a service, and control of its providers."""

    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def notes(self) -> Sequence[str]:
        """Return notes for the report: what this engine cannot do as the scenario says."""
        ...

    async def apply(self, fault: ScenarioFault) -> str:
        """Apply a fault. Return what applied it; empty if nothing can."""
        ...

    async def lift(self, fault: ScenarioFault) -> None:
        """Lift a fault."""
        ...

    async def ledger(self) -> list[LedgerEntry]:
        """Return every attempt that the providers have seen."""
        ...


class RunObserver(Protocol):
    """Is notified while a run goes on. Must not block or raise."""

    def ended(self, result: RequestResult) -> None: ...

    def changed(self, window: AppliedFault) -> None: ...

    def sampled(self, at_s: float, status: Mapping[str, Any] | None) -> None: ...


class NullObserver:
    """Ignores everything."""

    def ended(self, result: RequestResult) -> None:
        """Ignore the result."""

    def changed(self, window: AppliedFault) -> None:
        """Ignore the fault."""

    def sampled(self, at_s: float, status: Mapping[str, Any] | None) -> None:
        """Ignore the sample."""


class ScenarioRun:
    """One run of one scenario."""

    def __init__(
        self, scenario: Scenario, engine: str, seed: int, observer: RunObserver | None = None
    ) -> None:
        self.journal = Journal(
            scenario,
            engine,
            seed,
            machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            started=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),  # UTC
        )
        self._observer = observer or NullObserver()
        self._scenario = scenario
        self._stretches = scenario.stretches
        self._began_s = 0.0

    async def run(self, environment: Environment) -> Journal:
        """Run the scenario to the end of its last request. Faults are lifted whatever happens."""
        scenario, journal = self._scenario, self.journal
        requests = plan(scenario, journal.seed)
        journal.planned, journal.notes = len(requests), list(environment.notes)
        before = await environment.endpoint.status()
        self._began_s = asyncio.get_running_loop().time() + LEAD_S
        clients = ScenarioClients(environment.endpoint, scenario.workload, self._began_s, self._ended)
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(self._apply_and_lift(environment, fault), name=fault.label)
                for fault in scenario.faults
            ]
            background.append(group.create_task(self._sample(environment), name="sampler"))
            await clients.send_all(requests)
            journal.seconds = round(self._now_s(), 3)
            for task in background:
                task.cancel()
        journal.ledger = await environment.ledger()
        self._count(before, await environment.endpoint.status())
        return journal

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() - self._began_s

    def _ended(self, result: RequestResult) -> None:
        self.journal.requests.append(result)
        self._observer.ended(result)

    async def _apply_and_lift(self, environment: Environment, fault: ScenarioFault) -> None:
        await asyncio.sleep(fault.at_s - self._now_s())
        from_s = round(self._now_s(), 3)  # before applying it: a stream may meet it already then
        by = await environment.apply(fault)
        if not by:
            self.journal.notes.append(
                f"{fault.kind} at {fault.provider}: this engine cannot apply it; left out."
            )
            return
        window = AppliedFault(fault.provider, fault.kind, fault.label, by, fault.cuts, from_s)
        self.journal.windows.append(window)
        self._observer.changed(window)
        try:
            await asyncio.sleep(fault.until_s - self._now_s())
        finally:
            await environment.lift(fault)
            window.until_s = round(self._now_s(), 3)
            self._observer.changed(window)

    async def _sample(self, environment: Environment) -> None:
        while True:
            status = await environment.endpoint.status()
            at_s = round(self._now_s(), 3)
            if status is not None:
                self.journal.samples += _samples(at_s, status)
            self._observer.sampled(at_s, status)
            await asyncio.sleep(self._pause_s(at_s))

    def _pause_s(self, at_s: float) -> float:
        """Return the time until the next sample: short where the load is dense, and no longer than until it
        is again."""
        workload = self._scenario.workload
        for _, until_s, rate_per_s in self._stretches:
            if at_s < until_s:
                if rate_per_s == workload.plateau_rate_per_s:
                    return min(SPARSE_SAMPLE_S, max(SAMPLE_S, until_s - at_s))
                return SAMPLE_S if workload.plateau_rate_per_s is None else LONG_SAMPLE_S
        return SAMPLE_S

    def _count(self, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> None:
        """Count what happened during the run: by the service's /status, else from clients and ledgers."""
        if before is not None and after is not None and isinstance(after.get("happened"), dict):
            was = before.get("happened") or {}
            self.journal.happened = {name: n - was.get(name, 0) for name, n in after["happened"].items()}
            self.journal.counted_by = "the service's /status"
        else:
            self.journal.happened = derived(self.journal)
            self.journal.counted_by = "the clients and the providers' ledgers (the service has no /status)"


def derived(journal: Journal) -> dict[str, int]:
    """Count what clients and ledgers show without /status. Breakers cannot be seen there."""
    providers_of: dict[str, set[str]] = {}
    for line in journal.ledger:
        providers_of.setdefault(line.tag, set()).add(line.provider)
    answered = [
        result for result in journal.requests if result.outcome in (ClientOutcome.COMPLETE, ClientOutcome.CUT)
    ]
    return {
        "failed_over": sum(
            bool(providers_of.get(result.tag, set()) - {result.provider}) for result in answered
        ),
        "stream_cut": sum(result.outcome is ClientOutcome.CUT for result in journal.requests),
    }


def _samples(at_s: float, status: Mapping[str, Any]) -> list[StatusSample]:
    return [
        StatusSample(at_s, row["provider"], row["health"], row["breaker"], row["cooling_s"], row["name"])
        for row in status.get("targets", ())
    ]
