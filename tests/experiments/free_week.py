"""A week over free providers: what people see with one of them, with plain retries, and with the service.

    python -m tests.experiments.free_week            the table of docs/prove/free-providers.md: some minutes
    python -m tests.experiments.free_week --alone    each provider by itself
    python -m tests.experiments.free_week --days 1 --requests 5000 --seed 7

The same 100,000 people ask the same six simulated providers, with the same outages, in virtual time; only
what stands in between differs. The providers and their week: free_world.py; the clients: free_people.py.
"""

import argparse
import datetime
import os
import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from dub5.service import VERSION
from dub5.simulators.virtual import run
from tests.experiments.free_people import (
    AnyGateway,
    FailoverClient,
    PersonResult,
    PlainClient,
    ServiceGateway,
    WeekRun,
)
from tests.experiments.free_world import DAY_S, HOUR_S, PROVIDERS, FreeWorld

RETRIES = 3
FIRST, KEYLESS = PROVIDERS[0].name, PROVIDERS[-1].name
SERVICE, TOLD, IN_TURN = "the service", "the service, told", "all in turn"
ROWS: Mapping[str, str] = {
    f"{KEYLESS}:0": f"one provider: `{KEYLESS}`",
    f"{KEYLESS}:{RETRIES}": f"`{KEYLESS}`, {RETRIES} retries",
    f"{FIRST}:0": f"one provider: `{FIRST}`",
    f"{FIRST}:{RETRIES}": f"`{FIRST}`, {RETRIES} retries",
    IN_TURN: "all six, in turn",
    SERVICE: "**the service**, defaults",
    TOLD: "**the service**, reject patterns and fallback answers on",
}
ALONE = {f"{free.name}:{n}": f"`{free.name}`, {n} retries" for free in PROVIDERS for n in (0, RETRIES)}
HEAD = (
    "| | complete | degraded | failed | cut | wrong | first words or error, p50 / p95 / p99 | worst hour "
    "| attempts |"
)
HOUR_MIN = 20  # requests; with fewer of them an hour has no meaningful share


@dataclass(frozen=True, slots=True)
class WeekResult:
    """The results of all requests."""

    world: FreeWorld
    asked: Sequence[PersonResult]
    tries: float  # number of requests at the providers for each request

    def share(self, ending: str) -> float:
        """Return an ending's share of all requests."""
        return sum(one.ending == ending for one in self.asked) / len(self.asked)

    def first_s(self, quantile: float) -> float:
        """Return the time until the first content or the error."""
        waits = sorted(one.first_s for one in self.asked)
        return waits[min(len(waits) - 1, int(len(waits) * quantile))]

    def worst_hour(self) -> tuple[int, float]:
        """Return the worst hour, from 0, and its share of complete answers."""
        came, good = Counter[int](), Counter[int]()
        for one in self.asked:
            came[int(one.at_s // HOUR_S)] += 1
            good[int(one.at_s // HOUR_S)] += one.ending == "complete"
        return min(((hour, good[hour] / n) for hour, n in came.items() if n >= HOUR_MIN), key=lambda x: x[1])

    def lost(self) -> list[tuple[str, int]]:
        """Return the reasons of answers that are not complete, the most frequent first."""
        why = Counter(f"{one.ending}: {one.why}" for one in self.asked if one.ending != "complete")
        return why.most_common()

    def row(self, name: str) -> str:
        """Return the line of the table."""
        hour, good = self.worst_hour()
        waits = " / ".join(seconds(self.first_s(quantile)) for quantile in (0.50, 0.95, 0.99))
        endings = " | ".join(
            percent(self.share(e)) for e in ("complete", "degraded", "failed", "cut", "wrong")
        )
        return f"| {name} | {endings} | {waits} | {percent(good)}, day {hour // 24 + 1} | {self.tries:.2f} |"


def play(world: FreeWorld, which: str, *, tell: bool = False) -> WeekResult:
    """Play one line of the table."""

    async def week() -> WeekResult:
        stage = WeekRun(world)
        await stage.play(gateway(stage, which), progress(world, which) if tell else lambda at_s: None)
        tries = sum(line.method == "POST" for line in stage.ledger.lines())  # the rest: checks of keys
        return WeekResult(world, stage.asked, tries / len(stage.asked))

    played = run(week(), seed=world.seed)
    if tell:
        print(played.row(which), file=sys.stderr, flush=True)
    return played


def gateway(stage: WeekRun, which: str) -> AnyGateway:
    """Return a gateway: one of ROWS or ALONE."""
    match which:
        case "all in turn":
            return FailoverClient(stage)
        case "the service" | "the service, told":
            return ServiceGateway(stage, told=which == TOLD)
        case _:
            name, _, retries = which.partition(":")
            return PlainClient(stage, name, int(retries))


def progress(world: FreeWorld, which: str) -> Callable[[float], None]:
    """Report on stderr when a tenth more is done."""
    said = -1

    def tell(at_s: float) -> None:
        nonlocal said
        if (tenth := int(at_s / world.end_s * 10)) > said:
            said = tenth
            print(f"{which}: day {at_s / DAY_S:.1f} of {world.days:g}", file=sys.stderr, flush=True)

    return tell


def owed(week: WeekResult, name: str) -> Iterator[str]:
    """Explain the service's line: what was lost, and whether a provider could have answered."""
    could = [one for one in week.asked if one.able]
    none = sum(one.ending in ("failed", "degraded") for one in could)
    lost = ", ".join(f"{n:,} {why}" for why, n in week.lost())
    able = percent(len(could) / len(week.asked))
    yield f"Not complete, {name}: {lost or 'nothing'}. For {able} of the requests a"
    yield f"provider could answer at that moment; {none:,} of those requests got no answer."


def seconds(s: float) -> str:
    """Format seconds with two digits, or as whole ones."""
    return f"{s:.0f} s" if s >= 10 else f"{s:.2g} s"


def percent(share: float) -> str:
    """Format a share: less than all is never shown as all, more than none never as none."""
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    return f"{min(99.99, max(0.01, share * 100)):.2f} %"


def providers(world: FreeWorld) -> Iterator[str]:
    """List the providers, and which share of the week each of them is off."""
    yield "| provider | API | limits | latency | outages | down | longest |"
    yield "|---|---|---|---|---|---|---|"
    for free in PROVIDERS:
        off = [outage for outage in world.outages if outage.provider == free.name]
        grants = ", ".join(f"{n:,} {what.replace('_per_', '/')}" for what, n in free.grants.items())
        share, longest_h = off_share(world, free.name), max((o.for_s / HOUR_S for o in off), default=0.0)
        cells = (
            f"`{free.name}`",
            free.persona,
            grants,
            free.latency,
            len(off),
            f"{share:.1%}",
            f"{longest_h:.1f} h",
        )
        yield f"| {' | '.join(map(str, cells))} |"


def off_share(world: FreeWorld, name: str) -> float:
    """Return the share of the time in which an outage lasts, each second counted once."""
    off_s = until_s = 0.0
    for outage in world.outages:
        if outage.provider == name:
            end_s = min(outage.until_s, world.end_s)
            off_s += max(0.0, end_s - max(outage.at_s, until_s))
            until_s = max(until_s, end_s)
    return off_s / world.end_s


def report(world: FreeWorld, rows: Mapping[str, str]) -> Iterator[str]:
    """Return the whole output, in Markdown."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        playing = {which: pool.submit(play, world, which, tell=True) for which in reversed(rows)}
        weeks = {which: playing[which].result() for which in rows}
    yield HEAD
    yield "|---" * (HEAD.count("|") - 1) + "|"
    for which, name in rows.items():
        yield weeks[which].row(name)
    yield ""
    for which in (SERVICE, TOLD):
        if which in weeks:
            yield from owed(weeks[which], rows[which].replace("*", ""))
            yield ""
    yield from providers(world)
    yield ""
    yield (
        f"Seed {world.seed}, {world.requests:,} requests in {world.days:g} days; dub5 {VERSION}, Python "
        f"{platform.python_version()}, {platform.system()} {platform.machine()} with {os.cpu_count()} cores, "
        f"{datetime.datetime.now(datetime.UTC).date()}."
    )


def main(args: list[str]) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.experiments.free_week",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument(
        "--days", type=float, default=7.0, help="the set pieces are played in as much less time"
    )
    parser.add_argument(
        "--alone", action="store_true", help="each provider by itself, with and without retries"
    )
    given = parser.parse_args(args)
    world = FreeWorld(given.seed, given.requests, given.days)
    for line in report(world, ALONE if given.alone else ROWS):
        print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
