"""The `dub5` command: demo | serve | chaos | simulate."""

import argparse
import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.table import Table

from dub5.chaos.engines.processes import HarnessFailed, NotStarted
from dub5.chaos.report import html as report
from dub5.chaos.report.live import LiveView
from dub5.chaos.run.journal import Journal
from dub5.chaos.run.verdict import Question, Verdict, judge_run
from dub5.chaos.scenario.model import ENGINES, Scenario
from dub5.chaos.scenario.parse import INCIDENTS, SCENARIOS, ScenarioProblems, names, ours, read
from dub5.chaos.simulation.command_options import EXAMPLES as SIMULATE
from dub5.chaos.simulation.command_options import add as add_simulate
from dub5.service import VERSION

HELD, DEVIATED, UNUSABLE, DID_NOT_RUN, INTERRUPTED = 0, 1, 2, 3, 130
LOG_WIDTH = 120  # where nobody says how wide it is
EXAMPLES = """\
examples:
  dub5 demo                               a minute of an incident, live, with a verdict and a report
  dub5 serve                              simulators and service kept running; prints the page's address
  dub5 chaos --list                       the scenarios that come with it
  dub5 chaos demo --engine virtual        one of them, on virtual time
  dub5 chaos mine.toml --engine all       your own, on every engine it names
  dub5 chaos demo --engine virtual --runs 20    with 20 seeds; a failure prints its own

exit codes: 0 it held; 1 it did not hold, or did not recover in time; 2 the scenario cannot be used; 3 it did not run
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    options = _parser().parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=LOG_WIDTH)
    try:
        code: int = options.run(options, console)
    except ScenarioProblems as error:
        _complain(str(error))
        return UNUSABLE
    except (NotStarted, HarnessFailed) as error:
        _complain(str(error))
        return DID_NOT_RUN
    except KeyboardInterrupt:
        console.print("Stopped; nothing is left running.")
        return HELD if options.run is _serve else INTERRUPTED  # there is no other way to end a server
    return code


def _complain(text: str) -> None:
    print(text, file=sys.stderr)


def _demo(options: argparse.Namespace, console: Console) -> int:
    scenario = _scenario("demo")
    seed = _seed(options.seed)
    return _play(scenario, "toxiproxy", seed, options.reports, console)


def _serve(options: argparse.Namespace, console: Console) -> int:
    serve: Any = importlib.import_module(
        "dub5.chaos.engines.serve"
    )  # only when asked for: it brings much with it
    code: int = serve.serve(options.port, console)
    return code


def _chaos(options: argparse.Namespace, console: Console) -> int:
    if options.list:
        for scenario in map(_scenario, names(SCENARIOS)):
            console.print(
                f"{scenario.name}: {scenario.title} ({', '.join(scenario.engines)})", highlight=False
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
        raise ScenarioProblems(scenario.name, [f"it is for {', '.join(scenario.engines)}, not for {wanted}."])
    return (wanted,)


def _play(scenario: Scenario, name: str, seed: int, reports: Path, console: Console) -> int:
    """One run: live, verdict, report. Raises NotStarted, before the run, if the report could not be written."""
    _writable(reports)
    engine: Any = importlib.import_module(
        f"dub5.chaos.engines.{name}"
    )  # the other one brings a whole service with it
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
        what = "The service did not hold." if verdict.answer(Question.RAN) else "The run was not as planned."
        again = f"dub5 chaos {scenario.name} --engine {name} --seed {seed}"
        console.print(f"{what} Once more: {again}", style="bold red", highlight=False)
    return HELD if verdict.ok else DEVIATED if verdict.answer(Question.RAN) else DID_NOT_RUN


def _simulate(options: argparse.Namespace, console: Console) -> int:
    command: Any = importlib.import_module(
        "dub5.chaos.simulation.command"
    )  # it brings a whole service with it
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


def _table(verdict: Verdict) -> Table:
    table = Table(title="VERDICT: " + ("held" if verdict.ok else "DID NOT HOLD"), title_justify="left")
    for title in ("question", "expected", "seen", ""):
        table.add_column(title)
    for line in verdict.lines:
        mark = "[green]yes[/]" if line.ok else "[bold red]NO[/]"
        table.add_row(line.question.value, line.expectation, line.seen, mark)
    return table


def _seed(said: int | None) -> int:
    return Random().randrange(1_000_000) if said is None else said


def _scenario(said: str) -> Scenario:
    """One of ours by its name, an incident by its name, or a file."""
    for folder in (SCENARIOS, INCIDENTS):
        if said in names(folder):
            return ours(folder, said)
    if not said.endswith(".toml"):
        known = f"there are: {', '.join(names(SCENARIOS))}"
        raise ScenarioProblems(
            said, [f"there is no such scenario here; {known}, and incidents (docs/incidents.md)."]
        )
    return read(Path(said))


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="dub5",
        description="Proves that a chat service over unreliable providers always answers honestly.",
        epilog=EXAMPLES,
        formatter_class=form,
    )
    parser.add_argument("--version", action="version", version=f"dub5 {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="a minute of an incident on real sockets, watched live")
    demo.set_defaults(run=_demo)
    serve = commands.add_parser("serve", help="simulators and service kept running, until Ctrl-C")
    serve.set_defaults(run=_serve)
    serve.add_argument(
        "--port", type=_port, default=8080, help="of the page, if free; else any (default 8080)"
    )
    chaos = commands.add_parser("chaos", help="scenarios, judged", epilog=EXAMPLES, formatter_class=form)
    chaos.set_defaults(run=_chaos)
    chaos.add_argument("scenario", nargs="*", help="names or files; without any: all that come with it")
    chaos.add_argument("--engine", choices=(*ENGINES, "all"), default="all", help="default: all it is for")
    chaos.add_argument(
        "--runs", type=_count, default=1, metavar="N", help="as many runs, with seeds that follow"
    )
    chaos.add_argument("--list", action="store_true", help="say what scenarios there are, and end")
    simulate = commands.add_parser(
        "simulate",
        help="drawn worlds, by the hundred, on virtual time",
        epilog=SIMULATE,
        formatter_class=form,
    )
    simulate.set_defaults(run=_simulate)
    add_simulate(simulate)
    for command in (demo, chaos):
        command.add_argument(
            "--seed", type=int, metavar="N", help="of requests and chances; drawn if not said"
        )
        command.add_argument(
            "--reports", type=Path, default=Path("reports"), metavar="DIR", help="default: reports"
        )
    return parser
