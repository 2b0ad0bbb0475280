"""The watch: one timer, many waits."""

import asyncio

import pytest

from dub5.chaos.simulation.mutant import mutated
from dub5.service import clock
from dub5.service.timeouts import NEVER, TimedOut, Timeouts


async def test_a_wait_ends_at_its_limit() -> None:
    """The clock that ran out is named, at the moment it ran out."""
    timeouts = Timeouts(NEVER)
    with pytest.raises(TimedOut, match="first_token"):
        await timeouts.run("first_token", 2.0, asyncio.sleep(9))
    assert clock.now() == pytest.approx(2.0)


async def test_the_deadline_comes_first() -> None:
    """A limit that reaches beyond the deadline ends with it, and under its name."""
    timeouts = Timeouts(clock.now() + 1.0)
    with pytest.raises(TimedOut, match="deadline"):
        await timeouts.run("first_token", 2.0, asyncio.sleep(9))


async def test_time_between_waits_does_not_count() -> None:
    """Many waits, each within its limit, with long pauses between them: nothing runs out."""
    timeouts = Timeouts(NEVER)
    for _ in range(5):
        await timeouts.run("between_tokens", 2.0, asyncio.sleep(1.9))
        await asyncio.sleep(60)
    timeouts.close()


async def test_a_shorter_limit_after_a_longer_one() -> None:
    """A timer set for a long wait does not delay the end of a short one."""
    timeouts = Timeouts(NEVER)
    await timeouts.run("client_stall", 30.0, asyncio.sleep(0))
    began_s = clock.now()
    with pytest.raises(TimedOut):
        await timeouts.run("between_tokens", 2.0, asyncio.sleep(9))
    assert clock.now() - began_s == pytest.approx(2.0)


async def test_cancelled_by_somebody_else() -> None:
    """A cancellation from outside stays a cancellation."""

    async def work() -> None:
        await Timeouts(NEVER).run("first_token", 5.0, asyncio.sleep(9))

    task = asyncio.create_task(work())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_both_at_once() -> None:
    """Where the clock runs out in the very turn somebody cancels, the cancellation is not lost."""

    async def work() -> None:
        await Timeouts(NEVER).run("first_token", 5.0, asyncio.sleep(9))

    task = asyncio.create_task(work())
    asyncio.get_running_loop().call_at(5.0, task.cancel)
    with pytest.raises((asyncio.CancelledError, TimedOut)) as caught:
        await task
    if caught.type is TimedOut:
        assert task.cancelling() == 0 or task.done()


@pytest.mark.parametrize("error", [ValueError, KeyError, OSError])
async def test_what_turns_the_cancellation_into_another_error(error: type[Exception]) -> None:
    """A wait whose limit passes, and whose work then fails in its own way, leaves its task not cancelled."""

    async def work() -> None:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            raise error from None

    timeouts = Timeouts(NEVER)
    with pytest.raises(error):
        await timeouts.run("first_token", 1.0, work())
    assert timeouts.task.cancelling() == 0
    async with asyncio.timeout(5):  # it relies on that count
        await asyncio.sleep(1)


async def test_a_cancellation_that_stays_counted_is_caught() -> None:
    """A build that keeps its own cancellation counted fails the test above."""
    with mutated("tests.simulation.mutants:" + "own_cancellation_counted"), pytest.raises(AssertionError):
        await test_what_turns_the_cancellation_into_another_error(OSError)


async def test_a_finished_wait_leaves_nothing_behind() -> None:
    """After `close` no timer is left to wake the loop."""
    timeouts = Timeouts(NEVER)
    await timeouts.run("first_token", 5.0, asyncio.sleep(1))
    timeouts.close()
    await asyncio.sleep(100)
    assert clock.now() == pytest.approx(101.0)


async def test_a_loop_that_stood_still() -> None:
    """What came while our own loop was busy is taken: the clock ran out, and it was nobody's fault but
    ours."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def stand_still() -> None:
        loop._now_ns += 3_000_000_000  # type: ignore[attr-defined]
        loop.call_later(0.01, answer.set_result, "here")

    loop.call_later(0.5, stand_still)
    timeouts = Timeouts(loop.time() + 60.0)
    assert await timeouts.run("first_token", 1.0, answer) == "here"
    with pytest.raises(TimedOut):
        await timeouts.run("first_token", 1.0, loop.create_future())
    assert loop.time() == pytest.approx(4.51, abs=0.01), "the next wait has its own time, no more"
    timeouts.close()
