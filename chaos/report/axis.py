"""The time axis of a picture. A run of minutes has one scale. A run of hours is wide where the load is dense,
around each change, and narrow on the plateaus between:

0 ---- wide ----|~ 14 min ~|---- wide ----|~ 1 h 29 min ~|---- wide ---- seconds
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, pairwise

BREAK_S = 300.0  # shorter plateaus are not narrowed
BREAKS_MAX = 22
PLATEAU_PX, PLATEAUS_PX = 74.0, 380.0  # of one, and of all of them
BUCKET_PX = 3.5
FEW = 8  # requests that a bar needs where the load is sparse
TICK_PX = 60.0  # from one label to the next, at least
CHAR_PX = 6.3  # of text, about
EDGE_PX = 14.0  # by which a label may exceed the right end
TICK_CHAR_PX = 7.0  # of a label, at most
_MIN, _H = 60, 3600
_S = (1, 2, 5, 10, 15, 30)
ROUND_S = (*_S, *(n * _MIN for n in _S), *(n * _H for n in (1, 2, 3, 6, 12, 24, 48, 168)))

TimeSpan = tuple[float, float]
Stretch = tuple[float, float, float]  # of the load: from, until, requests a second


def clock(at_s: float) -> str:
    """Format a moment or length to the second: 45 s, 1 min 30 s, 2 h, 2 h 5 min 10 s."""
    whole = round(at_s)
    parts = ((whole // _H, "h"), (whole % _H // _MIN, "min"), (whole % _MIN, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"


def span(length_s: float) -> str:
    """Format a length with a precision that suits it: 7 s, 4 min 10 s, 1 h 29 min, 60 h."""
    step = 1 if length_s < _H else _MIN if length_s < 48 * _H else _H
    return clock(round(length_s / step) * step)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of time with one scale."""

    from_s: float
    until_s: float
    from_x: float
    until_x: float
    plateau: bool = False

    @property
    def px_per_s(self) -> float:
        return (self.until_x - self.from_x) / (self.until_s - self.from_s)

    @property
    def bucket_s(self) -> float:
        """Return the length of one bar: a round time that is wide enough to see."""
        fits = (float(step) for step in ROUND_S if step * self.px_per_s >= BUCKET_PX)
        return next(fits, self.until_s - self.from_s)


@dataclass(frozen=True, slots=True)
class Tick:
    """A label on the axis; `x` is its middle."""

    at_s: float
    x: float
    label: str
    row: int = 0

    @property
    def from_x(self) -> float:
        return self.x - len(self.label) * TICK_CHAR_PX / 2

    @property
    def until_x(self) -> float:
        return self.x + len(self.label) * TICK_CHAR_PX / 2


def axis(seconds: float, left: float, right: float, plateaus: Sequence[TimeSpan] = ()) -> "Axis":
    """Return the axis of a run of `seconds`, from `left` to `right`. `plateaus`: where little happens."""
    seconds = max(1.0, seconds)
    narrow = worth_a_break(plateaus, seconds)
    bounds = [0.0, *(at_s for plateau in narrow for at_s in plateau), seconds]
    spans = [pair for pair in pairwise(bounds) if pair[1] > pair[0]]
    each_px = min(PLATEAU_PX, PLATEAUS_PX / len(narrow)) if narrow else 0.0
    room_px = right - left - each_px * len(narrow)
    # Weighted by the root of the length: a minute around one change stays visible next to hours.
    weights = [0.0 if pair in narrow else math.sqrt(pair[1] - pair[0]) for pair in spans]
    pieces: list[Piece] = []
    x = left
    for (from_s, until_s), weight in zip(spans, weights, strict=True):
        width = room_px * weight / sum(weights) if weight else each_px
        until_x = right if until_s == seconds else x + width
        pieces.append(Piece(from_s, until_s, x, until_x, plateau=not weight))
        x = until_x
    return Axis(tuple(pieces))


def worth_a_break(plateaus: Sequence[TimeSpan], seconds: float) -> list[TimeSpan]:
    """Return the plateaus to draw narrow: the longest, and few; of two equally long ones both or none."""
    inside = [(max(0.0, a), min(b, seconds)) for a, b in sorted(plateaus)]
    long = [(a, b) for a, b in inside if b - a > BREAK_S]
    if sum(b - a for a, b in long) >= seconds:
        return []  # nothing would remain to be drawn wide
    for least in sorted({round((b - a) / _MIN) for a, b in long}):
        chosen = [(a, b) for a, b in long if round((b - a) / _MIN) >= least]
        if len(chosen) <= BREAKS_MAX:
            return chosen
    return []


@dataclass(frozen=True)
class Axis:
    """Pieces from left to right."""

    pieces: tuple[Piece, ...]

    @property
    def seconds(self) -> float:
        return self.pieces[-1].until_s

    @property
    def broken(self) -> bool:
        return any(piece.plateau for piece in self.pieces)

    @cached_property
    def _starts(self) -> list[float]:
        return [piece.from_s for piece in self.pieces]

    def x(self, at_s: float) -> float:
        """Return where a moment is drawn; moments outside the run are drawn at its nearer end."""
        at_s = min(max(at_s, 0.0), self.seconds)
        piece = self.pieces[bisect_right(self._starts, at_s) - 1]
        if at_s >= piece.until_s:
            return piece.until_x  # exact, without rounding
        return min(piece.from_x + (at_s - piece.from_s) * piece.px_per_s, piece.until_x)

    def buckets(self, load: Sequence[Stretch], edges: Iterable[float] = ()) -> list[TimeSpan]:
        """Cut the run into bars, at the `edges` if there is room. No bar is too narrow to see or stands for
        very few requests."""
        densest = max(rate_per_s for _, _, rate_per_s in load)
        from_s, until_s, rate_per_s = load[-1]
        load = (*load[:-1], (from_s, max(until_s, self.seconds), rate_per_s))
        edges = sorted(set(edges))
        made: list[TimeSpan] = []
        for piece in self.pieces:
            least_s = piece.bucket_s
            cuts = [at_s for at_s in edges if least_s > 1 and piece.from_s < at_s < piece.until_s]
            for block in _blocks(piece, cuts, least_s):
                parts: list[TimeSpan] = []
                for stretch in load:
                    few_s = FEW / stretch[2] if stretch[2] < densest else 0.0
                    parts += _equal(block, stretch, max(least_s, few_s))
                made += _joined(parts, least_s)
        return made

    def ticks(self) -> list[Tick]:
        """Return labels of round moments that do not overlap; plateaus have none."""
        made: list[Tick] = []
        for whole in (tick for piece in self.pieces if not piece.plateau for tick in _ticks(piece)):
            tick = self._inside(whole)
            if not made or tick.from_x > made[-1].until_x:
                made.append(tick)
        return made

    def lengths(self) -> list[Tick]:
        """Return a label with the length of each plateau, in the first row with room below the moments."""
        made: list[Tick] = []
        ends_px: dict[int, float] = {}
        for piece in self.pieces:
            if piece.plateau:
                x, label = (piece.from_x + piece.until_x) / 2, span(piece.until_s - piece.from_s)
                tick = self._inside(Tick(piece.from_s, x, label))
                row = next(n for n in count() if tick.from_x > ends_px.get(n, -math.inf))
                ends_px[row] = tick.until_x
                made.append(Tick(tick.at_s, tick.x, label, row))
        return made

    def _inside(self, tick: Tick) -> Tick:
        over_px = max(0.0, tick.until_x - self.pieces[-1].until_x - EDGE_PX)
        return Tick(tick.at_s, tick.x - over_px, tick.label)


def _blocks(piece: Piece, cuts: Sequence[float], least_s: float) -> list[TimeSpan]:
    """Return the stretches between cuts that are not too close. The first and last may be short."""
    if not cuts:
        return [(piece.from_s, piece.until_s)]
    between = list(pairwise(cuts))
    return [(piece.from_s, cuts[0]), *_joined(between, least_s), (cuts[-1], piece.until_s)]


def _equal(block: TimeSpan, stretch: Stretch, least_s: float) -> list[TimeSpan]:
    """Return the part of a stretch within the block, in equal parts of at least `least_s`, or as one."""
    from_s, until_s = max(block[0], stretch[0]), min(block[1], stretch[1])
    if from_s >= until_s:
        return []
    parts = max(1, int((until_s - from_s) / least_s + 1e-9))
    return list(pairwise([from_s + (until_s - from_s) * n / parts for n in range(parts)] + [until_s]))


def _joined(parts: Sequence[TimeSpan], least_s: float) -> list[TimeSpan]:
    """Join neighbours until each has at least `least_s`; a rest at the end joins the last one."""
    if not parts:
        return []
    made: list[TimeSpan] = []
    begins_s = parts[0][0]
    for _, until_s in parts:
        if until_s - begins_s >= least_s - 1e-9:
            made.append((begins_s, until_s))
            begins_s = until_s
    if begins_s < parts[-1][1]:
        first_s = made.pop()[0] if made else begins_s
        made.append((first_s, parts[-1][1]))
    return made


def _ticks(piece: Piece) -> list[Tick]:
    """Return ticks at the smallest round step with room for labels; at least one if a round moment is
    inside."""
    best = range(0)
    for step in ROUND_S[2:]:
        first, last = math.ceil(piece.from_s / step), math.floor(piece.until_s / step)
        moments = range(first * step, last * step + 1, step)
        if not moments:
            break
        best, apart_px = moments, step * piece.px_per_s
        if apart_px >= TICK_PX and apart_px >= (1 + max(len(clock(at_s)) for at_s in moments)) * TICK_CHAR_PX:
            return [_tick(piece, at_s) for at_s in moments]
    return [_tick(piece, at_s) for at_s in best[len(best) // 2 :][:1]]


def _tick(piece: Piece, at_s: int) -> Tick:
    label = f"{at_s} s" if piece.until_s <= 2 * _MIN else clock(at_s)
    return Tick(at_s, piece.from_x + (at_s - piece.from_s) * piece.px_per_s, label)
