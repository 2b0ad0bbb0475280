"""`dub5 simulate`: run worlds by seed, print a summary and everything about the worlds that failed."""

import argparse
import logging
import sys
import time

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dub5.chaos.incidents import replay as incidents
from dub5.chaos.incidents.page import page
from dub5.chaos.run.verdict import percent
from dub5.chaos.scenario.parse import INCIDENTS, names
from dub5.chaos.simulation import summary
from dub5.chaos.simulation.batch import Total, run_seeds
from dub5.chaos.simulation.command_options import SEEDS
from dub5.chaos.simulation.mutant import mutated
from dub5.chaos.simulation.run import WorldResult, run_world
from dub5.chaos.simulation.shrink import Shrinker, rules_of
from dub5.chaos.simulation.world import model as worlds
from dub5.chaos.simulation.world.generate import generate_world
from dub5.chaos.simulation.world.model import World
from dub5.chaos.simulation.world.requests import planned_requests

FAILURES_SHOWN = 3


def run(options: argparse.Namespace, console: Console) -> int:
    """Run the command. Return the exit code."""
    logging.disable(logging.ERROR)  # failures are printed once, in sentences
    if options.incidents is not None:
        return _incidents(options, console)
    if options.world is not None:
        try:
            world = worlds.read(options.world)
        except FileNotFoundError:
            print(f"{options.world} does not exist", file=sys.stderr)
            return 2
        except (OSError, msgspec.DecodeError) as error:
            print(f"{options.world} is not a saved world: {error}", file=sys.stderr)
            return 2
        return _one(world, f"dub5 simulate --world {options.world}", options, console)
    if options.seed is not None:
        return _one(generate_world(options.seed), f"dub5 simulate --seed {options.seed}", options, console)
    return _all(options, console)


def _one(world: World, replay_command: str, options: argparse.Namespace, console: Console) -> int:
    with mutated(options.mutant):
        result = run_world(world)
        console.print("\n".join(world.lines()), highlight=False, markup=False, soft_wrap=True, emoji=False)
        total = Total()
        total.add(result)
        console.print(f"{result.requests} requests: {dict(result.outcomes)}", highlight=False)
        console.print(f"trace: {result.digest}", highlight=False)
        if result.violations:
            _fail(result, world, replay_command, options, console)
        else:
            _print_held(console)
            summary.seen(total, console)
    return 1 if result.violations else 0


def _all(options: argparse.Namespace, console: Console) -> int:
    total, began_s = Total(), time.perf_counter()
    seeds = range(options.first, options.first + options.seeds)
    with _bar(console) as bar:
        task = bar.add_task("worlds", total=len(seeds), progress="")
        for result in run_seeds(seeds, options.jobs, options.mutant):
            total.add(result)
            if result.violations:  # now: a long run may be stopped before its summary
                bar.console.print(
                    f"seed {result.seed}: {result.violations[0]}", style="bold red", highlight=False
                )
            speed = total.requests / (time.perf_counter() - began_s)
            bar.update(task, advance=1, progress=f"{speed:,.0f} requests/s, {len(total.failed)} failed")
    summary.page(total, time.perf_counter() - began_s, console)
    failed = sorted(total.failed, key=lambda result: result.seed)
    with mutated(options.mutant):
        for result in failed[:FAILURES_SHOWN]:
            _fail(
                result, generate_world(result.seed), f"dub5 simulate --seed {result.seed}", options, console
            )
    if failed:
        numbers = ", ".join(str(result.seed) for result in failed[:20])
        console.print(
            f"{len(failed)} of {total.seeds} worlds FAILED: {numbers}", style="bold red", highlight=False
        )
    never = total.never() if len(seeds) >= SEEDS else []
    for name in never:
        console.print(f"NEVER REACHED: {name}", style="bold red", highlight=False)
    if not failed and not never:
        _print_held(console)
        summary.seen(total, console)
    return 1 if failed or never else 0


def _incidents(options: argparse.Namespace, console: Console) -> int:
    known = names(INCIDENTS)
    wanted = options.incidents or known
    if unknown := [name for name in wanted if name not in known]:
        print(f"There is no incident {unknown[0]!r}; known incidents: {', '.join(known)}", file=sys.stderr)
        return 2
    began_s, done, seed = time.perf_counter(), [], options.seed or incidents.SEED
    with _bar(console) as bar:
        task = bar.add_task("incidents", total=len(wanted), progress="")
        for one in incidents.replay_all(wanted, options.reports / "incidents", seed, options.jobs):
            done.append(one)
            bar.update(task, advance=1, progress=f"{one.name} {'held' if one.ok else 'NOT HELD'}")
            bar.console.print(
                f"{one.name}: {one.requests} requests, {percent(one.complete)} complete, "
                f"users affected for {one.impact_s:.1f} s; "
                f"without {one.scenario.off} {percent(one.complete_without)} complete; {one.page}",
                style=None if one.ok else "bold red",
                highlight=False,
                soft_wrap=True,
            )
            for line in one.lines:
                if not line.ok:
                    bar.console.print(
                        f"  NOT HELD: {line.expectation}: {line.result}", style="bold red", highlight=False
                    )
            if not one.missed:
                bar.console.print(
                    f"  CANNOT FAIL: every expectation holds without {one.scenario.off}", style="bold red"
                )
    if options.index is not None:
        options.index.write_text(page(done), encoding="utf-8")
    failed = [one.name for one in done if not one.ok]
    requests, took_s = sum(one.requests for one in done), time.perf_counter() - began_s
    console.print(
        f"{len(done)} incidents, {requests:,} requests, each run twice, in {took_s:.0f} s", highlight=False
    )
    if failed:
        console.print(f"NOT HELD: {', '.join(failed)}", style="bold red", highlight=False)
    else:
        console.print("all held, and none held without its mechanism", style="bold green", highlight=False)
    return 1 if failed else 0


def _fail(
    result: WorldResult, world: World, replay_command: str, options: argparse.Namespace, console: Console
) -> None:
    """Print a failure, shrink its world and write the smaller one to --reports."""
    mutant = f" --mutant {options.mutant}" if options.mutant else ""
    summary.failure(result, world, replay_command + mutant, console)
    if not options.shrink:
        return
    shrinker = Shrinker(rules_of(result), options.shrink)
    smaller = shrinker.shrink(world)
    path = options.reports / f"world-{world.seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    worlds.write(smaller, path)
    console.print(
        f"shrunk after {shrinker.tried} worlds: "
        f"{len(world.troubles)} -> {len(smaller.troubles)} fault windows, "
        f"{len(planned_requests(world))} -> {len(planned_requests(smaller))} requests",
        highlight=False,
    )
    summary.failure(run_world(smaller), smaller, f"dub5 simulate --world {path}{mutant}", console)


def _print_held(console: Console) -> None:
    console.print("every invariant held", style="bold green", highlight=False)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[progress]}"),
        console=console,
    )
