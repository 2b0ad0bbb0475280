"""A run as it happens, in the terminal: who answers, how the providers stand, how requests end.

On a terminal a table that is redrawn twice a second; elsewhere (a log, CI) one line each second.
"""

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from chaos.figures import Second, second, state_of
from chaos.journal import Seen, Window
from chaos.judge import Outcome
from chaos.scenario import Scenario

BARS = " ▁▂▃▄▅▆▇█"
HISTORY_S = 30
STYLE = {"closed": "green", "half_open": "yellow", "cooling": "yellow", "open": "bold red"}
BAD = {Outcome.DISHONEST: "bold red", Outcome.HUNG: "bold red", Outcome.FAILED: "red", Outcome.CUT: "yellow"}


class LiveView:
    """A watch of a run. Use as a context manager around it."""

    def __init__(self, scenario: Scenario, engine: str, console: Console) -> None:
        self._scenario = scenario
        self._engine = engine
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._seconds: deque[list[Seen]] = deque(maxlen=HISTORY_S)  # by the second in which they ended
        self._ended: Counter[Outcome] = Counter()
        self._windows: list[Window] = []
        self._states: dict[str, tuple[str, float]] = {}
        self._at_s = 0.0
        self._fresh: list[Seen] = []
        self._second = 0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    # what a watch hears

    def ended(self, seen: Seen) -> None:
        """A request is over."""
        self._ended[seen.outcome] += 1
        self._fresh.append(seen)

    def changed(self, window: Window) -> None:
        """A fault began, or is over."""
        self._windows = [known for known in self._windows if known is not window]
        if window.until_s is None:
            self._windows.append(window)
        if self._live is None:
            at_s, what = (window.from_s, "begins") if window.until_s is None else (window.until_s, "is over")
            self._tell(f"{at_s:5.1f} s  {what}: {window.label} ({window.by})")

    def sampled(self, at_s: float, status: Mapping[str, Any] | None) -> None:
        """Half a second has passed."""
        self._at_s = max(0.0, at_s)
        for row in (status or {}).get("targets", ()):
            waits_s = max(row["cooling_s"], row.get("wait_s", 0.0))
            self._states[row["provider"]] = (state_of(row["breaker"], row["cooling_s"]), waits_s)
        if int(self._at_s) > self._second:
            self._seconds.append(self._fresh)
            self._fresh, self._second = [], int(self._at_s)
            if self._live is None:
                self._tell(self._line())
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    # how it looks

    def _tell(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _line(self) -> str:
        last = second(self._second, self._seconds[-1])
        answered = "  ".join(f"{name} {last.answered[name]:2}" for name in self._scenario.providers)
        states = "  ".join(
            f"{name} {self._state(name)}" for name in self._scenario.providers if name in self._states
        )
        ended = "  ".join(f"{outcome} {count}" for outcome, count in self._ended.items())
        return f"{self._second:5} s  answers: {answered} | {states} | {ended} | first token {_waits(last)}"

    def _state(self, name: str) -> str:
        state, waits_s = self._states.get(name, ("unknown", 0.0))
        return f"{state} {waits_s:.0f} s" if waits_s else state

    def _table(self) -> RenderableType:
        workload = self._scenario.workload
        head = Table.grid(padding=(0, 2))
        done = min(self._at_s, workload.seconds)
        bar = ProgressBar(workload.seconds, done, width=30)
        head.add_row(bar, f"{done:.0f} of {workload.seconds:g} s", f"engine {self._engine}")
        return Group(head, "", self._providers(), "", self._outcomes())

    def _providers(self) -> Table:
        table = Table(expand=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for title in ("provider", "breaker", "answers a second", "", "what is done to it"):
            table.add_column(title, no_wrap=title != "what is done to it")
        rows = [second(0, seen).answered for seen in self._seconds]
        most = max((max(row.values(), default=0) for row in rows), default=0) or 1
        for name, persona in self._scenario.providers.items():
            state = self._states.get(name, ("unknown", 0.0))[0]
            spark = "".join(BARS[-(-row[name] * 8 // most)] for row in rows)
            now = str(rows[-1][name]) if rows else "0"
            faults = "; ".join(window.label for window in self._windows if window.provider == name)
            table.add_row(
                f"{name} ({persona})",
                Text(self._state(name), style=STYLE.get(state, "")),
                spark.rjust(HISTORY_S),
                now.rjust(2),
                Text(faults, style="bold magenta"),
            )
        return table

    def _outcomes(self) -> Table:
        table = Table.grid(padding=(0, 3))
        cells = [
            Text(f"{name} {self._ended[name]}", style=self._style(name))
            for name in Outcome
            if self._ended[name]
        ]
        last = [seen for row in list(self._seconds)[-5:] for seen in row]
        table.add_row("requests", *cells)
        table.add_row("first token, last 5 s", _waits(second(0, last)))
        return table

    def _style(self, outcome: Outcome) -> str:
        return BAD.get(outcome, "green" if outcome is Outcome.COMPLETE else "")


def _waits(row: Second) -> str:
    if row.first_token_p50_s is None or row.first_token_p95_s is None:
        return "-"
    return f"p50 {row.first_token_p50_s:.2f} s, p95 {row.first_token_p95_s:.2f} s"
