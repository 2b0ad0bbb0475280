"""500 writers over a PostgreSQL with a pool of 10: how long they wait, what fails, how the store recovers.

    writers   each writes again and again and waits for its write; each in a lane of its own
    stall     the server stands still (SIGSTOP) for some seconds in the middle, and goes on

    python -m benchmarks.store_writers postgresql://user:password@host/name --seconds 5

It makes the table `kept` in this database. The stall needs `--server-pid`, of the server's main process.
"""

import argparse
import asyncio
import os
import signal
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from dub5.service.config.settings import DatabaseSettings
from dub5.service.events import Event, Events, StatementEnded, WritesForgotten
from dub5.service.store.base import DatabaseLost, Statement
from dub5.service.store.opening import ConfiguredStore
from dub5.service.store.url import open_database

WRITERS = 500
POOL = 10
WAIT_S = 30.0
TABLE = Statement(
    "table",
    "CREATE TABLE IF NOT EXISTS kept"
    " (lane TEXT NOT NULL, number BIGINT NOT NULL, PRIMARY KEY (lane, number))",
)
PUT = Statement("put", "INSERT INTO kept (lane, number) VALUES ($1, $2) ON CONFLICT DO NOTHING")
COUNT = Statement("count", "SELECT count(*) FROM kept WHERE lane LIKE $1")


@dataclass
class Report:
    """What the writers met."""

    waits_s: list[float] = field(default_factory=list)
    acknowledged: int = 0
    given_up: int = 0  # the writer was told that its write is not kept yet
    found: int = 0
    forgotten: int = 0
    results: Counter[str] = field(default_factory=Counter)
    recovery_s: float | None = None  # from the end of the stall to the first write that was kept

    def lines(self) -> list[str]:
        """Return the report for people."""
        p50, p99 = (statistics.quantiles(self.waits_s, n=100)[i] for i in (49, 98))
        wait = f"p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, largest {max(self.waits_s) * 1e3:.0f} ms"
        lines = [
            f"{self.acknowledged} writes kept, {self.given_up} answered before they were kept",
            f"{self.found} found, {self.forgotten} forgotten",
            f"wait of a writer: {wait}",
            f"statements by result: {dict(self.results)}",
        ]
        if self.recovery_s is not None:
            lines.append(f"kept again {self.recovery_s:.2f} s after the stall")
        return lines


async def measure(
    url: str, *, seconds: float, writers: int = WRITERS, pool: int = POOL, stall: int | None = None
) -> Report:
    """Let the writers write for some seconds. `stall`: the process id of a server to stop in the middle."""
    settings, report, run = DatabaseSettings(pool_max=pool), Report(), f"{time.monotonic_ns():x}"

    def note(event: Event) -> None:
        if isinstance(event, StatementEnded):
            report.results[event.result] += 1
        elif isinstance(event, WritesForgotten):
            report.forgotten += event.count

    await _ask(url, settings, TABLE)
    store = ConfiguredStore(url, settings, 30, Events(note), Random(1))
    await store.start()
    while not store.is_ok():
        await asyncio.sleep(0.01)
    until_s = time.monotonic() + seconds
    tasks = [asyncio.create_task(_write(store, report, f"{run} {n}", until_s)) for n in range(writers)]
    if stall is not None:
        await asyncio.sleep(seconds / 3)
        await asyncio.to_thread(_signal, stall, signal.SIGSTOP)
        await asyncio.sleep(seconds / 3)
        await asyncio.to_thread(_signal, stall, signal.SIGCONT)
        began_s, before = time.monotonic(), report.acknowledged
        while report.acknowledged == before:
            await asyncio.sleep(0.01)
        report.recovery_s = time.monotonic() - began_s
    await asyncio.gather(*tasks)
    while store.outbox.count:
        await asyncio.sleep(0.01)
    await store.aclose()
    report.found = int((await _ask(url, settings, COUNT, f"{run} %"))[0][0])
    return report


async def _write(store: ConfiguredStore, report: Report, lane: str, until_s: float) -> None:
    number = 0
    while time.monotonic() < until_s:
        began_s = time.monotonic()
        write = store.write([PUT.bind(lane, number)], lane=lane)
        number += 1
        if await write.kept(WAIT_S) is None:
            report.given_up += 1
            await asyncio.sleep(0.2)  # as a person would, who reads that it was not kept
        else:
            report.acknowledged += 1
        report.waits_s.append(time.monotonic() - began_s)


async def _ask(url: str, settings: DatabaseSettings, statement: Statement, *values: str) -> list[tuple]:  # type: ignore[type-arg]
    """Execute a statement past the store."""
    database = open_database(url, settings)
    try:
        for left in reversed(range(5)):
            try:
                return (await database.write([statement.bind(*values)]))[0]
            except DatabaseLost:
                if not left:
                    raise
                await asyncio.sleep(0.5)
        raise AssertionError("unreachable")
    finally:
        await database.aclose()


def _signal(server: int, which: signal.Signals) -> None:
    """Send a signal to a server and the processes of its connections."""
    children = Path(f"/proc/{server}/task/{server}/children").read_text(encoding="ascii").split()
    for process in (server, *map(int, children)):
        os.kill(process, which)


def main() -> None:
    """Measure once, and print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="a PostgreSQL database, whose table `kept` may be written")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--writers", type=int, default=WRITERS)
    parser.add_argument("--pool", type=int, default=POOL)
    parser.add_argument("--server-pid", type=int, help="stall this server for a third of the time")
    options = parser.parse_args()
    report = asyncio.run(
        measure(
            options.url,
            seconds=options.seconds,
            writers=options.writers,
            pool=options.pool,
            stall=options.server_pid,
        )
    )
    print("\n".join(report.lines()))


if __name__ == "__main__":
    main()
