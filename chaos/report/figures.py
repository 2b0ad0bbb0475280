"""What the live view and the report show, computed from a journal: requests over time, states, faults."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, log10

from dub5.chaos.report.axis import Axis, TimeSpan
from dub5.chaos.run.journal import AppliedFault, RequestResult, StatusSample
from dub5.chaos.run.judge import ClientOutcome
from dub5.chaos.run.verdict import percentile

COOLING = "cooling"  # no breaker is open, but a Retry-After has not passed
TOPS = (1, 2, 4, 6, 8, 10)  # their halves have one digit, too
WORSE = ("closed", COOLING, "half_open", "isolated", "open")  # from best to worst


@dataclass(frozen=True, slots=True)
class TimeBucket:
    """The requests that were planned within one stretch of time."""

    from_s: float
    until_s: float
    answered: Counter[str]  # by provider
    ended: Counter[ClientOutcome]
    first_token_p50_s: float | None
    first_token_p95_s: float | None

    @property
    def requests(self) -> int:
        return self.ended.total()

    @property
    def rate_per_s(self) -> float:
        return self.requests / (self.until_s - self.from_s)


@dataclass(frozen=True, slots=True)
class Strip:
    """One state of one target over some time."""

    name: str  # of the target; of its provider where that has only one
    provider: str
    state: str  # closed, half_open, open, isolated, cooling
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class FaultSeries:
    """One kind of fault at one provider, once or repeatedly."""

    provider: str
    label: str
    by: str
    spans: tuple[TimeSpan, ...]

    @property
    def from_s(self) -> float:
        return self.spans[0][0]

    @property
    def until_s(self) -> float:
        return max(until_s for _, until_s in self.spans)


def in_buckets(requests: Iterable[RequestResult], spans: Sequence[TimeSpan]) -> list[TimeBucket]:
    """Return one bucket per span, empty ones too. Requests after the last span count in the last."""
    starts = [from_s for from_s, _ in spans]
    rows: list[list[RequestResult]] = [[] for _ in spans]
    for result in requests:
        rows[max(0, bisect_right(starts, result.at_s) - 1)].append(result)
    return [bucket(*each, row) for each, row in zip(spans, rows, strict=True)]


def bucket(from_s: float, until_s: float, results: Sequence[RequestResult]) -> TimeBucket:
    """Return the bucket of some requests."""
    waits = [one.first_token_s for one in results if one.first_token_s is not None]
    return TimeBucket(
        from_s,
        until_s,
        Counter(one.provider for one in results if one.outcome is ClientOutcome.COMPLETE),
        Counter(one.outcome for one in results),
        percentile(waits, 0.5),
        percentile(waits, 0.95),
    )


def state_of(breaker: str, cooling_s: float) -> str:
    """Return one word for the state of a target."""
    return COOLING if breaker == "closed" and cooling_s > 0 else breaker


def worst(states: Iterable[str]) -> str:
    """Return the state that keeps most requests away; an unknown state is the worst."""
    return max(states, key=lambda state: WORSE.index(state) if state in WORSE else len(WORSE))


def strips(samples: Iterable[StatusSample], seconds: float) -> list[Strip]:
    """Join samples of equal state into strips, target by target."""
    made: dict[tuple[str, str], list[Strip]] = {}
    for sample in samples:
        at_s, state = max(0.0, sample.at_s), state_of(sample.breaker, sample.cooling_s)
        row = made.setdefault((sample.provider, sample.target), [])
        if row:
            row[-1] = _ending(row[-1], at_s)
        if not row or row[-1].state != state:
            row.append(Strip(sample.target, sample.provider, state, at_s, seconds))
    targets = Counter(provider for provider, _ in made)
    return [
        Strip(
            strip.name if targets[strip.provider] > 1 else strip.provider,
            strip.provider,
            strip.state,
            strip.from_s,
            strip.until_s,
        )
        for row in made.values()
        for strip in [*row[:-1], _ending(row[-1], seconds)]
    ]


def _ending(strip: Strip, until_s: float) -> Strip:
    return Strip(strip.name, strip.provider, strip.state, strip.from_s, until_s)


def visible(row: Iterable[Strip], axis: Axis, least_px: float) -> list[Strip]:
    """Return the strips of one target, with those joined that are too narrow to see; joined ones show the
    worst state."""
    made: list[Strip] = []
    narrow: list[Strip] = []
    for strip in row:
        wide = axis.x(strip.until_s) - axis.x(strip.from_s) >= least_px
        if wide and narrow:
            _join(made, narrow)
            narrow = []
        if wide:
            _join(made, [strip])
            continue
        narrow.append(strip)
        if axis.x(strip.until_s) - axis.x(narrow[0].from_s) >= least_px:
            _join(made, narrow)
            narrow = []
    if narrow:
        _join(made, narrow)
    return made


def _join(made: list[Strip], parts: Sequence[Strip]) -> None:
    """Append parts as one strip; merge it with the last strip of equal state."""
    first, state = parts[0], worst(part.state for part in parts)
    if made and made[-1].state == state:
        first = made.pop()
    made.append(Strip(first.name, first.provider, state, first.from_s, parts[-1].until_s))


def fault_series(windows: Iterable[AppliedFault], seconds: float, most: int) -> list[FaultSeries]:
    """Group faults by kind, in the order in which they began; those beyond `most` are one group."""
    made: dict[tuple[str, str], list[AppliedFault]] = {}
    for window in sorted(windows, key=lambda window: window.from_s):
        made.setdefault((window.provider, window.label), []).append(window)
    listed = [_one_series(provider, label, same, seconds) for (provider, label), same in made.items()]
    if len(listed) <= most:
        return listed
    rest = [span for series in listed[most - 1 :] for span in series.spans]
    label = f"{len(listed) - most + 1} more kinds of fault; the journal has them all"
    return [*listed[: most - 1], FaultSeries("", label, "", tuple(sorted(rest)))]


def _one_series(provider: str, label: str, windows: Sequence[AppliedFault], seconds: float) -> FaultSeries:
    ends = (seconds if window.until_s is None else window.until_s for window in windows)
    spans = tuple((window.from_s, until_s) for window, until_s in zip(windows, ends, strict=True))
    return FaultSeries(provider, label, ", ".join(dict.fromkeys(window.by for window in windows)), spans)


def during(ordered: Sequence[RequestResult], spans: Iterable[TimeSpan]) -> list[RequestResult]:
    """Return the requests that started within one of the spans, each once. `ordered`: by their start."""
    found: list[RequestResult] = []
    until = 0
    for from_s, until_s in sorted(spans):
        first = max(until, bisect_left(ordered, from_s, key=_start))
        until = max(first, bisect_left(ordered, until_s, key=_start))
        found += ordered[first:until]
    return found


def _start(result: RequestResult) -> float:
    return result.at_s


def round_top(most: float) -> float:
    """Return the top of an axis: the next number that is round, as is its half. `most` is above 0."""
    exponent = floor(log10(most))
    tops = (float(f"{top}e{exponent}") for top in TOPS)
    return next((top for top in tops if top >= most), float(f"1e{exponent + 1}"))
