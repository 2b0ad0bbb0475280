"""Half a day of the free-provider week, with all its set pieces: what each gateway achieves, and what the
service guarantees."""

from functools import cache

import pytest

from tests.experiments.free_people import PersonResult
from tests.experiments.free_week import (
    FIRST,
    IN_TURN,
    RETRIES,
    SERVICE,
    TOLD,
    WeekResult,
    off_share,
    percent,
    play,
)
from tests.experiments.free_world import PROVIDERS, FreeWorld

WORLD = FreeWorld(seed=1, requests=350, days=0.5)  # the whole: python -m tests.experiments.free_week
ALONE, AGAIN = f"{FIRST}:0", f"{FIRST}:{RETRIES}"
DEADLINE_S = 300.0


@cache
def half_a_day(which: str) -> WeekResult:
    return play(WORLD, which)


def test_who_stands_where() -> None:
    """Retries help a little, another provider helps a lot; a client that waits for a dead provider waits for
    a minute."""
    alone, again, in_turn, ours = map(half_a_day, (ALONE, AGAIN, IN_TURN, SERVICE))
    assert alone.share("complete") < again.share("complete") < in_turn.share("complete")
    assert ours.share("complete") >= in_turn.share("complete")
    assert alone.worst_hour()[1] <= again.worst_hour()[1] < ours.worst_hour()[1]
    assert again.first_s(0.99) > in_turn.first_s(0.99) > 20 * ours.first_s(0.99)
    assert ours.tries < again.tries


@pytest.mark.parametrize("which", [SERVICE, TOLD])
def test_what_everybody_is_owed(which: str) -> None:
    """Every request ends within the deadline, with an answer whenever a provider could give one. Nothing
    empty and no part of an answer is ever delivered as an answer; nor is a notice whose words are known."""
    week = half_a_day(which)
    assert len(week.asked) == WORLD.requests
    assert max(one.took_s for one in week.asked) <= DEADLINE_S + 0.1
    wrong = {one.why for one in week.asked if one.ending == "wrong"}
    assert wrong == (set() if which == TOLD else {"something else"})
    could = [one for one in week.asked if one.able]
    assert len(could) > 0.99 * len(week.asked)
    lost = [one for one in could if one.ending in ("failed", "degraded")]
    assert not lost, lost[:3]
    assert week.share("cut") < 0.02  # live streams that broke off: what was sent cannot be taken back


def test_it_is_the_same_every_time() -> None:
    """Equal seeds give equal weeks, request by request; another seed another week."""

    def first_hours(seed: int) -> list[PersonResult]:
        return list(play(FreeWorld(seed=seed, requests=100, days=0.05), SERVICE).asked)

    assert first_hours(1) == first_hours(1) != first_hours(2)


def test_the_week_is_as_bad_as_told() -> None:
    """Every provider is off for some of the week, none for all of it; one for more than two days in a row."""
    week = FreeWorld()
    assert all(0.01 < off_share(week, free.name) < 0.6 for free in PROVIDERS)
    gone = sorted(
        (o.at_s, o.until_s) for o in week.outages if o.provider == "tunnel" and o.kind.startswith("530")
    )
    longest_s = until_s = began_s = 0.0
    for at_s, end_s in gone:
        began_s = at_s if at_s > until_s + 1.0 else began_s
        until_s = max(until_s, end_s)
        longest_s = max(longest_s, until_s - began_s)
    assert longest_s > 2 * 86_400


def test_percent() -> None:
    """A share below all is never shown as all, nor a share above none as none."""
    assert [percent(share) for share in (0.0, 1e-6, 0.5, 1 - 1e-6, 1.0)] == [
        "0%",
        "0.01 %",
        "50.00 %",
        "99.99 %",
        "100%",
    ]
