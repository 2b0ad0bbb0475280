"""A run told in sentences for somebody who has never seen this before. However long it was, they are few."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from dub5.chaos.report.axis import clock, span
from dub5.chaos.report.figures import FaultSeries, bucket, during, fault_series
from dub5.chaos.run.journal import Journal, RequestResult
from dub5.chaos.run.judge import ClientOutcome
from dub5.chaos.scenario.model import Workload

LONG_S = 300.0  # from here on, minutes and hours
FAULT_SERIES_MAX = 14
NOTES_MAX = 10
MEANING = {
    ClientOutcome.DEGRADED: "got a substitute that is labelled as one.",
    ClientOutcome.REFUSED: "were refused with a reason.",
    ClientOutcome.FAILED: "failed with an honest error before the first word.",
    ClientOutcome.CUT: "broke off after the first words, and the client was told so: no cut answer was passed off as whole.",
    ClientOutcome.CANCELLED: "were given up by their client.",
    ClientOutcome.DISHONEST: "looked like an answer and were none, or ended without a word. This must never happen.",
    ClientOutcome.HUNG: "had not ended by their deadline. This must never happen.",
}


def narrative(journal: Journal) -> Iterator[str]:
    """What was asked, what went wrong meanwhile and what people noticed, and how it ended."""
    seconds = journal.scenario.workload.seconds
    ordered = sorted(journal.requests, key=lambda result: result.at_s)
    yield _asked(journal)
    for series in fault_series(journal.windows, journal.seconds, FAULT_SERIES_MAX):
        yield _during(series, during(ordered, series.spans), long=seconds > LONG_S)
    bad = [result for result in journal.requests if result.outcome is not ClientOutcome.COMPLETE]
    whole = len(journal.requests) - len(bad)
    yield f"In the end {whole} of {len(journal.requests)} requests got their whole answer."
    for outcome, count in Counter(result.outcome for result in bad).items():
        yield f"{count} {MEANING[outcome]}"
    if seconds > LONG_S and (waits := waited(ordered)):
        sparse = journal.scenario.workload.plateau_rate_per_s is not None
        yield f"Of all streams{', most of them sent around a change,' if sparse else ''} {waits}."


def notes(journal: Journal) -> Iterator[str]:
    """What the run has to say of itself; the same thing once, and not without end."""
    told = Counter(journal.notes)
    for note, count in list(told.items())[:NOTES_MAX]:
        yield f"{note} ({count} times)" if count > 1 else note
    if len(told) > NOTES_MAX:
        yield f"And {len(told) - NOTES_MAX} more notes, in the journal."


def waited(requests: Iterable[RequestResult]) -> str:
    """How long people looked at nothing; empty if nobody's stream had a first word."""
    row = bucket(0.0, 1.0, list(requests))
    if row.first_token_p50_s is None or row.first_token_p95_s is None:
        return ""
    return (
        f"half had their first word within {row.first_token_p50_s:.2f} s, "
        f"95 % within {row.first_token_p95_s:.2f} s"
    )


def _asked(journal: Journal) -> str:
    scenario, asked = journal.scenario, journal.requests
    names = ", ".join(scenario.providers)
    over = f" over {span(scenario.workload.seconds)}" if scenario.workload.seconds > LONG_S else ""
    stands = f"Behind it stand {len(scenario.providers)} providers: {names}."
    routes = Counter(result.route for result in asked if result.route)
    if len(routes) > 1:
        told = ", ".join(f"{name} ({count})" for name, count in routes.most_common(8))
        stands = f"They asked for {len(routes)} routes: {told}. {stands}"
    return (
        f"{len(asked)} chat requests went to one service{over}, {_rate(scenario.workload)}, "
        f"{_streamed(asked)} of them streamed. {stands}"
    )


def _rate(load: Workload) -> str:
    dense = f"{load.rate_per_s:g} a second"
    if load.plateau_rate_per_s is None:
        return dense
    return f"{dense} around each change and {load.plateau_rate_per_s:g} a second while nothing changed"


def _streamed(requests: Sequence[RequestResult]) -> str:
    share = sum(result.stream for result in requests) / max(1, len(requests))
    return "all" if share == 1 else "most" if share > 0.5 else "some" if share else "none"


def _during(series: FaultSeries, inside: Sequence[RequestResult], *, long: bool) -> str:
    answered = Counter(result.provider for result in inside if result.outcome is ClientOutcome.COMPLETE)
    who = ", ".join(f"{name} {count}" for name, count in answered.most_common()) or "nobody"
    lost = len(inside) - answered.total()
    end = "all of them whole" if not lost else f"{lost} not whole"
    waits = f" Of the streams among them {told}." if long and (told := waited(inside)) else ""
    return (
        f"{_when(series, long=long)}: {series.label}. "
        f"{len(inside)} requests came in that time, {end}; answered by: {who}.{waits}"
    )


def _when(series: FaultSeries, *, long: bool) -> str:
    said = clock if long else _second
    ends = f"{said(series.from_s)} to {said(series.until_s)}"
    if len(series.spans) == 1:
        return f"From {ends}, for {span(series.until_s - series.from_s)}" if long else f"From second {ends}"
    lengths = [until_s - from_s for from_s, until_s in series.spans]
    each = (
        f"for {span(lengths[0])} each"
        if max(lengths) - min(lengths) < 1
        else f"for {span(sum(lengths))} in all"
    )
    return f"{len(lengths)} times from {'' if long else 'second '}{ends}, {each}"


def _second(at_s: float) -> str:
    return f"{at_s:.0f}"
