"""What has happened to others, played against this service 1:1, and once more without what saves it.

scenarios/incidents/*.toml -> a job each -> IncidentReplay -> a report page each, the index of all
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
from dub5.chaos.incidents.ablation import disabled
from dub5.chaos.report import html as report
from dub5.chaos.run.journal import Journal
from dub5.chaos.run.judge import ClientOutcome
from dub5.chaos.run.runner import NullObserver
from dub5.chaos.run.verdict import Question, RunVerdict, VerdictLine, judge_run, noticed_s, tries_each
from dub5.chaos.scenario.model import Scenario
from dub5.chaos.scenario.parse import INCIDENTS, read_bundled

SEED = 1


@dataclass(frozen=True, slots=True)
class IncidentReplay:
    """What came of an incident. `missed`: what did not hold without its mechanism; if that is nothing, it cannot fail.
    `noticed_s`: how long people noticed a fault, the one that they noticed for longest."""

    name: str
    scenario: Scenario
    lines: tuple[VerdictLine, ...]
    missed: tuple[str, ...]
    requests: int
    complete: float  # share
    complete_without: float
    noticed_s: float
    tries_each: float
    cpu_s: float
    page: Path

    @property
    def held(self) -> bool:
        """With everything."""
        return all(line.ok for line in self.lines)

    @property
    def ok(self) -> bool:
        """It held, and would not have."""
        return self.held and bool(self.missed)


def replay(name: str, reports: Path, seed: int) -> IncidentReplay:
    """One job. Writes the report of the run with everything."""
    logging.disable(logging.ERROR)  # what goes wrong is in the verdict; asyncio's own lines would bury it
    began_s, scenario = perf_counter(), read_bundled(INCIDENTS, name)
    journal = _played(nullcontext(scenario), seed)
    ablated = _played(disabled(scenario.off, scenario), seed)
    verdict = judge_run(journal)
    return IncidentReplay(
        name,
        scenario,
        verdict.lines,
        tuple(line.expectation for line in judge_run(ablated).lines if _counts(line)),
        len(journal.requests),
        _complete(journal),
        _complete(ablated),
        max((noticed_s(journal, window) for window in journal.windows), default=0.0),
        tries_each(journal),
        perf_counter() - began_s,
        _page(journal, verdict, reports),
    )


def replay_all(wanted: Sequence[str], reports: Path, seed: int, jobs: int) -> Iterator[IncidentReplay]:
    """As they come, in no order."""
    reports.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")  # the same on every system, and nothing inherited
    with ProcessPoolExecutor(jobs, context) as pool:
        for future in as_completed([pool.submit(replay, name, reports, seed) for name in wanted]):
            yield future.result()


def _played(switched: AbstractContextManager[Scenario], seed: int) -> Journal:
    with switched as scenario:
        return virtual.run(scenario, seed, NullObserver(), lambda line: None)


def _counts(line: VerdictLine) -> bool:
    """Whether a line says that people were let down: that a mechanism did not act is no news where it is off."""
    return not line.ok and line.question is not Question.RAN and not line.expectation.endswith(" happened")


def _complete(journal: Journal) -> float:
    return sum(result.outcome is ClientOutcome.COMPLETE for result in journal.requests) / len(
        journal.requests
    )


def _page(journal: Journal, verdict: RunVerdict, reports: Path) -> Path:
    path = reports / f"{journal.scenario.name}.html"
    path.write_text(report.html(journal, verdict), encoding="utf-8")
    return path
