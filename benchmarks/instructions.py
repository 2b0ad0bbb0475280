"""Counts the CPU instructions of a request, a number that does not depend on the load of the machine.

    valgrind --tool=callgrind -> instructions_driver.py -> service, or a bare Litestar route
    parts of a profile, cut before and after each batch -> instructions per request -> table, JSON, verdict

    python -m benchmarks.instructions                         count this checkout: about a minute
    python -m benchmarks.instructions --out counts.json       write the numbers to a file
    python -m benchmarks.instructions --compare counts.json   exit 1 if a case costs over 1 % more than there
    python -m benchmarks.instructions --checkout ../before    count that checkout too, and compare with it

Prefer --checkout for before and after: driver, Python, packages and machine are then the same.
A file holds counts for each version of Python (3.11 and 3.13 differ by 12 %); others are not compared.
Numbers made with another build or other packages are compared as multiples of the bare route: 6 % more
is tolerated then.
Not counted: start-up, sockets, the kernel, the garbage collector. "chunk" is one more chunk of a stream;
"telemetry" is what metrics, board and log cost of each stream.
Exit codes: 0 counted, 1 a case costs more, 2 it could not be counted.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.instructions_driver import BARE, CASES, LONG, REQUESTS, SHORT

ROOT = Path(__file__).resolve().parent.parent
DRIVER = ROOT / "benchmarks" / "instructions_driver.py"
TOLERANCE_PERCENT = 1.0  # seen: 0.1 % between runs, 0.4 % between places, renames and unused functions
OTHERS_PERCENT = 6.0  # for another build of Python or other packages
PYTHON = ".".join(platform.python_version_tuple()[:2])
TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)


class NotCounted(Exception):
    """The count failed; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Instructions of each case, and the versions that they depend on."""

    made_with: str
    instructions: Mapping[str, float]

    def multiple(self, name: str) -> float:
        """Return the cost as a multiple of the bare route for the same kind of request, or else for JSON."""
        bare = BARE + name.removeprefix(BARE).removesuffix("_cached")
        if bare not in self.instructions:
            bare = f"{BARE}json"
        return self.instructions[name] / self.instructions[bare]


def kept(file: Path) -> dict[str, Counts]:
    """Read the counts of a file, by version of Python: that version changes them most."""
    rows: dict[str, Any] = dict(json.loads(file.read_text(encoding="utf-8")))
    return {python: Counts(**row) for python, row in rows.items()}


def ratios(old: Counts, new: Counts) -> dict[str, float]:
    """Divide new by old for each case that both have; multiples of the bare route if the versions differ."""
    both = [name for name in new.instructions if name in old.instructions]
    if old.made_with != new.made_with:
        return {name: new.multiple(name) / old.multiple(name) for name in both}
    return {name: new.instructions[name] / old.instructions[name] for name in both}


def problems(old: Counts, new: Counts, tolerance_percent: float) -> list[str]:
    """Write one sentence for each case of the service that costs more, or is no longer counted."""
    if old.made_with != new.made_with:
        tolerance_percent = max(tolerance_percent, OTHERS_PERCENT)
    lost = [f"{name} is no longer counted" for name in old.instructions if name not in new.instructions]
    return lost + [
        f"{name} costs {(ratio - 1) * 100:.2f} % more; {tolerance_percent:g} % is tolerated"
        for name, ratio in ratios(old, new).items()
        if not name.startswith(BARE) and (ratio - 1) * 100 > tolerance_percent
    ]


def per_request(parts: Sequence[str]) -> dict[str, float]:
    """Read the parts of a profile: by turns the time before a batch, and a batch."""
    totals = [int(found[1]) for part in parts[1::2] if (found := TOTALS.search(part))]
    if len(totals) != len(CASES):
        raise NotCounted(f"callgrind cut out {len(totals)} batches of {len(CASES)}: libc may have no symbols")
    each = {name: total / REQUESTS for (name, _, _), total in zip(CASES, totals, strict=True)}
    for side in ("", BARE):
        each[f"{side}chunk"] = (each[f"{side}stream"] - each.pop(f"{side}stream_short")) / (LONG - SHORT)
    return each


def table(new: Counts, old: Counts | None) -> str:
    """Format the counts for people."""
    compared = ratios(old, new) if old else {}
    lines = [f"{'per request':<16}{'instructions':>14}{'x bare':>9}{'x before' if old else '':>11}"]
    for name, count in new.instructions.items():
        before = f"{compared[name]:.4f}" if name in compared else ""
        lines.append(f"{name:<16}{count:>14,.0f}{new.multiple(name):>9.2f}{before:>11}".rstrip())
    if old and old.made_with != new.made_with:
        lines.append(f"before: {old.made_with}; so `x before` compares multiples of the bare route")
    return "\n".join([*lines, new.made_with])


def counted(root: Path) -> Counts:
    """Count the checkout at `root`."""
    if not (root / "benchmarks" / "canned.py").exists():
        raise NotCounted(f"{root} is not a checkout of this project: it has no benchmarks/canned.py")
    print(f"counting {root}: about a minute, a third of it for start-up", file=sys.stderr, flush=True)
    environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "PYTHONPATH": f"{root}:{root / 'src'}"}
    with tempfile.TemporaryDirectory(prefix="dub5-") as folder:
        profile, log = Path(folder, "profile"), Path(folder, "log")
        tool = ("valgrind", "--tool=callgrind", "--dump-before=getppid")
        callgrind = (*tool, f"--log-file={log}", f"--callgrind-out-file={profile}")
        # The first run, without callgrind, fails early and compiles all modules.
        for prefix in ((), callgrind):
            command = (*prefix, sys.executable, "-P", str(DRIVER))
            if subprocess.run(command, cwd=root, env=environment, check=False).returncode:
                text = log.read_text(encoding="utf-8") if log.exists() else ""
                raise NotCounted(f"the requests of {root} could not be sent; the reason is above. {text}")
        parts = [Path(f"{profile}.{i + 1}") for i in range(2 * len(CASES))]
        instructions = per_request([part.read_text(encoding="utf-8") for part in parts if part.exists()])
    packages = ", ".join(f"{name} {version(name)}" for name in ("litestar", "msgspec"))
    python = f"Python {platform.python_version()} built {platform.python_build()[1]}"
    return Counts(f"{python}, {packages}", instructions)


def run(arguments: argparse.Namespace) -> int:
    """Count, print and compare; return the exit code."""
    if shutil.which("valgrind") is None:
        raise NotCounted("valgrind is not on PATH; install it (Debian, Ubuntu: apt install valgrind)")
    old = kept(arguments.compare).get(PYTHON) if arguments.compare else None
    if arguments.compare and old is None:
        print(f"NOT COMPARED: {arguments.compare} has no counts made with Python {PYTHON}")
    if arguments.checkout:
        old = counted(arguments.checkout.resolve())
    new = counted(ROOT)
    print(table(new, old))
    if arguments.out:
        both = {**(kept(arguments.out) if arguments.out.exists() else {}), PYTHON: new}
        text = json.dumps({python: asdict(both[python]) for python in sorted(both)}, indent=2)
        arguments.out.write_text(text + "\n", encoding="utf-8")
    found = problems(old, new, arguments.tolerance) if old else []
    for problem in found:
        print(problem)
    return 1 if found else 0


def main() -> int:
    """Parse the command line and run; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    before = parser.add_mutually_exclusive_group()
    before.add_argument("--compare", type=Path, metavar="OLD.json", help="compare with a file of --out")
    before.add_argument("--checkout", type=Path, metavar="DIR", help="count DIR too, and compare with it")
    percent = f"tolerated increase in percent (default: {TOLERANCE_PERCENT:g})"
    parser.add_argument("--tolerance", type=float, default=TOLERANCE_PERCENT, metavar="PERCENT", help=percent)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers of this checkout as JSON")
    try:
        return run(parser.parse_args())
    except (NotCounted, OSError, ValueError, TypeError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
