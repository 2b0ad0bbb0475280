"""A provider that takes more than it can do, and says nothing: when is it a line, and when only slow
prompts?"""

from collections.abc import Iterator

import pytest

from dub5.service.resilience.queue_delay import BELIEVED_S, BEST_S, QueueDelayDetector


@pytest.fixture
def backlog() -> QueueDelayDetector:
    """One that has seen quick answers."""
    backlog = QueueDelayDetector()
    assert not any(backlog.note(0.4, 10, at_s) for at_s in (0.0, 0.1, 0.2))
    return backlog


def told(
    backlog: QueueDelayDetector, took_s: float, *, busy: int, from_s: float, for_s: float = 2.0
) -> list[float]:
    """When it tells of a line, ten answers a second."""
    times: Iterator[float] = (from_s + i / 10 for i in range(round(for_s * 10)))
    return [at_s for at_s in times if backlog.note(took_s, busy, at_s)]


def again(backlog: QueueDelayDetector, took_s: float, *, busy: int, round: int) -> bool:
    """Whether it tells of a line after one more second of such answers."""
    return bool(told(backlog, took_s, busy=busy, from_s=1.0 + 1.1 * round, for_s=1.1))


class TestALine:
    def test_everybody_waits(self, backlog: QueueDelayDetector) -> None:
        """Once all answers of a second were late it is told; once, until they have been late for as long
        again."""
        assert told(backlog, 2.0, busy=50, from_s=1.0, for_s=1.5) == pytest.approx([2.0])

    def test_slow_prompts_among_quick_ones(self, backlog: QueueDelayDetector) -> None:
        """One call in time proves that the provider has no queue."""
        for i in range(100):
            assert not backlog.note(0.5 if i % 9 == 0 else 6.0, 50, 1.0 + i / 10)

    def test_a_few_late_ones(self, backlog: QueueDelayDetector) -> None:
        """Four answers are too few to judge by, however long they stay alone."""
        assert not any(backlog.note(6.0, 50, 1.0 + i) for i in range(4))

    def test_usual_jitter(self, backlog: QueueDelayDetector) -> None:
        """Twice the quickest, or half a second more, is what a provider with room may take."""
        assert not told(backlog, 0.85, busy=50, from_s=1.0, for_s=10.0)


class TestWhatHelped:
    def test_fewer_in_flight_are_quicker(self, backlog: QueueDelayDetector) -> None:
        """If fewer calls in flight are faster there is a queue, reported again while it stands."""
        for i, (took_s, busy) in enumerate(((3.0, 100), (2.0, 70), (1.2, 49))):
            assert again(backlog, took_s, busy=busy, round=i)

    def test_fewer_in_flight_are_as_slow(self, backlog: QueueDelayDetector) -> None:
        """Then it never was one. Long prompts have come, or the provider is slower: that is usual now."""
        for i, busy in enumerate((100, 70)):
            assert again(backlog, 3.0, busy=busy, round=i)
        assert not any(again(backlog, 3.0, busy=49, round=i) for i in range(2, 100))

    def test_fewer_in_flight_are_slower(self, backlog: QueueDelayDetector) -> None:
        """A provider that loses room at the same time is no proof of anything."""
        for i, (took_s, busy) in enumerate(((2.0, 100), (3.0, 70), (4.5, 49), (6.7, 34))):
            assert again(backlog, took_s, busy=busy, round=i)

    def test_as_many_in_flight_are_as_slow(self, backlog: QueueDelayDetector) -> None:
        """As many calls in flight that are as slow prove nothing, as where the limit has grown again: the
        queue is still reported."""
        for i in range(6):
            assert again(backlog, 3.0, busy=100 - i, round=i)

    def test_a_belief_ends(self, backlog: QueueDelayDetector) -> None:
        """After five minutes the decision is made anew."""
        for i, busy in enumerate((100, 70, 49)):
            again(backlog, 3.0, busy=busy, round=i)
        assert told(backlog, 3.0, busy=49, from_s=5.0 + BELIEVED_S)

    def test_the_quickest_is_forgotten(self, backlog: QueueDelayDetector) -> None:
        """Ten minutes of nothing but long prompts, and they are what answers take."""
        for i in range(2 * round(BEST_S)):
            backlog.note(3.0, 50, 1.0 + i)
        assert not told(backlog, 3.0, busy=50, from_s=2.0 + 2 * BEST_S)


class TestGivenUp:
    def test_everybody_gives_up(self, backlog: QueueDelayDetector) -> None:
        """Calls given up after more than the usual time count as queued; fewer of them prove nothing against
        it."""
        assert any(backlog.note(2.0, 100, 1.0 + i / 10, unanswered=True) for i in range(15))
        assert any(backlog.note(2.0, 70, 4.0 + i / 10, unanswered=True) for i in range(15))

    def test_some_give_up(self, backlog: QueueDelayDetector) -> None:
        """While others are answered in time they wanted something that takes longer."""
        for i in range(100):
            assert not backlog.note(
                *((0.5, 50) if i % 9 == 0 else (3.0, 50)), 1.0 + i / 10, unanswered=i % 9 != 0
            )

    def test_most_give_up(self, backlog: QueueDelayDetector) -> None:
        """What nobody saw the end of is never usual: a queue is still found."""
        answers = ((3.0, 10, False), *[(3.0, 20, True)] * 3, (3.0, 40, False))
        for i in range(12):
            for took_s, busy, unanswered in answers:
                backlog.note(took_s, busy, 1.0 + i / 10, unanswered=unanswered)
        assert told(backlog, 9.0, busy=40, from_s=3.0)

    def test_they_give_up_early(self, backlog: QueueDelayDetector) -> None:
        """Calls given up before the usual time say nothing."""
        assert not any(backlog.note(0.3, 50, 1.0 + i / 10, unanswered=True) for i in range(50))
        assert told(backlog, 2.0, busy=50, from_s=7.0)

    def test_where_nothing_is_known(self) -> None:
        """Without a usual latency no queue is inferred."""
        backlog = QueueDelayDetector()
        assert not any(backlog.note(9.0, 50, 1.0 + i / 10, unanswered=True) for i in range(50))
