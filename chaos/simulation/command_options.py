"""The options of `dub5 simulate`, in a module of their own: the command itself imports the whole service."""

import argparse
import os
from pathlib import Path

SEEDS = 200  # the default run; over this many seeds every required branch must be reached
EXAMPLES = """\
examples:
  dub5 simulate                    run 200 worlds; every required branch must be reached
  dub5 simulate --seeds 20000      run overnight
  dub5 simulate --seed 17          run world 17 alone, and print the digest of its trace
  dub5 simulate --seed 17 --shrink 0   the same, without shrinking a failure
  dub5 simulate --world failed.json    run a saved world again, exactly
  dub5 simulate --incidents        replay incidents of real providers, with a report for each

A failing world is printed with the broken invariant, its last events and the command that runs it again.
Then it is shrunk and saved under --reports.

exit codes: 0 every invariant held; 1 an invariant broke, or a required branch was not reached; 2 bad input
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    parser.add_argument(
        "--seeds", type=_count, default=SEEDS, metavar="N", help=f"number of worlds (default: {SEEDS})"
    )
    parser.add_argument(
        "--from", type=int, default=0, dest="first", metavar="N", help="first seed (default: 0)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="run one world alone")
    parser.add_argument("--world", type=Path, metavar="FILE", help="run one saved world")
    parser.add_argument(
        "--jobs",
        type=_count,
        default=jobs_here(),
        metavar="N",
        help="worker processes (default: all processors)",
    )
    parser.add_argument(
        "--shrink",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds for shrinking a failing world; 0 for none (default: 30)",
    )
    parser.add_argument(
        "--reports",
        type=Path,
        default=Path("reports"),
        metavar="DIR",
        help="folder for reports and saved worlds (default: reports)",
    )
    parser.add_argument("--incidents", nargs="*", metavar="NAME", help="replay incidents: these, or all")
    parser.add_argument(
        "--index", type=Path, metavar="FILE", help="with --incidents: write an index page of all verdicts"
    )
    parser.add_argument("--mutant", help=argparse.SUPPRESS)


def jobs_here() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)
