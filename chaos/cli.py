"""The verbs of the harness: `dub5 playground`, `demo`, `chaos` and `simulate`."""

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.table import Table

from dub5.chaos.engines.processes import HarnessFailed, NotStarted, ended_by_signals, print_error
from dub5.chaos.report import html as report
from dub5.chaos.report.live import LiveView
from dub5.chaos.run.journal import Journal
from dub5.chaos.run.verdict import Question, RunVerdict, judge_run
from dub5.chaos.scenario.model import ENGINES, Scenario
from dub5.chaos.scenario.parse import INCIDENTS, SCENARIOS, ScenarioProblems, names, read, read_bundled
from dub5.chaos.simulation.command_options import EXAMPLES as SIMULATE_EXAMPLES
from dub5.chaos.simulation.command_options import add as add_simulate

HELD, DEVIATED, UNUSABLE, DID_NOT_RUN, INTERRUPTED = 0, 1, 2, 3, 130
LOG_WIDTH = 120  # of output that is no terminal
EXAMPLES = """\
examples:
  dub5 chaos --list                       list the bundled scenarios
  dub5 chaos demo --engine virtual        run one of them on virtual time
  dub5 chaos mine.toml --engine all       run your own on every engine that it lists
  dub5 chaos demo --engine virtual --runs 20    run it with 20 seeds; a failure prints its seed

exit codes: 0 every expectation held; 1 an expectation failed; 2 invalid arguments; 3 the run failed
"""


def add_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the options of one verb: `playground`, `demo`, `chaos` or `simulate`."""
    command: Callable[[argparse.Namespace, Console], int]
    match verb:
        case "playground":
            command = _playground
            parser.add_argument(
                "--port",
                type=_port,
                help="port of the service and its page; another free port if taken (default: that of the last"
                " start, or 8080)",
            )
            parser.add_argument(
                "--data",
                type=Path,
                default=Path("data"),
                help="folder of the conversations that are kept (default: data)",
            )
        case "demo":
            command = _demo
            _add_run_options(parser)
        case "chaos":
            command = _chaos
            parser.epilog = EXAMPLES
            parser.add_argument(
                "scenario", nargs="*", help="names or files (default: every bundled scenario)"
            )
            parser.add_argument(
                "--engine",
                choices=(*ENGINES, "all"),
                default="all",
                help="where to run it (default: every engine that the scenario lists)",
            )
            parser.add_argument(
                "--runs",
                type=_count,
                default=1,
                metavar="N",
                help="number of runs, with consecutive seeds (default: 1)",
            )
            parser.add_argument("--list", action="store_true", help="list the scenarios and exit")
            _add_run_options(parser)
        case _:
            command = _simulate
            parser.epilog = SIMULATE_EXAMPLES
            add_simulate(parser)
    parser.set_defaults(run=partial(run, command))


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=int, metavar="N", help="seed for workload and faults (default: random)"
    )
    parser.add_argument(
        "--reports",
        type=Path,
        default=Path("reports"),
        metavar="DIR",
        help="folder for reports (default: reports)",
    )


def run(command: Callable[[argparse.Namespace, Console], int], options: argparse.Namespace) -> int:
    """Run one verb. Return the exit code."""
    console = Console() if sys.stdout.isatty() else Console(width=LOG_WIDTH)
    try:
        with ended_by_signals():
            return command(options, console)
    except ScenarioProblems as error:
        print_error(str(error))
        return UNUSABLE
    except (NotStarted, HarnessFailed) as error:
        print_error(str(error))
        return DID_NOT_RUN
    except KeyboardInterrupt:
        console.print("Stopped; nothing is left running.")
        return HELD if command is _playground else INTERRUPTED  # a server has no other end


def _demo(options: argparse.Namespace, console: Console) -> int:
    scenario = _scenario("demo")
    seed = _seed(options.seed)
    return _play(scenario, "toxiproxy", seed, options.reports, console)


def _playground(options: argparse.Namespace, console: Console) -> int:
    serve: Any = importlib.import_module("dub5.chaos.engines.serve")  # a slow import
    code: int = serve.serve(options.port, options.data, console)
    return code


def _chaos(options: argparse.Namespace, console: Console) -> int:
    if options.list:
        for scenario in map(_scenario, names(SCENARIOS)):
            console.print(
                f"{scenario.name}: {scenario.title} ({', '.join(scenario.engines)})", highlight=False
            )
        incidents = names(INCIDENTS)
        console.print(
            f"and {len(incidents)} incidents of real providers (docs/prove/incidents.md lists them), "
            f"for example: dub5 chaos {incidents[0]} --engine virtual",
            highlight=False,
            soft_wrap=True,
        )
        return HELD
    worst = HELD
    for scenario in map(_scenario, options.scenario or names(SCENARIOS)):
        for engine in _engines(scenario, options.engine):
            first = _seed(options.seed)
            for seed in range(first, first + options.runs):
                worst = max(worst, _play(scenario, engine, seed, options.reports, console))
    return worst


def _engines(scenario: Scenario, wanted: str) -> tuple[str, ...]:
    if wanted == "all":
        return scenario.engines
    if wanted not in scenario.engines:
        raise ScenarioProblems(scenario.name, [f"it runs on {', '.join(scenario.engines)}, not on {wanted}."])
    return (wanted,)


def _play(scenario: Scenario, name: str, seed: int, reports: Path, console: Console) -> int:
    """Run one scenario: live view, verdict, report. Raises NotStarted before the run if no report can be
    written."""
    _writable(reports)
    engine: Any = importlib.import_module(f"dub5.chaos.engines.{name}")  # engines import much
    console.rule(f"{scenario.title} - engine {name}, seed {seed}", align="left")
    with LiveView(scenario, name, console) as view:
        journal: Journal = engine.run(
            scenario, seed, view, lambda line: console.print(line, highlight=False, soft_wrap=True)
        )
    verdict = judge_run(journal)
    page, record = report.write(journal, verdict, reports)
    console.print(_table(verdict))
    for note in journal.notes:
        console.print(note, highlight=False, soft_wrap=True)
    console.print(f"report:  {page}\njournal: {record}", highlight=False, soft_wrap=True)
    if not verdict.ok:
        ran = verdict.answer(Question.RAN)
        problem = "An expectation failed." if ran else "The run was not as planned."
        command = scenario.command(name, seed)
        console.print(
            f"{problem} Run it again: {command}",
            style="bold red",
            highlight=False,
            markup=False,  # a name of a file may hold brackets and colons
            emoji=False,
            soft_wrap=True,
        )
    return HELD if verdict.ok else DEVIATED if verdict.answer(Question.RAN) else DID_NOT_RUN


def _simulate(options: argparse.Namespace, console: Console) -> int:
    command: Any = importlib.import_module("dub5.chaos.simulation.command")  # a slow import
    code: int = command.run(options, console)
    return code


def _writable(reports: Path) -> None:
    try:
        reports.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=reports):
            pass
    except OSError as error:
        raise NotStarted(
            f"Reports cannot be written to {reports} ({error.strerror}): name another folder with --reports."
        ) from None


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError("must be a port from 0 to 65535")
    return int(text)


def _table(verdict: RunVerdict) -> Table:
    table = Table(title="VERDICT: " + ("held" if verdict.ok else "DID NOT HOLD"), title_justify="left")
    for title in ("question", "expected", "observed", ""):
        table.add_column(title)
    for line in verdict.lines:
        mark = "[green]yes[/]" if line.ok else "[bold red]NO[/]"
        table.add_row(line.question.value, line.expectation, line.result, mark)
    return table


def _seed(given: int | None) -> int:
    return Random().randrange(1_000_000) if given is None else given


def _scenario(name_or_path: str) -> Scenario:
    """Read a bundled scenario or incident by its name, or a file by its path. Raises ScenarioProblems."""
    for folder in (SCENARIOS, INCIDENTS):
        if name_or_path in names(folder):
            return read_bundled(folder, name_or_path)
    if not name_or_path.endswith(".toml"):
        known = f"known scenarios: {', '.join(names(SCENARIOS))}"
        raise ScenarioProblems(
            name_or_path,
            [f"there is no such scenario; {known}; and the incidents (docs/prove/incidents.md)."],
        )
    return replace(read(Path(name_or_path)), file=name_or_path)
