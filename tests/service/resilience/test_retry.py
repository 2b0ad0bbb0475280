"""Once more, or the next target: every branch as a table, and what holds for any verdict as properties."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.config.options import RetryOptions
from dub5.service.providers.base import ProviderFault
from dub5.service.resilience.classify import Blame, Classification, CooldownReason, Then, classify
from dub5.service.resilience.retry import BudgetCharge, RetryDecision, RetryState, decide_retry
from dub5.service.timeouts import TimedOut
from dub5.service.wire.base import FailureKind, Stage, WireFailure

OPTIONS = RetryOptions(same_target_max=1, last_target_max=2, base_s=0.1, max_s=2.0, wait_max_s=3.0)

BLINK = Classification(Then.RETRY, Blame.TARGET, "http_503")
MAYBE_BILLED = replace(BLINK, maybe_billed=True)
STALE = Classification(Then.FRESH, Blame.NOBODY, "wait_closed")
SENT_STALE = replace(STALE, maybe_billed=True)
SHORT_LIMIT = Classification(Then.RETRY, Blame.KEY, "http_429", cooldown_s=3.0)
LONG_LIMIT = replace(SHORT_LIMIT, cooldown_s=3.1)
BAD_KEY = Classification(
    Then.NEXT, Blame.KEY, "http_401", cooldown_s=60.0, cooldown_reason=CooldownReason.REFUSED
)
GONE = Classification(Then.NEXT, Blame.HOST, "connect_refused")
BAD_REQUEST = Classification(Then.ASK_ANOTHER, Blame.NOBODY, "http_400", status=400)


def asked(
    classification: Classification, tries: RetryState | None = None, seed: int = 0, **situation: bool
) -> RetryDecision | None:
    """`decide_retry` for a healthy target among others, unless the situation says otherwise."""
    usual = {"has_side_effects": False, "last": False, "other_key": False, "healthy": True} | situation
    return decide_retry(classification, tries or RetryState(), **usual, options=OPTIONS, rng=Random(seed))


@pytest.mark.parametrize(
    ("classification", "tries", "situation", "why"),
    [
        (BLINK, RetryState(), {}, "retry"),
        (BLINK, RetryState(), {"healthy": False}, None),
        (BLINK, RetryState(), {"healthy": False, "last": True}, "retry"),
        (BLINK, RetryState(retries=1), {}, None),
        (BLINK, RetryState(retries=1), {"last": True}, "retry"),
        (BLINK, RetryState(retries=2), {"last": True}, None),
        (BLINK, RetryState(), {"other_key": True}, "retry"),
        (BLINK, RetryState(), {"has_side_effects": True}, "retry"),
        (MAYBE_BILLED, RetryState(), {}, "retry"),
        (MAYBE_BILLED, RetryState(), {"has_side_effects": True}, None),
        (STALE, RetryState(), {}, "fresh"),
        (STALE, RetryState(retries=9), {"healthy": False}, "fresh"),
        (STALE, RetryState(refreshed=True), {"last": True}, None),
        (SENT_STALE, RetryState(), {}, "fresh"),
        (SENT_STALE, RetryState(), {"has_side_effects": True}, None),
        (SHORT_LIMIT, RetryState(), {}, "retry"),
        (SHORT_LIMIT, RetryState(), {"other_key": True}, "key"),
        (LONG_LIMIT, RetryState(), {"last": True}, None),
        (LONG_LIMIT, RetryState(), {"other_key": True}, "key"),
        (BAD_KEY, RetryState(), {"last": True}, None),
        (BAD_KEY, RetryState(keys=3, retries=9), {"other_key": True, "healthy": False}, "key"),
        (GONE, RetryState(), {"last": True, "other_key": True}, None),
        (BAD_REQUEST, RetryState(), {"last": True, "other_key": True}, None),
    ],
)
def test_every_branch(
    classification: Classification, tries: RetryState, situation: dict[str, bool], why: str | None
) -> None:
    """Each failure has its decision; only a retry is charged to the budget and waits for a backoff."""
    more = asked(classification, tries, **situation)
    assert (more.why if more else None) == why
    if more is not None:
        assert more.charge is (BudgetCharge.WITHDRAW if why == "retry" else BudgetCharge.NONE)
        assert more.wait_s == 0.0 or why == "retry"


VERDICTS = st.builds(
    Classification,
    st.sampled_from(Then),
    st.sampled_from(Blame),
    st.just("any"),
    cooldown_s=st.one_of(st.just(0.0), st.floats(0.0, 5.0), st.floats(0.0, 1e5)),
    maybe_billed=st.booleans(),
)
SEEDS = st.integers(0, 10_000)


@st.composite
def situations(draw: st.DrawFn) -> dict[str, bool]:
    return {name: draw(st.booleans()) for name in ("has_side_effects", "last", "other_key", "healthy")}


@given(VERDICTS, situations(), st.integers(0, 5), SEEDS)
def test_how_long(
    classification: Classification, situation: dict[str, bool], retries: int, seed: int
) -> None:
    """A paid try waits for Retry-After at least, for `max_s` more at most, and never when it is told to wait
    long."""
    more = asked(classification, RetryState(retries), seed, **situation)
    if more is not None and more.charge is BudgetCharge.WITHDRAW:
        assert classification.cooldown_s <= more.wait_s <= classification.cooldown_s + OPTIONS.max_s
        assert classification.cooldown_s <= OPTIONS.wait_max_s


@given(VERDICTS, situations(), st.integers(0, 5), SEEDS)
def test_side_effects_are_never_doubled(
    classification: Classification, situation: dict[str, bool], retries: int, seed: int
) -> None:
    """What the provider may have acted on, and keeps, is not asked of it again, by no branch."""
    billed = replace(classification, maybe_billed=True)
    assert asked(billed, RetryState(retries), seed, **(situation | {"has_side_effects": True})) is None


@given(st.lists(st.tuples(VERDICTS, situations()), max_size=15), st.integers(0, 3), st.integers(0, 3), SEEDS)
def test_how_often(
    failures: list[tuple[Classification, dict[str, bool]]], same: int, last: int, seed: int
) -> None:
    """Along any row of failures at one target: no more paid tries than the maxima, and one fresh
    connection."""
    options = RetryOptions(same_target_max=same, last_target_max=last)
    tries, rng, whys = RetryState(), Random(seed), list[str]()
    for classification, situation in failures:
        more = decide_retry(classification, tries, **situation, options=options, rng=rng)
        if more is None:
            continue
        if more.why == "retry":
            assert whys.count("retry") < (last if situation["last"] else same)
        tries.note(more)
        whys.append(more.why)
        assert tries.fresh == (more.why == "fresh"), "only the very next try is on a new connection"
    assert whys.count("fresh") <= 1
    assert (tries.retries, tries.keys) == (whys.count("retry"), whys.count("key"))


@pytest.mark.parametrize(
    "failure",
    [
        *(TimedOut(name) for name in ("first_token", "whole_answer", "between_tokens", "deadline")),
        *(WireFailure(stage, FailureKind.TIMEOUT, sent=True) for stage in Stage),
        ProviderFault("http_408", status=408),
        ProviderFault("http_524", status=524),
    ],
    ids=repr,
)
@given(situation=situations())
def test_a_timeout_is_never_retried_here(failure: Exception, situation: dict[str, bool]) -> None:
    """A timeout is never retried on the same target, not even on the last one."""
    assert asked(classify(failure), RetryState(), **situation) is None


def test_jitter_is_full() -> None:
    """Waits are spread evenly from nothing to a bound that doubles: a herd that failed together comes back
    apart."""
    for retries, longest_s in ((0, 0.1), (1, 0.2)):
        waits = [
            more.wait_s
            for seed in range(2_000)
            if (more := asked(BLINK, RetryState(retries), seed, last=True))
        ]
        assert len(waits) == 2_000
        assert max(waits) <= longest_s
        for quarter in range(4):
            lower, upper = longest_s * quarter / 4, longest_s * (quarter + 1) / 4
            assert sum(lower <= wait < upper for wait in waits) == pytest.approx(500, abs=80)
