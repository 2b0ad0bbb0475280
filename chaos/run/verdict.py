"""The verdict on a run: did it run, did it hold, did it recover? Pure: a journal in, one line per expectation
out.

run       the load was as planned, every fault was applied and met, all was complete before the first fault
hold      the expectations of [expect], over all requests
recover   within recover_s of the last fault's end: all requests complete, the first provider answers again
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from dub5.chaos.run.journal import AppliedFault, Journal, RequestResult
from dub5.chaos.run.judge import ClientOutcome

RATE_SHARE_MIN = 0.98  # of the planned requests must be sent in time, or the run proves nothing
LATE_S_MAX = 0.5  # a request sent later than this is not in time
UNAFFECTED_SHARE = 0.99  # of the requests, when the impact of a fault is over
SETTLE_S = 1.0  # a request sent just before the first fault may still meet it


class Question(StrEnum):
    """The three questions that a verdict answers separately."""

    RAN = "did it run"
    HELD = "did it hold"
    RECOVERED = "did it recover"


@dataclass(frozen=True, slots=True)
class VerdictLine:
    """One expectation and what was observed."""

    question: Question
    expectation: str
    result: str
    ok: bool


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """All lines of a verdict."""

    lines: tuple[VerdictLine, ...]

    @property
    def ok(self) -> bool:
        return all(line.ok for line in self.lines)

    def answer(self, question: Question) -> bool:
        """Say whether every line of one question holds."""
        return all(line.ok for line in self.lines if line.question is question)


def judge_run(journal: Journal) -> RunVerdict:
    """Return the verdict on a run."""
    return RunVerdict((*_ran(journal), *_held(journal), *_recovered(journal)))


def _ran(journal: Journal) -> Iterable[VerdictLine]:
    in_time = sum(result.late_s <= LATE_S_MAX for result in journal.requests)
    yield VerdictLine(
        Question.RAN,
        f"{percent(RATE_SHARE_MIN)} of the {journal.planned} planned requests sent in time",
        f"{in_time}",
        ok=in_time >= RATE_SHARE_MIN * journal.planned > 0,
    )
    faults = journal.scenario.faults
    yield VerdictLine(
        Question.RAN,
        "every fault of the scenario applied",
        f"{len(journal.windows)} of {len(faults)}",
        ok=len(journal.windows) == len(faults),
    )
    # Faults of connections and of the environment are in no ledger.
    answers = [
        fault for fault in faults if not fault.tcp and not fault.environmental and fault.kind != "unreachable"
    ]
    met = sum(
        any(fault.kind in line.faults for line in journal.ledger if line.provider == fault.provider)
        for fault in answers
    )
    yield VerdictLine(
        Question.RAN,
        "every fault of an answer met by at least one request",
        f"{met} of {len(answers)}",
        ok=met == len(answers),
    )
    before = [s for s in journal.requests if s.ended_s < journal.scenario.first_fault_s - SETTLE_S]
    complete = sum(s.outcome is ClientOutcome.COMPLETE for s in before)
    yield VerdictLine(
        Question.RAN,
        "all requests complete before the first fault",
        f"{complete} of {len(before)}",
        ok=complete == len(before) > 0,
    )


def _held(journal: Journal) -> Iterable[VerdictLine]:
    expect, requests = journal.scenario.expect, journal.requests
    honest = sum(result.honest for result in requests)
    yield _share("of requests end honestly and by the deadline", honest, len(requests), expect.honest_share)
    complete = sum(result.outcome is ClientOutcome.COMPLETE for result in requests)
    cuts = sum(journal.planned_cut(result) for result in requests)
    apart = f" (apart from {cuts} planned cuts)" if cuts else ""
    yield _share(f"of requests complete{apart}", complete, len(requests) - cuts, expect.complete_share)
    if expect.first_token_p95_s is not None:
        p95_s = percentile([s.first_token_s for s in requests if s.first_token_s is not None], 0.95)
        yield VerdictLine(
            Question.HELD,
            f"p95 of the time to first token at most {expect.first_token_p95_s:g} s",
            "no stream" if p95_s is None else f"{p95_s:.2f} s",
            ok=p95_s is not None and p95_s <= expect.first_token_p95_s,
        )
    if expect.failover_s is not None:
        yield _failover(journal, expect.failover_s)
    if expect.amplification_max is not None:
        yield _amplification(journal, expect.amplification_max)
    for pair, share_min in expect.answered_by.items():
        yield _answered_by(journal, pair, share_min)
    for name in expect.happened:
        count = journal.happened.get(name, 0)
        yield VerdictLine(Question.HELD, f"{name} happened", f"{count} times", ok=count > 0)


def _failover(journal: Journal, within_s: float) -> VerdictLine:
    """Judge the fault that affected users for longest."""
    worst = max(journal.windows, key=lambda window: impact_s(journal, window), default=None)
    took_s = impact_s(journal, worst) if worst else 0.0
    return VerdictLine(
        Question.HELD,
        f"requests unaffected within {within_s:g} s of each fault's start",
        f"after {took_s:.1f} s ({worst.label})" if worst else "no fault",
        ok=worst is not None and took_s <= within_s,
    )


def impact_s(journal: Journal, window: AppliedFault) -> float:
    """Return how long after a fault's start users were affected: after that, 99 % of its requests were
    unaffected."""
    until_s = journal.seconds if window.until_s is None else window.until_s
    met = [result for result in journal.requests if window.from_s <= result.at_s < until_s]
    met.sort(key=lambda result: result.at_s)
    bad, last_s = 0, 0.0
    for count, result in enumerate(reversed(met), 1):
        if not journal.unaffected(result):
            bad += 1
            if bad > (1 - UNAFFECTED_SHARE) * count:
                last_s = max(last_s, result.at_s - window.from_s)
    return last_s


def _amplification(journal: Journal, limit: float) -> VerdictLine:
    """Judge the attempts per request. The service's own probes do not count."""
    share = attempts_per_request(journal)
    return VerdictLine(
        Question.HELD,
        f"at most {limit:g} attempts per request during the faults",
        f"{share:.2f}",
        ok=0 < share <= limit,
    )


def attempts_per_request(journal: Journal) -> float:
    """Return the attempts at providers per request, for requests that came during the faults."""
    scenario = journal.scenario
    tags = {s.tag for s in journal.requests if scenario.first_fault_s <= s.at_s < scenario.heal_s}
    return sum(line.tag in tags for line in journal.ledger) / max(1, len(tags))


def _answered_by(journal: Journal, pair: str, share_min: float) -> VerdictLine:
    route, _, provider = pair.partition("/")
    done = [s for s in journal.requests if s.route == route and s.outcome is ClientOutcome.COMPLETE]
    count = sum(result.provider == provider for result in done)
    return _share(f"of complete answers on route {route} by {provider}", count, len(done), share_min)


def _recovered(journal: Journal) -> Iterable[VerdictLine]:
    """Judge the recovery, counted from when the last fault was lifted."""
    within_s = journal.scenario.expect.recover_s
    if within_s is None:
        return
    healed_s = max((window.until_s or journal.seconds for window in journal.windows), default=0.0)
    after = sorted((s for s in journal.requests if s.at_s >= healed_s), key=lambda s: s.at_s)
    bad = [result for result in after if result.outcome is not ClientOutcome.COMPLETE]
    complete_s = bad[-1].at_s - healed_s if bad else 0.0
    yield _within(
        "every request complete again", complete_s if after and after[-1] not in bad else None, within_s
    )
    first = next(iter(journal.scenario.providers))
    answered = next((s for s in after if s.provider == first and s.outcome is ClientOutcome.COMPLETE), None)
    yield _within(
        f"provider {first} answers again", answered.ended_s - healed_s if answered else None, within_s
    )


def _share(what: str, count: int, total: int, share_min: float) -> VerdictLine:
    share = count / total if total else 0.0
    result = f"{percent(share)} ({total - count} of {total} not)"
    return VerdictLine(Question.HELD, f"{percent(share_min)} {what}", result, ok=share >= share_min)


def _within(what: str, took_s: float | None, within_s: float) -> VerdictLine:
    return VerdictLine(
        Question.RECOVERED,
        f"{what} within {within_s:g} s of the last fault's end",
        "never" if took_s is None else f"after {took_s:.1f} s",
        ok=took_s is not None and took_s <= within_s,
    )


def percentile(values: Iterable[float], share: float) -> float | None:
    """Return the smallest value that at least this share of all values do not exceed; None of no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1))]


def percent(share: float) -> str:
    """Format a share, rounded down: 99.99 % must not read as 100 %."""
    return f"{int(share * 10_000) / 100:g} %"


def outcomes(requests: Iterable[RequestResult]) -> dict[ClientOutcome, int]:
    """Count the outcomes, in the order of ClientOutcome."""
    result = list(requests)
    return {outcome: sum(s.outcome is outcome for s in result) for outcome in ClientOutcome}
