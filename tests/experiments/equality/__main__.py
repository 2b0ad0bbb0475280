"""Prove that renames and moves change no behaviour: record before, record after, compare in the new words.

    python -m tests.experiments.equality record-worlds --seeds 1-200 OUT.jsonl.gz
    python -m tests.experiments.equality record-requests OUT.json
    python -m tests.experiments.equality compare OLD NEW [--words words.toml]

worlds.py    all that can be seen of drawn worlds: trace, events, both edges of the service
scenarios*   241 requests of all kinds, as data; stage.py plays them in virtual time, with a fixed seed
words.toml   old words, new ones, what may differ; words.py reads it, compare.py applies it to the old record

The same code records both sides: on the old checkout with the old import names, on the new one with the new.
The worlds take some minutes of two cores, the requests some seconds. Exit code of `compare`: 0 if all is
equal, 1 if anything differs, 2 if the table or a record cannot be read.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.experiments.equality import compare, stage, words, worlds


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Return its exit code."""
    options = _parser().parse_args(argv)
    began_s = time.monotonic()
    match options.command:
        case "record-worlds":
            count, lines = worlds.record(options.seeds, options.out)
            done = f"{count} worlds, {lines} lines"
        case "record-requests":
            done = f"{stage.record(options.out)} requests"
        case _:
            return _compare(options.old, options.new, options.words)
    print(
        f"{done} in {time.monotonic() - began_s:.0f} s: {options.out}, {options.out.stat().st_size:,} bytes"
    )
    return 0


def _compare(old: Path, new: Path, table: Path) -> int:
    of_worlds = new.suffix == ".gz"
    try:
        known = words.read(table, "worlds" if of_worlds else "requests")
        if of_worlds:
            report = compare.worlds(worlds.read(old), worlds.read(new), known)
        else:
            was, now = (json.loads(path.read_text(encoding="utf-8")) for path in (old, new))
            report = compare.requests(was, now, known)
    except (OSError, ValueError) as error:
        print(f"cannot compare: {error}", file=sys.stderr)
        return 2
    print("\n".join(report.lines))
    return 1 if report.differ else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.experiments.equality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("record-worlds", help="play worlds and write down what is seen")
    command.add_argument("--seeds", type=_range, default=range(1, 201), metavar="A-B", help="default: 1-200")
    command.add_argument("out", type=Path)
    command = commands.add_parser("record-requests", help="play the scenarios and write down each reply")
    command.add_argument("out", type=Path)
    command = commands.add_parser("compare", help="compare two records of one kind")
    command.add_argument("old", type=Path)
    command.add_argument("new", type=Path)
    command.add_argument("--words", type=Path, default=Path(__file__).parent / "words.toml")
    return parser


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    sys.exit(main())
