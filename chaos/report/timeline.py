"""The picture of a run, as SVG: faults, who answered, breaker states, time to first token.

x is time, shared by all rows (axis.py); colours and dark mode come from the page's style (report.css)
"""

from collections.abc import Iterable, Iterator
from html import escape
from itertools import pairwise

from dub5.chaos.report.axis import CHAR_PX, axis, clock
from dub5.chaos.report.figures import (
    FaultSeries,
    Strip,
    TimeBucket,
    fault_series,
    in_buckets,
    round_top,
    strips,
    visible,
)
from dub5.chaos.report.svg import box, boxes, rect, short, text, torn
from dub5.chaos.run.journal import Journal
from dub5.chaos.run.judge import ClientOutcome

LEFT, LEFT_MAX, RIGHT, WIDTH = 84, 190, 14, 1080
ROW, BAR, BARS, RATES, LINES, GAP = 22, 15, 150, 34, 96, 40
FAULT_SERIES_MAX = 14
LEVEL_PX = 40.0  # a line is level along a wider bar
DEEP_PX, SHALLOW_PX, NARROW_PX = 3.0, 1.5, 30.0  # of a tear; of one next to a narrow plateau
MARK_PX = 4.0  # height of a mark, even for one request in a thousand
STRIP_PX, TOOLTIP_PX = 2.0, 12.0  # minimum width of a strip; of one with its own tooltip
INCOMPLETE = (
    ClientOutcome.DEGRADED,
    ClientOutcome.CANCELLED,
    ClientOutcome.CUT,
    ClientOutcome.FAILED,
    ClientOutcome.REFUSED,
    ClientOutcome.DISHONEST,
    ClientOutcome.HUNG,
)


class Picture:
    """Draws from the top down; `y` is where the next row begins."""

    def __init__(self, journal: Journal) -> None:
        scenario = journal.scenario
        self._names = list(scenario.providers)
        seconds = max(1, round(scenario.workload.seconds))
        self._strips = _by_name(strips(journal.samples, seconds), self._names)
        self._left = min(max(LEFT, 12 + CHAR_PX * max(map(len, self._strips), default=0)), LEFT_MAX)
        sparse = [
            (a, b) for a, b, rate_per_s in scenario.stretches if rate_per_s < scenario.workload.rate_per_s
        ]
        self._axis = axis(seconds, self._left, WIDTH - RIGHT, sparse)
        self._x = self._axis.x
        edges = {at_s for window in journal.windows for at_s in (window.from_s, window.until_s or seconds)}
        self._rows = in_buckets(journal.requests, self._axis.buckets(scenario.stretches, edges))
        # Counts compare if every bar stands for a second of the same load.
        self._counted = not sparse and all(row.until_s - row.from_s <= 1 for row in self._rows)
        self._fault_series = fault_series(journal.windows, seconds, FAULT_SERIES_MAX)
        self._y = 24
        self._shapes: list[str] = []
        self._words: list[str] = []  # drawn over all shapes

    def svg(self) -> str:
        """Return the whole picture."""
        top = self._y
        self._faults()
        self._answers()
        if not self._counted:
            self._rates()
            self._incomplete()
        self._states()
        self._waits()
        behind, tears = self._behind(top, self._y), self._tears(top, self._y)
        self._moments()
        size = f'viewBox="0 0 {WIDTH} {self._y}" role="img" aria-labelledby="picture-title"'
        contents = "Faults, answers by provider, breaker states and time to first token"
        title = f'<title id="picture-title">{contents}</title>'
        drawn = "".join((*behind, *self._shapes, *tears, *self._words))
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{title}{drawn}</svg>'

    def _add(self, *shapes: str) -> None:
        self._shapes += shapes

    def _say(self, words: str) -> None:
        self._words.append(words)

    def _heading(self, words: str) -> None:
        self._say(text(words, 0, self._y, kind="heading"))
        self._y += 10

    def _name(self, name: str) -> None:
        self._say(text(short(name, self._left - 8), self._left - 8, self._y + 12, "end"))

    def _kind(self, provider: str) -> str:
        return f"p{self._names.index(provider) % 6 if provider in self._names else 6}"

    def _behind(self, top: int, bottom: int) -> Iterator[str]:
        for series in self._fault_series:
            yield boxes("shade", self._boxes(series, top, bottom - top))
        for piece in self._axis.pieces:
            if piece.plateau:
                yield boxes("plateau", box(piece.from_x, piece.until_x - piece.from_x, top, bottom - top))

    def _tears(self, top: int, bottom: int) -> Iterator[str]:
        narrow = any(p.plateau and p.until_x - p.from_x <= NARROW_PX for p in self._axis.pieces)
        for before, after in pairwise(self._axis.pieces):
            if before.plateau or after.plateau:
                yield torn(after.from_x, top, bottom, SHALLOW_PX if narrow else DEEP_PX)

    def _boxes(self, series: FaultSeries, y: float, height: float) -> str:
        ends = ((self._x(from_s), self._x(until_s)) for from_s, until_s in series.spans)
        return "".join(box(from_x, max(1.0, until_x - from_x), y, height) for from_x, until_x in ends)

    def _faults(self) -> None:
        self._heading("Faults")
        for series in self._fault_series:
            self._fault(series)
        self._y += GAP

    def _fault(self, series: FaultSeries) -> None:
        """Draw one kind of fault: a row of bars, with text after, before or above them, where there is
        room."""
        times = f" ({len(series.spans)} times)" if len(series.spans) > 1 else ""
        by = f", by {series.by}" if series.by else ""
        right = WIDTH - RIGHT
        label = short(series.label, right - self._left - CHAR_PX * len(times)) + times
        from_x, until_x, width = self._x(series.from_s), self._x(series.until_s), CHAR_PX * len(label)
        down = 0
        if width <= right - until_x - 6:
            words = text(label, until_x + 6, self._y + 12)
        elif width <= from_x - self._left - 6:
            words = text(label, from_x - 6, self._y + 12, "end")
        else:
            words, down = text(label, max(self._left, min(from_x, right - width)), self._y + 12), 17
        shapes = self._boxes(series, self._y + down, BAR)
        self._add(boxes(self._kind(series.provider), shapes, series.label + times + by))
        self._say(words)
        self._y += ROW + down

    def _answers(self) -> None:
        if self._counted:
            self._heading("Requests per second, by the provider that answered")
            most = float(max((row.requests for row in self._rows), default=1))
            most = round_top(max(2, most))
            marks = [(most, f"{most:g}"), (most / 2, f"{most / 2:g}"), (0.0, "0")]
        else:
            self._heading("Share of requests, by the provider that answered")
            most, marks = 1.0, [(1.0, "100 %"), (0.5, "50 %"), (0.0, "0")]
        for row in self._rows:
            self._bar(row, BARS / (most if self._counted else max(1, row.requests)))
        self._scale(BARS, marks, most)
        self._y += BARS + GAP

    def _bar(self, row: TimeBucket, height: float) -> None:
        """Draw one stretch of time; `height` is that of one request."""
        x, width, y = *self._across(row), float(self._y + BARS)
        when, of = (f"second {row.from_s:g}", "") if self._counted else (_when(row), f" of {row.requests}")
        for kind, count, what in self._stack(row):
            y -= height * count
            self._add(rect(kind, x, width, y, height * count, f"{when}: {what} {count}{of}"))

    def _across(self, row: TimeBucket) -> tuple[float, float]:
        """Return x and width of a bar. Counts are spaced like things that are counted; shares adjoin."""
        x, width = self._x(row.from_s), self._x(row.until_s) - self._x(row.from_s)
        return (x + 0.5, max(1.0, width - 1)) if self._counted else (x, width)

    def _stack(self, row: TimeBucket) -> Iterator[tuple[str, int, str]]:
        """Yield the pieces of one bar, from the bottom up."""
        for name in [*self._names, *sorted(row.answered.keys() - set(self._names))]:
            if count := row.answered[name]:
                yield self._kind(name), count, f"{name} answered"
        for outcome in INCOMPLETE:
            if count := row.ended[outcome]:
                yield outcome.value, count, outcome.value

    def _rates(self) -> None:
        """Draw the request rate: a share of three requests means less than one of three hundred."""
        self._y -= 12
        self._heading("Requests per second")
        most = round_top(max((row.rate_per_s for row in self._rows), default=0.0) or 1.0)
        shapes = ""
        for row in self._rows:
            x, height = self._x(row.from_s), RATES * row.rate_per_s / most
            shapes += box(x, self._x(row.until_s) - x, self._y + RATES - height, height) if height else ""
        self._add(boxes("rate", shapes))
        self._scale(RATES, [(most, f"{most:g}"), (0.0, "0")], most)
        self._y += RATES + GAP

    def _incomplete(self) -> None:
        """Draw one row per other outcome, as a small share is too thin to see in the bars."""
        met = [outcome for outcome in INCOMPLETE if any(row.ended[outcome] for row in self._rows)]
        if not met:
            return
        self._heading("Requests without a complete answer")
        for outcome in met:
            self._name(outcome.value)
            self._line(self._y + BAR)
            shapes = "".join(self._mark(row, row.ended[outcome]) for row in self._rows if row.ended[outcome])
            total = sum(row.ended[outcome] for row in self._rows)
            self._add(boxes(outcome.value, shapes, f"{outcome.value}: {total} in all"))
            self._y += ROW
        self._y += GAP

    def _mark(self, row: TimeBucket, count: int) -> str:
        """Return a mark that is always visible, and higher for a larger share."""
        (x, width), height = self._across(row), MARK_PX + (BAR - MARK_PX) * count / row.requests
        return box(x, max(2.0, width), self._y + BAR - height, height)

    def _states(self) -> None:
        if not any(self._strips.values()):
            return
        self._heading("Circuit breaker of each target")
        for name, row in self._strips.items():
            self._name(name)
            shown = visible(row, self._axis, STRIP_PX)
            for state in dict.fromkeys(strip.state for strip in shown):
                self._add(self._narrow(state, [s for s in shown if s.state == state and not self._roomy(s)]))
            self._add(*(self._strip(strip) for strip in shown if self._roomy(strip)))
            self._y += ROW
        self._y += GAP

    def _roomy(self, strip: Strip) -> bool:
        return self._x(strip.until_s) - self._x(strip.from_s) >= TOOLTIP_PX

    def _narrow(self, state: str, same: Iterable[Strip]) -> str:
        ends = ((self._x(strip.from_s), self._x(strip.until_s)) for strip in same)
        shapes = "".join(box(from_x, max(0.5, until_x - from_x), self._y, BAR) for from_x, until_x in ends)
        return boxes(f"s-{escape(state)}", shapes, _words(state))

    def _strip(self, strip: Strip) -> str:
        x, width = self._x(strip.from_s), self._x(strip.until_s) - self._x(strip.from_s)
        words = _words(strip.state)
        if self._counted:
            when = f"from {strip.from_s:.1f} to {strip.until_s:.1f} s"
        else:
            when = f"from {clock(strip.from_s)} to {clock(strip.until_s)}"
        shape = rect(f"s-{escape(strip.state)}", x, width, self._y, BAR, f"{strip.name}: {words} {when}")
        if width >= len(words) * CHAR_PX + 8:
            self._say(text(words, x + 5, self._y + 12, kind="pale" if strip.state == "closed" else "on"))
        return shape

    def _waits(self) -> None:
        waits = [row.first_token_p95_s for row in self._rows if row.first_token_p95_s is not None]
        if not waits:
            return
        self._heading("Time to first token of streams: p50 (thick), p95 (thin)")
        top_s = round_top(max(0.5, *waits))
        bottom = self._y + LINES
        p95 = [row.first_token_p95_s for row in self._rows]
        for kind, values in (("p95", p95), ("p50", [row.first_token_p50_s for row in self._rows])):
            points = " ".join(
                f"{x:.1f},{bottom - LINES * value / top_s:.1f}"
                for row, value in zip(self._rows, values, strict=True)
                if value is not None
                for x in self._corners(row)
            )
            self._add(f'<polyline class="{kind}" points="{points}"/>')
        self._scale(LINES, [(top_s, f"{top_s:g} s"), (top_s / 2, f"{top_s / 2:g} s"), (0.0, "0")], top_s)
        self._y = bottom + 18

    def _corners(self, row: TimeBucket) -> tuple[float, ...]:
        """Return where a line passes its value: in the middle, or at both ends of a wide bar."""
        x, until_x = self._x(row.from_s), self._x(row.until_s)
        return (x, until_x) if until_x - x >= LEVEL_PX else ((x + until_x) / 2,)

    def _scale(self, height: int, marks: Iterable[tuple[float, str]], most: float) -> None:
        for value, words in marks:
            y = self._y + height * (1 - value / most)
            self._line(y)
            self._say(text(words, self._left - 8, y + 4, "end"))

    def _line(self, y: float) -> None:
        self._add(
            f'<line class="grid" x1="{self._left:.1f}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )

    def _moments(self) -> None:
        """Draw the axis: moments below wide pieces, lengths below narrow ones."""
        for tick in self._axis.ticks():
            self._say(text(tick.label, tick.x, self._y, "middle"))
        for long in (lengths := self._axis.lengths()):
            self._say(text(long.label, long.x, self._y + 20 + 16 * long.row, "middle", "break"))
        self._y += 22 + max((20 + 16 * long.row for long in lengths), default=0)


def _by_name(made: list[Strip], providers: list[str]) -> dict[str, list[Strip]]:
    """Return strips by target, targets of a provider together; a provider without samples has an empty
    row."""
    held: dict[str, list[Strip]] = {}
    for provider in dict.fromkeys([*providers, *(strip.provider for strip in made)]):
        same = [strip for strip in made if strip.provider == provider]
        for strip in same:
            held.setdefault(strip.name, []).append(strip)
        if not same:
            held[provider] = []
    return held


def _when(row: TimeBucket) -> str:
    return f"{clock(row.from_s)} to {clock(row.until_s)}"


def _words(state: str) -> str:
    return state.replace("_", "-")
