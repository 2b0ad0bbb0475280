"""A run told in a few sentences, for a reader who has never seen one."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from dub5.chaos.report.axis import clock, span
from dub5.chaos.report.figures import FaultSeries, bucket, during, fault_series
from dub5.chaos.run.journal import Journal, RequestResult
from dub5.chaos.run.judge import ClientOutcome
from dub5.chaos.scenario.model import Workload

LONG_S = 300.0  # longer runs are described in minutes and hours
FAULT_SERIES_MAX = 14
NOTES_MAX = 10
MEANING = {
    ClientOutcome.DEGRADED: "got a fallback answer, labelled as one.",
    ClientOutcome.REFUSED: "were refused with a reason.",
    ClientOutcome.FAILED: "failed with an error before the first token.",
    ClientOutcome.CUT: "were cut after the first tokens, with an error event.",
    ClientOutcome.CANCELLED: "were cancelled by their client.",
    ClientOutcome.DISHONEST: "looked complete and were not, or had no honest end. This must never happen.",
    ClientOutcome.HUNG: "had not ended by their deadline. This must never happen.",
}


def narrative(journal: Journal) -> Iterator[str]:
    """Yield the load, each fault with its impact, and the outcome."""
    seconds = journal.scenario.workload.seconds
    ordered = sorted(journal.requests, key=lambda result: result.at_s)
    yield _load(journal)
    for series in fault_series(journal.windows, journal.seconds, FAULT_SERIES_MAX):
        yield _during(series, during(ordered, series.spans), long=seconds > LONG_S)
    bad = [result for result in journal.requests if result.outcome is not ClientOutcome.COMPLETE]
    complete = len(journal.requests) - len(bad)
    yield f"In the end {complete} of {len(journal.requests)} requests got a complete answer."
    for outcome, count in Counter(result.outcome for result in bad).items():
        yield f"{count} {MEANING[outcome]}"
    if seconds > LONG_S and (waits := first_tokens_text(ordered)):
        sparse = journal.scenario.workload.plateau_rate_per_s is not None
        yield f"Of all streams{', most of them around a change,' if sparse else ''} {waits}."


def notes(journal: Journal) -> Iterator[str]:
    """Yield the notes of the run, each once, and at most `NOTES_MAX`."""
    counted = Counter(journal.notes)
    for note, count in list(counted.items())[:NOTES_MAX]:
        yield f"{note} ({count} times)" if count > 1 else note
    if len(counted) > NOTES_MAX:
        yield f"And {len(counted) - NOTES_MAX} more notes, in the journal."


def first_tokens_text(requests: Iterable[RequestResult]) -> str:
    """Describe the time to first token; empty if no stream had one."""
    row = bucket(0.0, 1.0, list(requests))
    if row.first_token_p50_s is None or row.first_token_p95_s is None:
        return ""
    return (
        f"half had their first token within {row.first_token_p50_s:.2f} s, "
        f"95 % within {row.first_token_p95_s:.2f} s"
    )


def _load(journal: Journal) -> str:
    scenario, requests = journal.scenario, journal.requests
    names = ", ".join(scenario.providers)
    over = f" over {span(scenario.workload.seconds)}" if scenario.workload.seconds > LONG_S else ""
    providers = f"The service has {len(scenario.providers)} providers: {names}."
    routes = Counter(result.route for result in requests if result.route)
    if len(routes) > 1:
        counts = ", ".join(f"{name} ({count})" for name, count in routes.most_common(8))
        providers = f"They used {len(routes)} routes: {counts}. {providers}"
    return (
        f"{len(requests)} chat requests went to one service{over}, {_rate(scenario.workload)}, "
        f"{_streamed(requests)} of them streamed. {providers}"
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
    who = ", ".join(f"{name} {count}" for name, count in answered.most_common()) or "no provider"
    lost = len(inside) - answered.total()
    end = "all of them complete" if not lost else f"{lost} not complete"
    waits = (
        f" Of the streams among them {first_tokens}."
        if long and (first_tokens := first_tokens_text(inside))
        else ""
    )
    return (
        f"{_when(series, long=long)}: {series.label}. "
        f"{len(inside)} requests came in that time, {end}; answered by: {who}.{waits}"
    )


def _when(series: FaultSeries, *, long: bool) -> str:
    moment = clock if long else _second
    period = f"{moment(series.from_s)} to {moment(series.until_s)}"
    if len(series.spans) == 1:
        return (
            f"From {period}, for {span(series.until_s - series.from_s)}" if long else f"From second {period}"
        )
    lengths = [until_s - from_s for from_s, until_s in series.spans]
    each = (
        f"for {span(lengths[0])} each"
        if max(lengths) - min(lengths) < 1
        else f"for {span(sum(lengths))} in all"
    )
    return f"{len(lengths)} times from {'' if long else 'second '}{period}, {each}"


def _second(at_s: float) -> str:
    return f"{at_s:.0f}"
