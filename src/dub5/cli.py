"""The `dub5` command. It imports a verb's module only when that verb is used, so `serve` needs no harness
package."""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dub5.service import VERSION
from dub5.service.closed_output import ends_with_its_reader

# A package -> the extra that installs it.
EXTRAS = {"rich": "chaos", "toxiproxy": "chaos", "requests": "chaos"}
EXAMPLES = """\
examples:
  dub5 check --config dub5.toml           check the settings offline and list every error
  dub5 serve --config dub5.toml           run the service; `dub5 serve --help` shows a minimal settings file
  dub5 verify https://dub5.example        ask a deployed service whether all of it works
  dub5 db up                              make or update the tables that conversations are kept in
  dub5 work --config dub5.toml            do background work in a process of its own
  dub5 personality list                   list the system prompts that routes may offer
  dub5 playground                         run the service over simulated providers, to try it
  dub5 demo                               watch a minute of an incident, with a verdict and a report
  dub5 chaos --list                       list the bundled chaos scenarios
  dub5 chaos mine.toml                    run your own scenario on every engine that it lists
  dub5 load                               half a minute of load on the service over simulated providers
  dub5 simulate                           run 200 generated worlds on virtual time

`dub5 VERB --help` describes the options of a verb.
"""


class Verb(NamedTuple):
    """One verb: the module with its options and its `run`, and one line of help."""

    module: str
    help: str


VERBS = {
    "serve": Verb("dub5.service.command", "run the service over your providers"),
    "check": Verb("dub5.service.command", "check the settings offline and list every error"),
    "verify": Verb("dub5.service.verify.command", "ask a deployed service whether all of it works"),
    "work": Verb("dub5.service.work_command", "do background work in a process of its own"),
    "db": Verb("dub5.service.database_command", "show or apply the migrations of the database"),
    "personality": Verb(
        "dub5.service.personality_command", "list the personalities, or try one on questions"
    ),
    "playground": Verb("dub5.chaos.cli", "run the service over simulated providers, to try it"),
    "demo": Verb("dub5.chaos.cli", "watch a minute of an incident on real sockets"),
    "chaos": Verb("dub5.chaos.cli", "run chaos scenarios and check their expectations"),
    "simulate": Verb("dub5.chaos.cli", "run generated worlds on virtual time and check every invariant"),
    "load": Verb("dub5.loadtests.command", "measure the service under load and check its objectives"),
}


@ends_with_its_reader
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the verb that the command line names. Return the exit code."""
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    chosen = next((word for word in command_line if not word.startswith("-")), None)
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="verb")
    for name, verb in VERBS.items():
        verb_parser = verbs.add_parser(
            name, help=verb.help, formatter_class=argparse.RawDescriptionHelpFormatter, description=verb.help
        )
        if name == chosen:
            try:
                module: Any = importlib.import_module(verb.module)
            except ModuleNotFoundError as error:
                if (extra := EXTRAS.get((error.name or "").partition(".")[0])) is None:
                    raise
                print(f"dub5 {name} needs more packages: pip install 'dub5[{extra}]'", file=sys.stderr)
                return 2
            module.add_arguments(verb_parser, name)
    options = parser.parse_args(command_line)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dub5",
        description="An OpenAI-compatible chat service over unreliable AI providers, and its test harness.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dub5 {VERSION}")
    return parser
