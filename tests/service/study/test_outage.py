"""What follows an ask that failed: a deck ends soon, and waits for what passes soon."""

import pytest

from dub5.service.errors import (
    AllTargetsDown,
    AllTargetsLimited,
    DeadlineExceeded,
    GatewayError,
    Overloaded,
    ProviderRefused,
    ShuttingDown,
    StreamCut,
)
from dub5.service.study.outage import AGAIN_MAX, LOST_S_MAX, Outage, after_failure, first_token_limit_s


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (AllTargetsDown("down"), False),
        (DeadlineExceeded("late"), False),
        (ProviderRefused("no", 400), False),
        (AllTargetsLimited("full", retry_after_s=3.0), True),
        (AllTargetsLimited("full", retry_after_s=300.0), False),
        (Overloaded("full"), True),
        (StreamCut("cut"), True),
    ],
)
def test_what_passes(error: GatewayError, again: bool) -> None:
    """A short limit and a cut answer are tried again; what is down has cards without a model at once."""
    assert after_failure(Outage(), error, 1.0) == (Outage(1, 1.0), again)


def test_not_for_ever() -> None:
    """What fails a third time in a row is tried again no more."""
    assert after_failure(Outage(AGAIN_MAX), Overloaded("full"), 0.0)[1] is False


def test_shutting_down() -> None:
    """A process that ends is no outage: another one asks."""
    assert after_failure(Outage(3, 9.0), ShuttingDown("bye"), 5.0) == (Outage(3, 9.0), True)


def test_time_is_bounded() -> None:
    """Providers that never answer cost a job 30 s, however many parts it has."""
    outage, took_s = Outage(), 0.0
    for _ in range(200):
        limit_s = first_token_limit_s(outage)
        if limit_s is not None:
            took_s += limit_s
            outage, _ = after_failure(outage, DeadlineExceeded("late"), limit_s)
    assert took_s == LOST_S_MAX
