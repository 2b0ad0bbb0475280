"""Compare the service with the official packages on answers of odd form; write docs/prove/deviations.md.

    python -m tests.experiments.deviations            compare, and check that the page is as made
    python -m tests.experiments.deviations --write    write the page

A difference is explained by the row's `purpose`. Exit code 1: one is not, or the page is another.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.experiments.deviations import messages, rows
from tests.experiments.deviations.page import page, unexplained
from tests.experiments.deviations.play import play

PAGE = Path("docs/prove/deviations.md")
SECTIONS = {**rows.SECTIONS, **messages.SECTIONS}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison. Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.experiments.deviations", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the page")
    arguments = parser.parse_args(argv)
    begun_s = time.monotonic()
    every = [row for section in SECTIONS.values() for row in section]
    heard = asyncio.run(play(every))
    wrong = unexplained(every, heard)
    for line in wrong:
        print(f"deviations: UNEXPLAINED: {line}", file=sys.stderr)
    made = page(SECTIONS, heard)
    if arguments.write:
        PAGE.write_text(made, encoding="utf-8")
    differs = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != made
    if differs:
        print(f"deviations: {PAGE} is not as made: run with --write", file=sys.stderr)
    took_s = time.monotonic() - begun_s
    print(f"deviations: {len(every)} in {took_s:.0f} s, {len(wrong)} differences unexplained")
    return 1 if wrong or differs else 0


if __name__ == "__main__":
    sys.exit(main())
