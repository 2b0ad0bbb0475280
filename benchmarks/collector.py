"""What Python's garbage collector does to answers: pauses, times and processor time, by how it is set.

    overhead.py's load generator -> dub5 serve, once for each setting, in turns, and direct -> steady provider

    python -m benchmarks.collector --alone
    python -m benchmarks.collector --rate 300 --rounds 6

Each window has requests to one of the services and as many direct. Exit codes: 0, 2 nothing was measured.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from benchmarks.conftest import machine
from benchmarks.overhead import (
    CHUNKS,
    EVERY_MS,
    LATE_MS_MAX,
    SETTINGS,
    STREAMS,
    OverheadRun,
    WayThrough,
    rows,
    until_accepting,
)
from benchmarks.overhead_figures import LoadWindow
from benchmarks.overhead_upstream import before_others
from benchmarks.soak import process
from dub5.service.command import main as service_main

NEVER = 1_000_000
VARIANTS: dict[str, Callable[[], object]] = {  # what is set before the service starts; it freezes once it has
    "as served": lambda: None,
    "not frozen": lambda: setattr(gc, "freeze", lambda: None),
    "young ones at 20,000": lambda: gc.set_threshold(20_000, 10, 10),
    "no full ones": lambda: gc.set_threshold(2_000, 10, NEVER),
    "young ones at 20,000, no full ones": lambda: gc.set_threshold(20_000, 10, NEVER),
    "off": gc.disable,
}
RATE_PER_S = 200.0
ROUNDS = 4
COUNTS = "young / middle / full collections | longest pause |"


class PauseRecord:
    """The pauses of a process (ms), by generation."""

    def __init__(self) -> None:
        self.pauses: dict[int, list[float]] = {0: [], 1: [], 2: []}
        self._began_ns = 0

    def note(self, phase: str, info: Mapping[str, int]) -> None:
        """Be called back by the collector."""
        if phase == "start":
            self._began_ns = time.perf_counter_ns()
        else:
            self.pauses[info["generation"]].append((time.perf_counter_ns() - self._began_ns) / 1e6)


def serve(variant: str, config: str, file: str) -> int:
    """Serve with the collector set so; at the end write the pauses since the start to a file."""
    record = PauseRecord()
    VARIANTS[variant]()
    freeze = gc.freeze

    def freeze_and_record() -> None:
        freeze()
        gc.callbacks.append(record.note)

    gc.freeze = freeze_and_record
    code = service_main(["serve", "--config", config])
    Path(file).write_text(json.dumps(record.pauses), encoding="utf-8")
    return code


async def measured(arguments: argparse.Namespace, folder: Path) -> list[LoadWindow]:
    """Start a service for each setting, and measure all in turns."""
    async with AsyncExitStack() as stack:

        async def start(name: str, *command: str) -> tuple[asyncio.subprocess.Process, str]:
            return await stack.enter_async_context(process(folder, name, *command))

        shape = ("--chunks", str(CHUNKS), "--every-ms", str(EVERY_MS))
        provider, upstream = await start("provider", "benchmarks.overhead_upstream", *shape)
        config = folder / "dub5.toml"
        config.write_text(SETTINGS.format(upstream=upstream), encoding="utf-8")
        ways = {"direct": WayThrough(upstream, pid=provider.pid)}
        for name in VARIANTS:
            command = ("benchmarks.collector", "--serve", name, str(config), str(folder / f"{name}.json"))
            child, line = await start(name, *command)
            ways[name] = WayThrough(line.rpartition(" ")[2], pid=child.pid)
        before_others()
        for way in ways.values():
            await until_accepting(way.url)
        run = OverheadRun(ways, arguments.rate, arguments.streams, 1)
        windows: list[LoadWindow] = []
        for number in range(arguments.rounds + 1):
            found, names = [], list(VARIANTS)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                found.append(await run.answers(names=("direct", name)))
                found.append(await run.streams(name, 1.0))
            windows += found if number else []  # the first round warms all up
        return windows


def markdown(windows: Sequence[LoadWindow], pauses: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Format what was measured as a table."""
    lines = [
        "| collector | answer p50 | p99 | p99.9 | first token p99 | CPU of an answer | of a stream | "
        + COUNTS,
        "|---" * 9 + "|",
    ]
    for name in VARIANTS:
        found = {row["what"]: row for row in rows(windows, [name])}
        answer, first = found.get("answer"), found.get("first token")
        if answer is None or first is None:
            continue
        over: Mapping[str, float] = answer["over_direct_ms"]  # type: ignore[assignment]
        first_over: Mapping[str, float] = first["over_direct_ms"]  # type: ignore[assignment]
        times = [over.get(share) for share in ("p50", "p99", "p99.9")] + [first_over.get("p99")]
        cells = [name, *("" if ms is None else f"{ms:.2f} ms" for ms in times)]
        cells += [f"{row['cpu_us']:.0f} us" for row in (answer, first)]
        own = pauses[name]
        cells.append(" / ".join(str(len(own[generation])) for generation in ("0", "1", "2")))
        cells.append(f"{max((max(values) for values in own.values() if values), default=0):.2f} ms")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.collector",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rate", type=float, default=RATE_PER_S, help="JSON requests a second (default: 200)"
    )
    parser.add_argument("--streams", type=int, default=STREAMS, help="streams at once (default: 100)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of windows (default: 4)")
    parser.add_argument("--alone", action="store_true", help="run before all other processes (root only)")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(*arguments.serve)
    before = os.getloadavg()[0]
    before_others(children_too=arguments.alone)
    with tempfile.TemporaryDirectory(prefix="dub5-collector-") as folder:
        windows = uvloop.run(measured(arguments, Path(folder)))
        pauses = {name: json.loads(Path(folder, f"{name}.json").read_text("utf-8")) for name in VARIANTS}
    reasons = [window.void_because(LATE_MS_MAX) for window in windows]
    valid = [window for window, reason in zip(windows, reasons, strict=True) if not reason]
    print(markdown(valid, pauses))
    print(f"windows: {len(windows)}, of which {len(windows) - len(valid)} are void")
    for reason in sorted({reason for reason in reasons if reason}):
        print(f"void: {reason}")
    print(f"loadavg {before:.2f} -> {os.getloadavg()[0]:.2f}; {machine()}")
    return 0 if valid else 2


if __name__ == "__main__":
    sys.exit(main())
