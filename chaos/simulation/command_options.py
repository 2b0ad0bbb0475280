"""The options of `dub5 simulate`; apart, as the command itself brings a whole service with it."""

import argparse
import os
from pathlib import Path

SEEDS = 200  # the run of every change; so many must show every branch at least once
EXAMPLES = """\
examples:
  dub5 simulate                    200 worlds; every branch that matters must have been taken
  dub5 simulate --seeds 20000      a night's work
  dub5 simulate --seed 17          world 17 alone, with the digest of its trace
  dub5 simulate --seed 17 --shrink 0
  dub5 simulate --world failed.json    a world that was kept, exactly
  dub5 simulate --incidents        what has happened to others, each with a report page; names play some of them

A world that fails is printed with what broke, its last events and the command that plays it again; then it is made
smaller for a while, and kept under --reports. Exit codes: 0 all held; 1 a promise was broken, or a branch never taken.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument(
        "--seeds", type=_count, default=SEEDS, metavar="N", help=f"so many worlds (default {SEEDS})"
    )
    parser.add_argument(
        "--from", type=int, default=0, dest="first", metavar="N", help="the first of them (default 0)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="one world alone")
    parser.add_argument("--world", type=Path, metavar="FILE", help="one world that was kept")
    parser.add_argument(
        "--jobs", type=_count, default=jobs_here(), metavar="N", help="processes (default: all there is)"
    )
    parser.add_argument(
        "--shrink", type=float, default=30.0, metavar="S", help="seconds spent on making a failure smaller"
    )
    parser.add_argument(
        "--reports", type=Path, default=Path("reports"), metavar="DIR", help="default: reports"
    )
    parser.add_argument(
        "--incidents", nargs="*", metavar="NAME", help="what has happened to others, all of it or these"
    )
    parser.add_argument(
        "--index", type=Path, metavar="FILE", help="with --incidents: the page of all verdicts"
    )
    parser.add_argument("--mutant", help=argparse.SUPPRESS)


def jobs_here() -> int:
    """One for each processor that we may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)
