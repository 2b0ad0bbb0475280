"""The limit on requests in flight, as hypothesis moves it, and as a provider with a fixed capacity does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dub5.service.config.options import LimiterOptions
from dub5.service.resilience.concurrency_limit import ASSUMED_ROOM, Limiter, LoadSignal
from tests.support.examples import examples

OPTIONS = LimiterOptions(min=3, max=40, decrease=0.7, growth=0.1)


def fill(limiter: Limiter) -> list[int]:
    """As many requests as there is room for."""
    eras = []
    while limiter.has_room(0.0):
        eras.append(limiter.acquire())
    return eras


def test_a_provider_without_limits_is_never_held_back() -> None:
    """A provider without limits starts at the maximum, and successes leave it there."""
    limiter = Limiter(OPTIONS)
    eras = fill(limiter)
    assert len(eras) == OPTIONS.max
    assert not any(limiter.release(era, LoadSignal.ACCEPTED, 0.0) for era in eras)
    assert limiter.limit == OPTIONS.max


def test_one_overload_is_one_decrease() -> None:
    """Forty requests that fail in the same overload lower the limit once, to 0.7 of what was in flight."""
    limiter = Limiter(OPTIONS)
    lowered = [limiter.release(era, LoadSignal.DROPPED, 0.0) for era in fill(limiter)]
    assert lowered == [True] + [False] * 39
    assert limiter.limit == pytest.approx(40 * 0.7)


def test_the_next_overload_is_another_decrease() -> None:
    """An overload of a request sent after a decrease is another decrease."""
    limiter = Limiter(OPTIONS)
    for _ in range(2):
        for era in fill(limiter):
            limiter.release(era, LoadSignal.DROPPED, 0.0)
    assert limiter.limit == pytest.approx(28 * 0.7)


def test_refusals_of_few_calls() -> None:
    """However often one call alone is refused: many at one time are still tried, and soon all of before."""
    limiter = Limiter(OPTIONS)
    for at_s in range(20):
        limiter.release(limiter.acquire(), LoadSignal.DROPPED, float(at_s))
    eras = fill(limiter)
    assert len(eras) == int(ASSUMED_ROOM * OPTIONS.decrease)
    for era in eras:
        limiter.release(era, LoadSignal.ACCEPTED, 20.0)
    assert len(fill(limiter)) >= 1.3 * len(eras)


def test_it_learns_from_what_was_in_flight() -> None:
    """A drop with thirty in flight says that thirty were too many, however high the limit stood."""
    limiter = Limiter(OPTIONS)
    eras = [limiter.acquire() for _ in range(30)]
    assert limiter.release(eras[0], LoadSignal.DROPPED, 0.0)
    assert limiter.limit == pytest.approx(30 * 0.7)


def test_one_refusal_at_a_quiet_time() -> None:
    """A drop with one in flight hardly speaks of room: a few may still be sent, and a minute later it is
    forgotten."""
    limiter = Limiter(OPTIONS)
    assert limiter.release(limiter.acquire(), LoadSignal.DROPPED, 0.0)
    assert limiter.limit == pytest.approx(ASSUMED_ROOM * 0.7)
    assert limiter.has_room(59.9) and limiter.limit < OPTIONS.max
    assert limiter.has_room(60.0) and limiter.limit == OPTIONS.max


def test_a_maximum_below_the_minimum() -> None:
    """Settings that allow two at most are kept, whatever the minimum says."""
    limiter = Limiter(LimiterOptions(min=4, max=2))
    for era in fill(limiter):
        limiter.release(era, LoadSignal.DROPPED, 0.0)
    assert limiter.limit == 2.0


@given(capacity=st.integers(5, 39))
def test_it_settles_near_the_capacity(capacity: int) -> None:
    """Against a provider that takes so many at once and drops the rest, it swings between 0.7 and a little
    more."""
    limiter, sent = Limiter(OPTIONS), []
    for at_s in range(60):
        eras = fill(limiter)
        sent.append(len(eras))
        for i, era in enumerate(reversed(eras)):
            limiter.release(
                era, LoadSignal.DROPPED if i < len(eras) - capacity else LoadSignal.ACCEPTED, at_s
            )
    assert min(sent[20:]) >= int(capacity * 0.7)
    assert max(sent) == OPTIONS.max and max(sent[20:]) <= capacity * 1.1 + 1


@given(drops=st.integers(1, 12))
def test_it_comes_back_under_load(drops: int) -> None:
    """However far it fell: nothing but successes, with every place taken, and it is at its maximum again
    soon."""
    limiter = Limiter(OPTIONS)
    for at_s in range(drops):
        for era in fill(limiter):
            limiter.release(era, LoadSignal.DROPPED, float(at_s))
    out, answers = fill(limiter), 0
    while limiter.limit < OPTIONS.max:
        limiter.release(out.pop(), LoadSignal.ACCEPTED, 0.0)
        out += fill(limiter)
        answers += 1
        assert answers <= 600, "a tenth a round is twenty-odd rounds of at most forty answers"


def test_an_outage_is_not_a_lesson_about_room() -> None:
    """A provider that was gone gets its load back within a few first tokens, however long its answers
    take."""
    limiter = Limiter(OPTIONS)
    in_flight = [limiter.acquire() for _ in range(30)]
    at_s = 0.0
    while limiter.limit > OPTIONS.min:  # nothing but timeouts
        at_s += 10.0
        for era in in_flight:
            limiter.release(era, LoadSignal.DROPPED, at_s)
        in_flight = fill(limiter)
    for _ in range(7):
        for _ in in_flight:
            limiter.accepted(limiter.era)  # a first token; no answer ends
        in_flight = fill(limiter)
    assert limiter.in_flight >= 30 * OPTIONS.decrease


@pytest.mark.parametrize(("busy", "fast"), [(OPTIONS.min, True), (OPTIONS.min + 1, False)])
def test_answers_from_before_an_outage(busy: int, fast: bool) -> None:
    """Answers of calls that were sent before an outage are no lesson about room either: where calls among few
    others were refused, the limit of before comes back fast."""
    limiter = Limiter(OPTIONS)
    early = [limiter.acquire() for _ in range(30)]
    for era in early[:10]:
        limiter.release(limiter.acquire(), LoadSignal.DROPPED, 0.0)
        limiter.release(era, LoadSignal.ACCEPTED, 0.0)
    for era in early[10:]:
        limiter.release(era, LoadSignal.UNKNOWN, 0.0)
    limiter.note_refused(busy)
    sent = fill(limiter)
    for era in sent:
        limiter.accepted(era)
    assert (limiter.limit >= 2 * len(sent) - 1) == fast


def test_hardly_used() -> None:
    """Successes with most places empty say nothing about more: the limit stays."""
    limiter = Limiter(OPTIONS)
    for era in fill(limiter):
        limiter.release(era, LoadSignal.DROPPED, 0.0)
    lowered = limiter.limit
    for _ in range(200):
        limiter.release(limiter.acquire(), LoadSignal.ACCEPTED, 1.0)
    assert limiter.limit == lowered < OPTIONS.max


class LimiterMachine(RuleBasedStateMachine):
    """Requests come, and come back in any order with any news."""

    def __init__(self) -> None:
        super().__init__()
        self.limiter = Limiter(OPTIONS)
        self.out: list[int] = []
        self.now_s = 0.0

    @rule(count=st.integers(1, 30))
    def acquire(self, count: int) -> None:
        for _ in range(count):
            if self.limiter.has_room(0.0):
                self.out.append(self.limiter.acquire())

    @rule(data=st.data(), load=st.sampled_from(LoadSignal), pause_s=st.floats(0.0, 1.5))
    def release(self, data: st.DataObject, load: LoadSignal, pause_s: float) -> None:
        if not self.out:
            return
        self.now_s = min(self.now_s + pause_s, 59.0)  # and the limit is not forgotten yet
        limiter, busy = self.limiter, len(self.out)
        era, before, news_of = self.out.pop(data.draw(st.integers(0, busy - 1))), limiter.limit, limiter.era
        lowered = limiter.release(era, load, self.now_s)
        half_used, sound = busy * 2 >= before, limiter._known_good
        assert lowered == (int(limiter.limit) < int(before)), "what it says is what happened"
        if load is LoadSignal.DROPPED and era == news_of:
            room = float(max(busy, ASSUMED_ROOM))
            cut = (min(before, room) if half_used else room) * OPTIONS.decrease
            assert limiter.limit == min(before, max(float(OPTIONS.min), cut))
            assert limiter.era > news_of, "the rest of this overload is no news"
        elif load is LoadSignal.ACCEPTED and half_used:
            slowly = max(1.0, before * OPTIONS.growth) / before
            assert before <= limiter.limit <= before + (1.0 if before < sound else slowly)
            assert limiter.limit > before or before == OPTIONS.max
        else:
            assert limiter.limit == before, "nothing was said about its load"

    @rule(min_=st.integers(1, 10), more=st.integers(0, 50))
    def reconfigure(self, min_: int, more: int) -> None:
        other = LimiterOptions(min=min_, max=min_ + more)
        before = self.limiter.limit
        self.limiter.reconfigure(other)
        untried = before == OPTIONS.max
        assert self.limiter.limit == (other.max if untried else min(max(before, other.min), other.max))
        self.limiter.reconfigure(OPTIONS)

    @invariant()
    def bounds(self) -> None:
        assert OPTIONS.min <= self.limiter.limit <= OPTIONS.max
        assert self.limiter.in_flight == len(self.out)
        assert self.limiter.has_room(0.0) == (len(self.out) < int(self.limiter.limit))


TestLimiterMachine = LimiterMachine.TestCase
TestLimiterMachine.settings = examples(60, stateful_step_count=30)
