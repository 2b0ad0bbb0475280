"""Counts the CPU instructions of a request and of its steps: numbers that a busy machine does not change.

    commit of benchmarks/BASE -> its dub5 --+
                                            +-- instructions_driver.py under callgrind --> table, verdict
    this checkout -------------> its dub5 --+   one driver, one Python, one set of packages

    python -m benchmarks.instructions                      exit 1 if a case costs over 2 % more than in BASE
    python -m benchmarks.instructions --checkout ../before compare with another checkout instead
    python -m benchmarks.instructions --move-base [COMMIT] make COMMIT (HEAD) the base

Both are counted at one time, for about half a minute of each of two processors; where a case costs more, once
more. What costs more and is worth it is committed; then --move-base writes the commit to benchmarks/BASE and
the counts of both to benchmarks/history.csv, which are the next commit. It must be a commit that stays: one
that is squashed or rebased later cannot be reached.
Not counted: start-up, sockets, the kernel, the garbage collector, other threads. Time stands still.
Exit codes: 0 counted, 1 a case costs more, 2 it could not be counted.
"""

import argparse
import csv
import datetime
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.instructions_driver import KERNEL_CALLS, REQUESTS
from benchmarks.instructions_kernels import KERNELS

ROOT = Path(__file__).resolve().parent.parent
DRIVER = ROOT / "benchmarks" / "instructions_driver.py"
BASE = ROOT / "benchmarks" / "BASE"
HISTORY = ROOT / "benchmarks" / "history.csv"
COLUMNS = ("date", "commit", "python", "case", "before", "after")  # instructions of one request or call
TOLERANCE_PERCENT = 2.0  # seen between equal code: 0.3 % of a request, 0.8 % of a step
ATTEMPTS = 2  # the lower count holds: objects that lay elsewhere once moved a step by 3 %
CALLGRIND = (
    *("valgrind", "--tool=callgrind", "--instr-atstart=no"),
    *("--dump-before=getppid", "--separate-threads=yes"),
)
LOOP_THREAD = "01"  # the others write to the database, whenever they can
TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)


class NotCounted(Exception):
    """The count failed; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Instructions of each case. `missing`: cases that the checkout does not have, each with the reason."""

    instructions: Mapping[str, float]
    missing: Mapping[str, str]


def read_counts(reasons: Mapping[str, str], parts: Sequence[str]) -> Counts:
    """Read the parts of a profile: by turns the time before the calls of a case, and those calls."""
    names = [name for name, reason in reasons.items() if not reason]
    totals = [int(found[1]) for part in parts[1::2] if (found := TOTALS.search(part))]
    if not totals or len(totals) != len(names) or len(parts) != 2 * len(names):
        raise NotCounted(f"callgrind cut out {len(parts)} parts for {len(names)} cases: has libc symbols?")
    each = {
        name: total / (KERNEL_CALLS if name in KERNELS else REQUESTS)
        for name, total in zip(names, totals, strict=True)
    }
    return Counts(each, {name: reason for name, reason in reasons.items() if reason})


def count(root: Path, attempt: int = 1) -> Counts:
    """Count the checkout at `root`. Raises NotCounted.

    Where objects lie decides which of them share a line of Python's cache of attributes, and a path shifts
    them: so a checkout is reached by a link of the same length as the other, in each attempt of another one.
    """
    with tempfile.TemporaryDirectory(prefix="dub5-") as folder:
        profile, log, reasons = (Path(folder, name) for name in ("profile", "log", "reasons"))
        link = Path(folder, "x" * 16 * attempt)
        link.symlink_to(root)
        path = f"{ROOT}:{link / 'src'}"
        environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "PYTHONPATH": path}
        callgrind = (*CALLGRIND, f"--callgrind-out-file={profile}", f"--log-file={log}")
        # The first run, without callgrind, fails early and compiles all modules.
        for prefix, more in (((), {}), (callgrind, {"VGDB": shutil.which("vgdb") or ""})):
            command = (*prefix, sys.executable, "-P", DRIVER, link, reasons)
            ran = subprocess.run(
                command, cwd=folder, env=environment | more, check=False, capture_output=True, text=True
            )
            if ran.returncode:
                said = log.read_text(encoding="utf-8") if log.exists() else ""
                raise NotCounted(f"{root} could not be counted:\n{ran.stderr}{said}")
        found = json.loads(reasons.read_text(encoding="utf-8"))
        numbered = (Path(f"{profile}.{i + 1}-{LOOP_THREAD}") for i in range(2 * len(found)))
        return read_counts(found, [part.read_text("utf-8") for part in numbered if part.exists()])


def count_both(old: Path, new: Path, attempt: int = 1) -> tuple[Counts, Counts]:
    """Count two checkouts at one time. Raises NotCounted."""
    if shutil.which("valgrind") is None or shutil.which("vgdb") is None:
        raise NotCounted("valgrind is not on PATH; install it (Debian, Ubuntu: apt install valgrind)")
    print(f"counting {old} and {new}", file=sys.stderr, flush=True)
    with ThreadPoolExecutor(2) as pool:
        before, after = pool.map(count, (old, new), (attempt, attempt))
    return before, after


def fewest(one: Counts, other: Counts) -> Counts:
    """Return the lower count of each case: where objects lie only ever adds instructions."""
    both = one.instructions, other.instructions
    return Counts({name: min(count[name] for count in both) for name in both[0]}, one.missing)


def problems(old: Counts, new: Counts) -> list[str]:
    """Write one sentence for each case that costs more, or can no longer be counted."""
    lost = [f"{name} cannot be counted any more: {reason}" for name, reason in new.missing.items()]
    return lost + [
        f"{name} costs {percent:.2f} % more; {TOLERANCE_PERCENT:g} % is tolerated"
        for name, count in new.instructions.items()
        if name in old.instructions
        and (percent := (count / old.instructions[name] - 1) * 100) > TOLERANCE_PERCENT
    ]


def table(old: Counts, new: Counts) -> str:
    """Format the counts for people."""
    lines = [f"{'instructions':<18}{'before':>12}{'now':>12}{'change':>11}"]
    for name, count in new.instructions.items():
        if name in old.instructions:
            before = old.instructions[name]
            lines.append(f"{name:<18}{before:>12,.0f}{count:>12,.0f}{(count / before - 1) * 100:>9.2f} %")
        else:
            lines.append(f"{name:<18}{'new':>12}{count:>12,.0f}      ({old.missing.get(name)})")
    return "\n".join(lines)


def git(*arguments: str) -> bytes:
    """Return what a git command says of this repository. Raises NotCounted."""
    if (program := shutil.which("git")) is None:
        raise NotCounted("git is not on PATH: install it")
    ran = subprocess.run((program, "-C", ROOT, *arguments), check=False, capture_output=True)
    if ran.returncode:
        raise NotCounted(f"git {arguments[0]}: {ran.stderr.decode().strip()}")
    return ran.stdout


@contextmanager
def exported(commit: str) -> Iterator[Path]:
    """Put the files of a commit in a temporary folder. Raises NotCounted."""
    try:
        archive = git("archive", "--format=tar", commit)
    except NotCounted as error:
        raise NotCounted(
            f"The commit {commit}, which this checkout is compared with, cannot be read here.\n{error}\n"
            "A shallow clone lacks it: run `git fetch --unshallow`, or in CI clone the whole history.\n"
            "Where there is no repository, compare with a checkout of that commit: --checkout DIR"
        ) from None
    with tempfile.TemporaryDirectory(prefix="dub5-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)


def base() -> str:
    """Return the commit that benchmarks/BASE names. Raises NotCounted."""
    if not BASE.exists():
        raise NotCounted(f"{BASE} is not there; `python -m benchmarks.instructions --move-base` writes it")
    return BASE.read_text(encoding="ascii").strip()


def compare(old: Path) -> int:
    """Count this checkout and an older one, and print the verdict; return the exit code."""
    before, after = count_both(old, ROOT)
    for attempt in range(2, ATTEMPTS + 1):
        if not (found := problems(before, after)):
            break
        print("\n".join((*found, "counting again")), file=sys.stderr, flush=True)
        again = count_both(old, ROOT, attempt)
        before, after = fewest(before, again[0]), fewest(after, again[1])
    print(table(before, after))
    if found := problems(before, after):
        print("\n".join(found))
        print("What is worth its cost is committed, and then made the base: see --help, --move-base")
    return 1 if found else 0


def move_base(commit: str) -> int:
    """Make a commit the base, and write to the history what it costs, and the base before it did."""
    moved_to = git("rev-parse", "--verify", f"{commit}^{{commit}}").decode().strip()
    with exported(base() if BASE.exists() else moved_to) as old, exported(moved_to) as new:
        before, after = count_both(old, new)
    print(table(before, after))
    if after.missing:
        raise NotCounted("\n".join(problems(before, after)))
    history = HISTORY.read_text(encoding="ascii") if HISTORY.exists() else ",".join(COLUMNS) + "\n"
    HISTORY.write_text(history + history_rows(moved_to, before, after), encoding="ascii")
    BASE.write_text(moved_to + "\n", encoding="ascii")
    print(f"Now commit {BASE.relative_to(ROOT)} and {HISTORY.relative_to(ROOT)}.")
    return 0


def history_rows(commit: str, before: Counts, after: Counts) -> str:
    """Return the lines of the history that say what a new base costs, and the one before it did."""
    today, lines = datetime.datetime.now(datetime.UTC).date(), io.StringIO()
    rows = csv.writer(lines, lineterminator="\n")
    for name, count in after.instructions.items():
        old = round(before.instructions[name]) if name in before.instructions else ""
        rows.writerow((today, commit, platform.python_version(), name, old, round(count)))
    return lines.getvalue()


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line says; return the exit code."""
    if arguments.move_base:
        return move_base(arguments.move_base)
    if arguments.checkout:
        return compare(arguments.checkout.resolve())
    with exported(base()) as old:
        return compare(old)


def main() -> int:
    """Parse the command line and run; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--checkout", type=Path, metavar="DIR", help="compare with this checkout")
    what.add_argument("--move-base", nargs="?", const="HEAD", metavar="COMMIT", help="make it the base")
    try:
        return run(parser.parse_args())
    except (NotCounted, OSError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
