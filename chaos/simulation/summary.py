"""The output of `dub5 simulate`: a summary page of all worlds, and everything about a world that failed."""

from itertools import groupby

from rich.console import Console
from rich.table import Table

from dub5.chaos.simulation.batch import Total
from dub5.chaos.simulation.command_options import SEEDS
from dub5.chaos.simulation.invariants.coverage import REQUIRED
from dub5.chaos.simulation.invariants.rules import SENTENCES
from dub5.chaos.simulation.run import WorldResult
from dub5.chaos.simulation.world.model import World

TRACE_LINES = 40
NEVER_SHOWN = 12
EXAMPLES_SHOWN = 3
ENDED_IN_ERROR = "The run ended in an error of its own."
COLUMNS = 3


def page(total: Total, wall_s: float, console: Console) -> None:
    """Print the summary page."""
    speed = total.requests / wall_s if wall_s else 0.0
    console.print(
        f"{total.seeds:,} worlds, {total.requests:,} requests, {total.virtual_s / 3600:,.1f} virtual hours "
        f"in {wall_s:,.1f} s: {speed:,.0f} requests/s",
        highlight=False,
    )
    ends = ", ".join(f"{name} {count:,}" for name, count in total.outcomes.most_common())
    console.print(f"outcomes: {ends}", highlight=False)
    table = Table(
        title="how often each required branch was reached",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for _ in range(COLUMNS):
        table.add_column("", justify="right")
        table.add_column("")
    cells = [(f"{total.sometimes[name]:,}", name) for name in REQUIRED]
    for i in range(0, len(cells), COLUMNS):
        table.add_row(*(text for cell in cells[i : i + COLUMNS] for text in cell))
    console.print(table)
    for name, (value, seed) in sorted(total.worst.items()):
        console.print(f"worst {name}: {value:.3f} (seed {seed})", highlight=False)


def seen(total: Total, console: Console) -> None:
    """Say how much a run has seen: a branch that was never taken proves nothing."""
    never = total.never()
    if not never:
        return
    named = ", ".join(never[:NEVER_SHOWN]) + (
        f" and {more} more" if (more := len(never) - NEVER_SHOWN) > 0 else ""
    )
    worlds = "1 world" if total.seeds == 1 else f"{total.seeds:,} worlds"
    console.print(
        f"but {worlds} took {len(REQUIRED) - len(never)} of {len(REQUIRED)} required branches; nothing is "
        f"proven about: {named}. `dub5 simulate` ({SEEDS} worlds) must take them all.",
        style="yellow",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def failure(result: WorldResult, world: World, replay_command: str, console: Console) -> None:
    """Print which promise broke, examples, the world, the last events, and the command that runs it again."""
    console.rule(f"seed {result.seed} FAILED", align="left")
    for rule, examples in groupby(sorted(result.violations, key=_rule), key=_rule):
        lines = list(examples)
        told = [
            f"BROKEN: {SENTENCES.get(rule, ENDED_IN_ERROR)}",
            *(f"  {line}" for line in lines[:EXAMPLES_SHOWN]),
        ]
        if (more := len(lines) - EXAMPLES_SHOWN) > 0:
            told.append(f"  and {more} more")
        for line in told:
            console.print(line, style="bold red", highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print("\n".join(world.lines()), highlight=False, markup=False, soft_wrap=True, emoji=False)
    console.print(f"last {TRACE_LINES} events before the first violation:", highlight=False)
    for line in result.trace[-TRACE_LINES:]:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True, emoji=False)
    console.print(f"run again: {replay_command}", style="bold", highlight=False, soft_wrap=True)


def _rule(violation: str) -> str:
    return violation.split(" ", 1)[0]
