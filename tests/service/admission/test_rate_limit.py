"""Rate limits: the sliding log is exact, and only clients that do not wait are blocked."""

import itertools
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.admission.rate_limit import (
    EARLY_S,
    FORGOTTEN_AT_ONCE,
    KEYS_MAX,
    STRIKES_WITHIN_S,
    UNDERWAY_S,
    Penalties,
    RateLimit,
    SlidingLog,
)

TWO = RateLimit("ip", 2, 60)
times = st.lists(st.integers(0, 400).map(lambda n: n / 4), max_size=60).map(sorted)


def ask(log: SlidingLog, key: str, now_s: float) -> bool:
    """Send one request; return whether it was accepted."""
    now_us = round(now_s * 1e6)
    usage = log.usage(key, now_us)
    if not usage.full:
        log.add(key, now_us)
    return not usage.full


class NaiveLog:
    """The same limit as a list of all times that were ever accepted."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self.accepted: list[float] = []

    def ask(self, now_s: float) -> bool:
        in_window = [at_s for at_s in self.accepted if at_s + self._limit.window_s > now_s]
        if len(in_window) >= self._limit.count:
            return False
        self.accepted.append(now_s)
        return True


@given(times, st.integers(1, 5), st.integers(1, 30))
def test_as_the_naive_model(at: Sequence[float], count: int, window_s: int) -> None:
    """Whatever comes when: never more than `count` in any window, and none is refused below it."""
    limit = RateLimit("ip", count, window_s)
    log, naive = SlidingLog(limit), NaiveLog(limit)
    assert [ask(log, "a", at_s) for at_s in at] == [naive.ask(at_s) for at_s in at]
    for first, last in zip(naive.accepted, naive.accepted[count:], strict=False):
        assert last - first >= window_s


@given(times, st.integers(1, 4))
def test_who_comes_again_when_told_is_accepted(at: Sequence[float], count: int) -> None:
    """The time until a request is free again is exact: a moment before it, a request is refused."""
    log = SlidingLog(RateLimit("ip", count, 7))
    for at_s in at:
        if not ask(log, "a", at_s):
            at_us = round(at_s * 1e6)
            frees_us = log.usage("a", at_us).frees_us
            assert log.usage("a", at_us + frees_us - 1).full
            assert not log.usage("a", at_us + frees_us).full
            return


def test_no_double_burst_where_windows_meet() -> None:
    """Two requests at the end of one minute and two at the beginning of the next one are two too many."""
    log = SlidingLog(TWO)
    assert [ask(log, "a", at_s) for at_s in (59.0, 59.0, 61.0, 61.0, 118.9, 119.0, 119.0, 119.0)] == [
        *(True, True, False, False, False),
        *(True, True, False),
    ]


def test_keys_are_bounded() -> None:
    """Of 100,001 keys within a window the one that was counted longest ago is forgotten, and no other."""
    log = SlidingLog(RateLimit("ip", 1, 60))
    for number in range(KEYS_MAX + 1):
        assert ask(log, str(number), number * 1e-4)
    assert len(log) == KEYS_MAX
    assert not ask(log, "1", 11.0) and not ask(log, str(KEYS_MAX), 11.0)
    assert ask(log, "0", 11.0)


def test_memory_is_bounded() -> None:
    """10,000 addresses, each with a request and a refusal, take less than 500 bytes each and in each."""
    log, penalties = SlidingLog(TWO), Penalties(5, 60.0, 3_600.0)
    tracemalloc.start()
    for number in range(10_000):
        key = f"2001:db8:{number:x}::/64"
        log.add(key, number)
        penalties.refuse("ip", key, 60.0, number * 1e-6)
    used_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used_bytes < 10_000 * 2 * 500


def test_keys_whose_window_is_over_are_forgotten() -> None:
    """A key needs memory only while its requests count; no request forgets more than a few."""
    log = SlidingLog(TWO)
    for number in range(1_000):
        ask(log, str(number), number * 0.01)
    assert len(log) == 1_000
    ask(log, "late", 71.0)
    assert len(log) == 1_001 - FORGOTTEN_AT_ONCE
    for number in range(1_000 // FORGOTTEN_AT_ONCE):
        ask(log, "late", 140.0 + 40.0 * number)
    assert len(log) == 1


class Client:
    """A client that is refused by a limit whose next request is free at `frees_at_s`."""

    def __init__(self, strikes: int = 3, block_s: float = 10.0, block_max_s: float = 40.0) -> None:
        self.penalties = Penalties(strikes, block_s, block_max_s)

    def refused(self, at_s: float, wait_s: float = 30.0) -> float:
        assert not self.penalties.blocked_s("ip", "a", at_s)
        return self.penalties.refuse("ip", "a", wait_s, at_s)

    def insist(self, from_s: float) -> float:
        """Ask each second and do not wait; return the length of the block."""
        for at_s in itertools.count(int(from_s)):
            if block_s := self.refused(float(at_s), wait_s=1_000.0):
                return block_s
        raise AssertionError("never blocked")


def test_a_client_that_does_not_wait_is_blocked() -> None:
    """The block begins with the third refusal that the client could have avoided, and ends by itself."""
    client = Client(strikes=3)
    assert [client.refused(at_s, wait_s=9.0) for at_s in (0.0, 3.0, 4.0, 5.0)] == [0.0, 0.0, 0.0, 10.0]
    assert client.penalties.blocked_s("ip", "a", 14.9) == pytest.approx(0.1)
    assert client.penalties.blocked_s("ip", "a", 15.0) == 0.0
    assert client.penalties.blocked_s("ip", "b", 6.0) == client.penalties.blocked_s("caller", "a", 6.0) == 0.0


def test_requests_under_way_are_no_strikes() -> None:
    """A thousand requests sent at once are refused at once: none of them could know."""
    client = Client(strikes=1)
    assert not any(client.refused(UNDERWAY_S * number / 1_000) for number in range(1_000))
    assert client.refused(UNDERWAY_S)


@given(st.lists(st.floats(0.01, 60.0), min_size=1, max_size=200), st.floats(0.0, EARLY_S * 0.99))
def test_a_client_that_waits_is_never_blocked(waits: list[float], early_s: float) -> None:
    """Whoever waits as long as told may be refused again for ever; rounding the time is forgiven."""
    client, now_s = Client(strikes=1), 0.0
    for wait_s in waits:
        assert client.refused(now_s, wait_s) == 0.0
        now_s += max(0.0, wait_s - early_s)


def test_strikes_of_more_than_a_minute_ago_are_forgotten() -> None:
    """Two strikes and, a minute after the first, a third one are no block."""
    client = Client(strikes=3)
    at = (0.0, 3.0, 4.0, 3.0 + STRIKES_WITHIN_S)
    assert [client.refused(at_s, wait_s=1_000.0) for at_s in at] == [0.0] * 4


def test_blocks_grow_and_are_forgotten() -> None:
    """Each block is twice the last, up to the longest; twice its time after its end it is forgotten."""
    client, now_s, blocks = Client(block_s=10.0, block_max_s=40.0), 0.0, []
    for _ in range(4):
        blocks.append(client.insist(now_s))
        now_s = float(int(now_s)) + 5.0 + blocks[-1]
    assert blocks == [10.0, 20.0, 40.0, 40.0]
    assert client.insist(now_s + 2 * 40.0 + 1.0) == 10.0


def test_penalties_are_bounded() -> None:
    """Of too many keys the one that was refused longest ago is forgotten."""
    penalties = Penalties(1, 10.0, 10.0, keys_max=2)
    for number in range(3):
        penalties.refuse("ip", str(number), 100.0, number * 1.0)
    assert penalties.refuse("ip", "0", 100.0, 10.0) == 0.0, "forgotten: told for the first time"
    assert penalties.refuse("ip", "2", 100.0, 10.0) == 10.0
