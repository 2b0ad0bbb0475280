"""The verdict: every expectation holds on a good run, and fails on a bad one."""

import dataclasses
from collections.abc import Callable

import msgspec
import pytest
from msgspec import structs

from dub5.chaos.run.journal import AppliedFault, Journal, LedgerEntry, RequestResult
from dub5.chaos.run.judge import ClientOutcome
from dub5.chaos.run.verdict import Question, judge_run, percentile
from dub5.chaos.scenario.model import Expect, Scenario, ScenarioFault, Workload

FAULT = ScenarioFault(10, 10, "one", "cut", {"after_tokens": 5}, "streams of one break off")
EXPECT = Expect(
    honest_share=1.0,
    complete_share=0.9,
    first_token_p95_s=1.0,
    recover_s=5.0,
    happened=("failed_over",),
)
SCENARIO = Scenario("s", "title", "why", Workload(30.0, rate_per_s=2.0), (FAULT,), EXPECT)


def request(
    number: int, outcome: ClientOutcome = ClientOutcome.COMPLETE, provider: str = "one"
) -> RequestResult:
    return RequestResult(
        number=number,
        at_s=number / 2,
        late_s=0.0,
        stream=True,
        outcome=outcome,
        reason="",
        provider=provider,
        first_token_s=0.2,
        total_s=0.5,
    )


def good() -> Journal:
    """Return a journal of sixty requests in thirty seconds; from 10 to 20 s a fault is on and the second
    provider answers."""
    journal = Journal(SCENARIO, "virtual", 1, "machine", "2026-01-01 00:00:00", seconds=30.0, planned=60)
    journal.requests = [request(n, provider="two" if 20 <= n < 40 else "one") for n in range(60)]
    journal.windows = [AppliedFault("one", "cut", "...", "the simulators", True, 10.0, 20.0)]
    journal.ledger = [LedgerEntry("one", "", ()), LedgerEntry("one", "", ("cut",))]
    journal.happened = {"failed_over": 3}
    return journal


def change(journal: Journal, number: int, **values: object) -> None:
    journal.requests[number] = msgspec.structs.replace(journal.requests[number], **values)


def failing(journal: Journal) -> list[tuple[Question, str]]:
    return [(line.question, line.expectation) for line in judge_run(journal).lines if not line.ok]


def test_a_good_run() -> None:
    """Every expectation holds on a good run."""
    assert [] == failing(good())
    assert judge_run(good()).ok


def nothing_sent(journal: Journal) -> None:
    journal.planned, journal.requests = 0, []


def sent_late(journal: Journal) -> None:
    for number in (1, 2):
        change(journal, number, late_s=0.6)


def fault_left_out(journal: Journal) -> None:
    journal.windows.clear()


def fault_never_met(journal: Journal) -> None:
    journal.ledger = [LedgerEntry("one", "", ("status",)), LedgerEntry("two", "", ("cut",))]


def ill_from_the_start(journal: Journal) -> None:
    change(journal, 3, outcome=ClientOutcome.FAILED)


def one_lie(journal: Journal) -> None:
    change(journal, 25, outcome=ClientOutcome.DISHONEST)


def one_hangs(journal: Journal) -> None:
    change(journal, 25, outcome=ClientOutcome.HUNG)


def too_many_fail(journal: Journal) -> None:
    for number in range(22, 29):
        change(journal, number, outcome=ClientOutcome.FAILED)


def cut_without_a_fault_there(journal: Journal) -> None:
    for number in range(22, 29):
        change(journal, number, outcome=ClientOutcome.CUT, provider="two")


def slow_first_tokens(journal: Journal) -> None:
    for number in range(22, 26):
        change(journal, number, first_token_s=1.5)


def nothing_happened(journal: Journal) -> None:
    journal.happened = {"failed_over": 0}


def still_failing_late(journal: Journal) -> None:
    change(journal, 52, outcome=ClientOutcome.FAILED)


def first_provider_stays_away(journal: Journal) -> None:
    for number in range(40, 60):
        change(journal, number, provider="two")


def failing_at_the_end(journal: Journal) -> None:
    change(journal, 59, outcome=ClientOutcome.FAILED)


@pytest.mark.parametrize(
    ("spoil", "question", "said"),
    [
        (nothing_sent, Question.RAN, "planned requests sent in time"),
        (sent_late, Question.RAN, "planned requests sent in time"),
        (fault_left_out, Question.RAN, "every fault of the scenario applied"),
        (fault_never_met, Question.RAN, "met by at least one request"),
        (ill_from_the_start, Question.RAN, "all requests complete before the first fault"),
        (one_lie, Question.HELD, "honest"),
        (one_hangs, Question.HELD, "honest"),
        (too_many_fail, Question.HELD, "complete"),
        (cut_without_a_fault_there, Question.HELD, "complete"),
        (slow_first_tokens, Question.HELD, "p95 of the time to first token"),
        (nothing_happened, Question.HELD, "failed_over happened"),
        (still_failing_late, Question.RECOVERED, "every request complete again"),
        (failing_at_the_end, Question.RECOVERED, "every request complete again"),
        (first_provider_stays_away, Question.RECOVERED, "provider one answers again"),
    ],
)
def test_each_expectation_can_fail(spoil: Callable[[Journal], None], question: Question, said: str) -> None:
    """A run that misses one expectation fails exactly there, under the question it belongs to."""
    journal = good()
    spoil(journal)
    assert not judge_run(journal).ok
    assert not judge_run(journal).answer(question)
    assert any(asked is question and said in expectation for asked, expectation in failing(journal))


def test_planned_cuts_stand_apart() -> None:
    """Cuts that a fault planned do not lower the share of complete answers, and are mentioned."""
    journal = good()
    for number in range(22, 32):
        change(journal, number, outcome=ClientOutcome.CUT, provider="one")
    assert judge_run(journal).ok
    assert any("(apart from 10 planned cuts)" in line.expectation for line in judge_run(journal).lines)


@pytest.mark.parametrize(
    ("provider", "at_s", "total_s", "planned"),
    [("one", 12.0, 0.5, True), ("two", 12.0, 0.5, False), ("one", 9.6, 0.5, True), ("one", 9.0, 0.5, False)],
)
def test_whose_cut_it_is(provider: str, at_s: float, total_s: float, planned: bool) -> None:
    """A cut is planned if a cutting fault was on at its provider, even in the stream's last moment only."""
    cut = msgspec.structs.replace(request(0, ClientOutcome.CUT, provider), at_s=at_s, total_s=total_s)
    assert planned is good().planned_cut(cut)


def test_no_recovery_expected() -> None:
    """A scenario without `recover_s` is not judged for recovery."""
    journal = good()
    journal.scenario = dataclasses.replace(SCENARIO, expect=structs.replace(EXPECT, recover_s=None))
    still_failing_late(journal)
    assert Question.RECOVERED not in {line.question for line in judge_run(journal).lines}


def test_99_99_is_not_100() -> None:
    """Shares are rounded down: one dishonest end in twenty thousand reads as less than 100 %."""
    journal = good()
    journal.requests = [request(0)] * 19_999 + [request(0, ClientOutcome.DISHONEST)]
    (line,) = [line for line in judge_run(journal).lines if "honest" in line.expectation]
    assert line.result.startswith("99.99 %")


@pytest.mark.parametrize(
    ("values", "share", "wanted"), [([], 0.5, None), ([3, 1, 2], 0.5, 2), (range(1, 101), 0.95, 95)]
)
def test_percentile(values: list[float], share: float, wanted: float | None) -> None:
    """A percentile is one of the values, and None of no values."""
    assert wanted == percentile(values, share)


class TestOfIncidents:
    """Impact, attempts per request, and answers by provider."""

    def journal(self, **expect: object) -> Journal:
        journal = good()
        journal.scenario = dataclasses.replace(
            SCENARIO, expect=Expect(complete_share=0.9, usual_s=1.0, **expect)
        )
        journal.ledger += [LedgerEntry("one", f"tag {n}", ()) for n in range(60)]
        journal.requests = [
            msgspec.structs.replace(result, tag=f"tag {result.number}", route="chat")
            for result in journal.requests
        ]
        return journal

    def test_failover(self) -> None:
        """Impact lasts from the fault's start to the last affected request; waits before the fault do not
        count."""
        journal = self.journal(failover_s=2.0)
        assert [] == failing(journal)
        change(journal, 5, first_token_s=9.0)
        change(journal, 20, first_token_s=9.0)
        change(journal, 23, outcome=ClientOutcome.CUT)
        assert [] == failing(journal)
        change(journal, 25, first_token_s=9.0)
        assert [Question.HELD] == [question for question, _ in failing(journal)]

    def test_amplification(self) -> None:
        """Only attempts of requests during the faults count."""
        journal = self.journal(amplification_max=1.5)
        journal.ledger += [LedgerEntry("two", f"tag {n}", ()) for n in range(10)]
        assert [] == failing(journal)
        journal.ledger += [LedgerEntry("two", f"tag {n}", ()) for n in range(20, 31)]
        assert [Question.HELD] == [question for question, _ in failing(journal)]

    def test_who_answers(self) -> None:
        """A provider with two thirds of the answers passes a minimum of 0.6 and fails one of 0.7."""
        assert [] == failing(self.journal(answered_by={"chat/one": 0.6}))
        assert [Question.HELD] == [q for q, _ in failing(self.journal(answered_by={"chat/one": 0.7}))]
