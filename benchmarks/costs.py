"""Where the instructions of a request go: the cost of each stage, and how often each thing is done.

    valgrind --tool=callgrind -> costs_driver.py: the service in memory, its own wire, a provider
    a profile, cut at each change of stage -> instructions by stage      json, cached, one more chunk
    the profile of a batch that is not cut -> objects, tasks, timers, clocks, system calls of a JSON request

    python -m benchmarks.costs              two minutes; prints Markdown, for docs/operate/performance.md
    python -m benchmarks.costs --by-file    each stage by its files
    python -m benchmarks.costs --out costs.json

Counted is one warm request, or ten chunks, in a process on uvloop. Not counted: the kernel, the client's
connection, the collector. The sum of the stages is compared with batches that are not cut, and the difference
is told. Python 3.12 or newer, whose libpython has symbols; a run without them ends with exit code 2.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.conftest import machine
from benchmarks.costs_driver import CHUNKS, CHUNKS_FROM, CLIENT, COUNTED, LOOP, STAGES
from benchmarks.instructions import ROOT, TOTALS, NotCounted

DRIVER = ROOT / "benchmarks" / "costs_driver.py"
CASES = {"json": 1, "cached": 1, "chunk": CHUNKS - CHUNKS_FROM}  # each with what its parts hold
UNCUT = {"json": COUNTED, "cached": COUNTED, "chunk": CHUNKS - CHUNKS_FROM}
CALLBACKS = "_Py_call_instrumentation*"  # of libpython: what it calls is not collected
REMAINDER_MAX = 0.05
FUNCTION = re.compile(r"^(c?)fn=\((\d+)\)(?: (.*))?$")
DONE = {  # what is done a request, and the functions in C that do it, each once
    "objects made": ("_Py_NewReference",),
    "pieces of memory allocated": ("_PyObject_Malloc", "malloc"),
    "dictionaries": ("PyDict_New", "dict_new"),
    "lists": ("PyList_New",),
    "functions and closures made": ("PyFunction_New",),
    "bound methods": ("PyMethod_New",),
    "exceptions": ("BaseException_new",),
    "tasks": ("_asyncio_Task___init__",),
    "callbacks of the loop": ("__pyx_f_6uvloop_4loop_new_Handle",),
    "timers started": ("uv_timer_start",),
    "clock reads": ("clock_gettime", "clock_gettime@@GLIBC_2.17"),
    "system calls: epoll_pwait": ("epoll_pwait",),
    "system calls: reads": ("read", "recv", "readv", "recvmsg"),
    "system calls: writes": ("write", "send", "writev", "sendmsg"),
}


@dataclass(frozen=True, slots=True)
class StageCosts:
    """Instructions and Python calls by case and stage, and what a JSON request does."""

    instructions: Mapping[str, Mapping[str, float]]
    calls: Mapping[str, Mapping[str, float]]
    uncut: Mapping[str, float]
    done: Mapping[str, float]

    def remainder(self, case: str) -> float:
        """Return by which share the sum of the stages is more than the same request, not cut."""
        return sum(self.instructions[case].values()) / self.uncut[case] - 1


def by_stage(
    labels: Sequence[str], totals: Sequence[int]
) -> tuple[dict[str, Counter[str]], dict[str, float]]:
    """Sum the parts of a profile by case and stage, and those that are not cut by case.

    Raises NotCounted.
    """
    if len(totals) != len(labels):
        raise NotCounted(f"callgrind cut {len(totals)} parts of {len(labels)}: libc may have no symbols")
    stages: dict[str, Counter[str]] = {case: Counter() for case in CASES}
    uncut: dict[str, float] = {}
    for label, total in zip(labels, totals, strict=True):
        case, _, stage = label.partition("/")
        if stage:
            stages[case][stage] += total
        elif label:
            uncut[label[1:]] = total / UNCUT[label[1:]]
    return stages, uncut


def calls_of(part: str) -> Counter[str]:
    """Return how often each function in C was called, from a part of a profile."""
    names: dict[str, str] = {}
    calls: Counter[str] = Counter()
    called = ""
    for line in part.splitlines():
        if found := FUNCTION.match(line):
            is_called, number, name = found.groups()
            if name:
                names[number] = name.partition("'")[0]  # a function that calls itself has a mark
            if is_called:
                called = number
        elif line.startswith("calls="):
            calls[called] += int(line[6:].split()[0])
    by_name: Counter[str] = Counter()
    for number, count in calls.items():
        by_name[names.get(number, number)] += count
    return by_name


def stage_costs(found: Mapping[str, object], parts: Sequence[str]) -> StageCosts:
    """Make the costs of what the driver wrote and of callgrind's parts. Raises NotCounted."""
    labels: list[str] = found["parts"]  # type: ignore[assignment]
    calls: dict[str, int] = found["calls"]  # type: ignore[assignment]
    stages, uncut = by_stage(labels, [int(total[1]) for part in parts if (total := TOTALS.search(part))])
    each = {
        case: {stage: total / CASES[case] for stage, total in totals.items()}
        for case, totals in stages.items()
    }
    python: dict[str, dict[str, float]] = {case: {} for case in CASES}
    for label, count in calls.items():
        case, _, stage = label.partition("/")
        python[case][stage] = count / CASES[case]
    in_c = calls_of(parts[labels.index("=json")])
    done = {what: sum(in_c[name] for name in names) / COUNTED for what, names in DONE.items()}
    return StageCosts(each, python, uncut, done)


def counted(*options: str) -> StageCosts:
    """Run the driver under callgrind. Raises NotCounted."""
    if shutil.which("valgrind") is None:
        raise NotCounted("valgrind is not on PATH; install it (Debian, Ubuntu: apt install valgrind)")
    environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    with tempfile.TemporaryDirectory(prefix="dub5-costs-") as folder:
        profile, log, labels = Path(folder, "profile"), Path(folder, "log"), Path(folder, "labels")
        tool = ("valgrind", "--tool=callgrind", "--dump-before=getppid", f"--toggle-collect={CALLBACKS}")
        files = ("--collect-atstart=yes", f"--log-file={log}", f"--callgrind-out-file={profile}")
        # The first run, without callgrind, fails early and compiles all modules.
        for prefix in ((), (*tool, *files)):
            command = (*prefix, sys.executable, "-P", str(DRIVER), str(labels), *options)
            if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
                raise NotCounted("the requests could not be sent; the reason is above")
        found = json.loads(labels.read_text(encoding="utf-8"))
        parts = [Path(f"{profile}.{i + 1}") for i in range(len(found["parts"]))]
        texts = [part.read_text(encoding="utf-8") for part in parts if part.exists()]
    return stage_costs(found, texts)


def order() -> list[str]:
    """Return the stages, as a request passes them; what is of the client is no stage."""
    found = dict.fromkeys(stage for _, stage in STAGES if stage not in ("", CLIENT))
    return [*found, LOOP]


def row_names(costs: StageCosts) -> list[str]:
    """Return the stages that cost something, each with its files where those are told apart."""
    found = {name for stages in costs.instructions.values() for name in stages if name != CLIENT}
    places = {stage: place for place, stage in enumerate(order())}
    return sorted(found, key=lambda name: (places[name.partition(",")[0]], name))


def markdown(costs: StageCosts) -> str:
    """Format the costs as two tables."""
    lines = ["| stage | " + " | ".join(f"{case} | calls" for case in CASES) + " |", "|---" * 7 + "|"]
    for stage in row_names(costs):
        cells = [stage]
        for case in CASES:
            count, calls = costs.instructions[case].get(stage, 0), costs.calls[case].get(stage, 0)
            cells += [f"{count / 1000:,.1f} k" if count else "", f"{calls:g}" if calls else ""]
        lines.append("| " + " | ".join(cells) + " |")
    cells = ["all"]
    for case in CASES:
        stages = {stage: count for stage, count in costs.instructions[case].items() if stage != CLIENT}
        calls = sum(count for stage, count in costs.calls[case].items() if stage != CLIENT)
        cells += [f"{sum(stages.values()) / 1000:,.1f} k", f"{calls:g}"]
    lines.append("| " + " | ".join(cells) + " |")
    cells = [f"{costs.remainder(case):+.1%} | " for case in CASES]
    lines += ["| against the same, not cut | " + " | ".join(cells) + " |", ""]
    lines += ["| of a JSON request | times |", "|---|---|"]
    lines += [f"| {what} | {count:,.1f} |" for what, count in costs.done.items()]
    return "\n".join(lines)


def main() -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.costs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers as JSON")
    parser.add_argument("--by-file", action="store_true", help="tell the files of each stage apart")
    arguments = parser.parse_args()
    if sys.version_info < (3, 12):
        print("SKIPPED: the stages are followed by sys.monitoring, which Python 3.12 brought.")
        return 0
    try:
        costs = counted(*(("by-file",) if arguments.by_file else ()))
    except NotCounted as error:
        print(error, file=sys.stderr)
        return 2
    print(markdown(costs))
    print(f"\n{machine()}; {sys.version.replace(chr(10), ' ')}")
    if arguments.out:
        arguments.out.write_text(json.dumps(asdict(costs), indent=1) + "\n", encoding="utf-8")
    wide = [case for case in CASES if abs(costs.remainder(case)) > REMAINDER_MAX]
    if wide:
        print(f"NOT BELIEVED: the stages of {', '.join(wide)} do not add up to the same request, not cut")
    return 2 if wide else 0


if __name__ == "__main__":
    sys.exit(main())
