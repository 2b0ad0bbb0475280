"""What the live view and the report show, worked out from a journal: counts by second, strips of states, the story."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from chaos.journal import Journal, Sample, Seen, Window
from chaos.judge import Outcome
from chaos.verdict import percentile

COOLING = "cooling"  # no breaker is open, but the provider has asked to be left alone


@dataclass(frozen=True, slots=True)
class Second:
    """The requests that were to start within one second."""

    at_s: int
    answered: Counter[str]  # by provider
    ended: Counter[Outcome]
    first_token_p50_s: float | None
    first_token_p95_s: float | None


@dataclass(frozen=True, slots=True)
class Strip:
    """A provider's state over some time."""

    provider: str
    state: str  # closed, half_open, open, isolated, cooling
    from_s: float
    until_s: float


def by_second(requests: Iterable[Seen], seconds: int) -> list[Second]:
    """One row for each second of the run, empty ones too."""
    rows: list[list[Seen]] = [[] for _ in range(seconds)]
    for seen in requests:
        rows[min(int(seen.at_s), seconds - 1)].append(seen)
    return [second(at_s, row) for at_s, row in enumerate(rows)]


def second(at_s: int, seen: list[Seen]) -> Second:
    """One row."""
    waits = [one.first_token_s for one in seen if one.first_token_s is not None]
    return Second(
        at_s,
        Counter(one.provider for one in seen if one.outcome is Outcome.COMPLETE),
        Counter(one.outcome for one in seen),
        percentile(waits, 0.5),
        percentile(waits, 0.95),
    )


def state_of(breaker: str, cooling_s: float) -> str:
    """One word for how a provider stands."""
    return COOLING if breaker == "closed" and cooling_s > 0 else breaker


def strips(samples: Iterable[Sample], seconds: float) -> list[Strip]:
    """Samples joined while nothing changes."""
    made: dict[str, list[Strip]] = {}
    for sample in samples:
        at_s, state = max(0.0, sample.at_s), state_of(sample.breaker, sample.cooling_s)
        row = made.setdefault(sample.provider, [])
        if row:
            row[-1] = Strip(sample.provider, row[-1].state, row[-1].from_s, at_s)
        if not row or row[-1].state != state:
            row.append(Strip(sample.provider, state, at_s, seconds))
    ends = [
        row[:-1] + [Strip(row[-1].provider, row[-1].state, row[-1].from_s, seconds)] for row in made.values()
    ]
    return [strip for row in ends for strip in row]


def story(journal: Journal) -> Iterator[str]:
    """What happened, in sentences for somebody who has never seen this before."""
    names = ", ".join(journal.scenario.providers)
    rate = journal.scenario.workload.rate_per_s
    yield (
        f"{len(journal.requests)} chat requests went to one service, {rate:g} a second, "
        f"most of them streamed. Behind it stand {len(journal.scenario.providers)} providers: {names}."
    )
    for window in journal.windows:
        yield _during(journal, window)
    bad = [seen for seen in journal.requests if seen.outcome is not Outcome.COMPLETE]
    whole = len(journal.requests) - len(bad)
    yield f"In the end {whole} of {len(journal.requests)} requests got their whole answer."
    for outcome, count in Counter(seen.outcome for seen in bad).items():
        yield f"{count} {MEANING[outcome]}"


MEANING = {
    Outcome.DEGRADED: "got a substitute that is labelled as one.",
    Outcome.REFUSED: "were refused with a reason.",
    Outcome.FAILED: "failed with an honest error before the first word.",
    Outcome.CUT: "broke off after the first words, and the client was told so: no cut answer was passed off as whole.",
    Outcome.CANCELLED: "were given up by their client.",
    Outcome.DISHONEST: "looked like an answer and were none, or ended without a word. This must never happen.",
    Outcome.HUNG: "had not ended by their deadline. This must never happen.",
}


def _during(journal: Journal, window: Window) -> str:
    until_s = journal.seconds if window.until_s is None else window.until_s
    inside = [seen for seen in journal.requests if window.from_s <= seen.at_s < until_s]
    answered = Counter(seen.provider for seen in inside if seen.outcome is Outcome.COMPLETE)
    who = ", ".join(f"{name} {count}" for name, count in answered.most_common()) or "nobody"
    lost = len(inside) - answered.total()
    end = "all of them whole" if not lost else f"{lost} not whole"
    return (
        f"From second {window.from_s:.0f} to {until_s:.0f}: {window.label}. "
        f"{len(inside)} requests came in that time, {end}; answered by: {who}."
    )
