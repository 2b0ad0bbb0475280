"""Replay incidents of real providers: each 1:1, and once more without the mechanism that handles it.

scenarios/incidents/*.toml -> one job each -> IncidentReplay -> one report each, and the index of all
(page.py)
"""

import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from dub5.chaos.engines import virtual
from dub5.chaos.engines.processes import end_workers
from dub5.chaos.incidents.ablation import disabled
from dub5.chaos.report import html as report
from dub5.chaos.run.journal import Journal
from dub5.chaos.run.judge import ClientOutcome
from dub5.chaos.run.runner import NullObserver
from dub5.chaos.run.verdict import (
    Question,
    RunVerdict,
    VerdictLine,
    attempts_per_request,
    impact_s,
    judge_run,
)
from dub5.chaos.scenario.model import Scenario
from dub5.chaos.scenario.parse import INCIDENTS, read_bundled

SEED = 1


@dataclass(frozen=True, slots=True)
class IncidentReplay:
    """The result of one incident. `missed`: expectations that failed without the mechanism; none: the
    scenario cannot fail. `impact_s`: how long users were affected by the worst fault."""

    name: str
    scenario: Scenario
    lines: tuple[VerdictLine, ...]
    missed: tuple[str, ...]
    requests: int
    complete: float  # share
    complete_without: float
    impact_s: float
    attempts_per_request: float
    cpu_s: float
    page: Path

    @property
    def held(self) -> bool:
        """Say whether every expectation held with all mechanisms."""
        return all(line.ok for line in self.lines)

    @property
    def ok(self) -> bool:
        """Say whether it held, and did not hold without its mechanism."""
        return self.held and bool(self.missed)


def replay(name: str, reports: Path, seed: int) -> IncidentReplay:
    """Replay one incident twice, and write the report of the run with all mechanisms."""
    logging.disable(logging.ERROR)  # failures are in the verdict; asyncio's own log lines would hide them
    began_s, scenario = perf_counter(), read_bundled(INCIDENTS, name)
    journal = _run(nullcontext(scenario), seed)
    ablated = _run(disabled(scenario.off, scenario), seed)
    verdict = judge_run(journal)
    return IncidentReplay(
        name,
        scenario,
        verdict.lines,
        tuple(line.expectation for line in judge_run(ablated).lines if _counts(line)),
        len(journal.requests),
        _complete(journal),
        _complete(ablated),
        max((impact_s(journal, window) for window in journal.windows), default=0.0),
        attempts_per_request(journal),
        perf_counter() - began_s,
        _page(journal, verdict, reports),
    )


def replay_all(wanted: Sequence[str], reports: Path, seed: int, jobs: int) -> Iterator[IncidentReplay]:
    """Yield replays as they are ready, in no fixed order."""
    reports.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")  # the same on every system, and no inherited state
    with ProcessPoolExecutor(jobs, context) as pool:
        futures = [pool.submit(replay, name, reports, seed) for name in wanted]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:  # stopped from outside: an incident takes long
            end_workers()
            raise


def _run(disabled_scenario: AbstractContextManager[Scenario], seed: int) -> Journal:
    with disabled_scenario as scenario:
        return virtual.run(scenario, seed, NullObserver(), lambda line: None)


def _counts(line: VerdictLine) -> bool:
    """Say whether a failed line affects users: that a disabled mechanism did not act is expected."""
    return not line.ok and line.question is not Question.RAN and not line.expectation.endswith(" happened")


def _complete(journal: Journal) -> float:
    return sum(result.outcome is ClientOutcome.COMPLETE for result in journal.requests) / len(
        journal.requests
    )


def _page(journal: Journal, verdict: RunVerdict, reports: Path) -> Path:
    path = reports / f"{journal.scenario.name}.html"
    path.write_text(report.html(journal, verdict), encoding="utf-8")
    return path
