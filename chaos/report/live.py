"""A run as it happens, in the terminal: who answers, the state of the providers, how requests end.

A terminal shows a table that is redrawn twice a second, a log one line per second. A run of hours on virtual
time shows and prints about as much as one of two minutes.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dub5.chaos.report.axis import ROUND_S, clock, span
from dub5.chaos.report.figures import TimeBucket, bucket, state_of, worst
from dub5.chaos.run.journal import AppliedFault, RequestResult
from dub5.chaos.run.judge import ClientOutcome
from dub5.chaos.scenario.model import Scenario

BARS = " ▁▂▃▄▅▆▇█"
COLUMNS = 30
LINES_MAX, REDRAWN_MAX = 200, 600  # for a run of any length
LAST_S = 5.0  # the period of "last" in a run of a minute
STYLE = {"closed": "green", "half_open": "yellow", "cooling": "yellow", "open": "bold red"}
BAD = {
    ClientOutcome.DISHONEST: "bold red",
    ClientOutcome.HUNG: "bold red",
    ClientOutcome.FAILED: "red",
    ClientOutcome.CUT: "yellow",
}


class LiveView:
    """An observer of a run. Use it as a context manager."""

    def __init__(self, scenario: Scenario, engine: str, console: Console) -> None:
        self._scenario = scenario
        self._engine = engine
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        seconds = scenario.workload.seconds
        self._column_s = next((step for step in ROUND_S if seconds / step <= LINES_MAX), ROUND_S[-1])
        self._long = self._column_s > 1
        self._redraw_s = seconds / REDRAWN_MAX
        self._columns: deque[TimeBucket] = deque(maxlen=COLUMNS)  # by the end of the requests
        self._last: deque[list[RequestResult]] = deque(maxlen=max(1, round(LAST_S / self._column_s)))
        self._fresh: list[RequestResult] = []
        self._ended: Counter[ClientOutcome] = Counter()
        self._windows: list[AppliedFault] = []
        self._changes = 0
        self._states: dict[str, tuple[str, float]] = {}
        self._at_s = self._column_at_s = self._drawn_at_s = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.update(self._table())
            self._live.stop()

    # the observer

    def ended(self, result: RequestResult) -> None:
        """Count a request that has ended."""
        self._ended[result.outcome] += 1
        self._fresh.append(result)

    def changed(self, window: AppliedFault) -> None:
        """Show a fault that begins or ends."""
        self._windows = [known for known in self._windows if known is not window]
        if window.until_s is None:
            self._windows.append(window)
        self._changes += 1
        if self._live is None and self._changes <= LINES_MAX:
            at_s, what = (window.from_s, "begins") if window.until_s is None else (window.until_s, "ends")
            self._print(f"{self._clock(at_s, '5.1f')}  {what}: {window.label} ({window.by})")
        elif self._live is None and self._changes == LINES_MAX + 1:
            self._print("Further faults are not shown here; the journal has them all.")

    def sampled(self, at_s: float, status: Mapping[str, Any] | None) -> None:
        """Show the service's status and the requests since the last sample."""
        self._at_s = max(0.0, at_s)
        if status is not None:
            self._states = _by_provider(status.get("targets", ()))
        if self._at_s - self._column_at_s >= self._column_s:
            until_s = self._at_s // self._column_s * self._column_s
            self._columns.append(bucket(self._column_at_s, until_s, self._fresh))
            self._last.append(self._fresh)
            self._fresh, self._column_at_s = [], until_s
            if self._live is None:
                self._print(self._line())
        if self._live is not None and self._at_s - self._drawn_at_s >= self._redraw_s:
            self._drawn_at_s = self._at_s
            self._live.update(self._table(), refresh=True)

    # the view

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _clock(self, at_s: float, form: str) -> str:
        return clock(at_s).rjust(14) if self._long else f"{at_s:{form}} s"

    def _line(self) -> str:
        last = self._columns[-1]
        answered = "  ".join(f"{name} {last.answered[name]:2}" for name in self._scenario.providers)
        states = "  ".join(
            f"{name} {self._state(name)}" for name in self._scenario.providers if name in self._states
        )
        ended = "  ".join(f"{outcome} {count}" for outcome, count in self._ended.items())
        when = self._clock(self._column_at_s, "5.0f")
        return f"{when}  answers: {answered} | {states} | {ended} | first token {_waits(last)}"

    def _state(self, name: str) -> str:
        state, waits_s = self._states.get(name, ("unknown", 0.0))
        return f"{state} {waits_s:.0f} s" if waits_s else state

    def _table(self) -> RenderableType:
        workload = self._scenario.workload
        head = Table.grid(padding=(0, 2))
        done = min(self._at_s, workload.seconds)
        bar = ProgressBar(workload.seconds, done, width=30)
        exact = f"{done:.0f} of {workload.seconds:g} s"
        gone = f"{span(done)} of {span(workload.seconds)}" if self._long else exact
        head.add_row(bar, gone, f"engine {self._engine}")
        return Group(head, "", self._providers(), "", self._outcomes())

    def _providers(self) -> Table:
        table = Table(expand=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
        answers = "share of answers" if self._long else "answers per second"
        for title in ("provider", "breaker", answers, "", "active faults"):
            table.add_column(title, no_wrap=title != "active faults")
        rows = [column.answered for column in self._columns]
        # Over hours only shares compare: a plateau has few requests, an edge many.
        each = max((max(row.values(), default=0) for row in rows), default=0)
        most = [row.total() if self._long else each for row in rows]
        for name, persona in self._scenario.providers.items():
            state = self._states.get(name, ("unknown", 0.0))[0]
            spark = "".join(BARS[-(-row[name] * 8 // (of or 1))] for row, of in zip(rows, most, strict=True))
            now = rows[-1][name] if rows else 0
            table.add_row(
                f"{name} ({persona})",
                Text(self._state(name), style=STYLE.get(state.partition(",")[0], "")),
                spark.rjust(COLUMNS),
                f"{100 * now // (most[-1] or 1):3} %" if self._long and rows else f"{now:2}",
                Text(self._faults(name), style="bold magenta"),
            )
        return table

    def _faults(self, name: str) -> str:
        return "; ".join(window.label for window in self._windows if window.provider == name)

    def _outcomes(self) -> Table:
        table = Table.grid(padding=(0, 3))
        cells = [
            Text(f"{name} {self._ended[name]}", style=self._style(name))
            for name in ClientOutcome
            if self._ended[name]
        ]
        last = [result for row in self._last for result in row]
        long = span(self._column_s * (self._last.maxlen or 1))
        table.add_row("requests", *cells)
        table.add_row(f"first token, last {long}", _waits(bucket(0.0, 1.0, last)))
        return table

    def _style(self, outcome: ClientOutcome) -> str:
        return BAD.get(outcome, "green" if outcome is ClientOutcome.COMPLETE else "")


def _by_provider(targets: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, float]]:
    """Return each provider's worst target state, for how many targets it holds, and how long it may not be
    called."""
    states: dict[str, list[str]] = {}
    waits_s: dict[str, float] = {}
    for row in targets:
        name = row["provider"]
        states.setdefault(name, []).append(state_of(row["breaker"], row["cooling_s"]))
        waits_s[name] = max(waits_s.get(name, 0.0), row["cooling_s"], row.get("wait_s", 0.0))
    by_name = {}
    for name, those in states.items():
        state = worst(those)
        alike = those.count(state)
        by_name[name] = (state if alike == len(those) else f"{state}, {alike} of {len(those)}", waits_s[name])
    return by_name


def _waits(row: TimeBucket) -> str:
    if row.first_token_p50_s is None or row.first_token_p95_s is None:
        return "-"
    return f"p50 {row.first_token_p50_s:.2f} s, p95 {row.first_token_p95_s:.2f} s"
