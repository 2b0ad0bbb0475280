import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest

from dub5.simulators.virtual import Deadlock, Escaped, Leaked, VirtualLoop, run
from tests.support.small_world import digest_of_small_world, small_world
from tests.support.source import ROOT


def loop() -> VirtualLoop:
    running = asyncio.get_running_loop()
    assert isinstance(running, VirtualLoop)
    return running


async def test_an_hour_of_waiting() -> None:
    """An hour of waiting takes no time, and is an hour to the nanosecond."""
    began = time.perf_counter()
    await asyncio.sleep(1200)
    await asyncio.wait_for(asyncio.sleep(1200), 9999)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1200):
            await asyncio.Event().wait()
    assert loop().time() == 3600
    assert loop().time_ns() == 3600 * 10**9
    assert time.perf_counter() - began < 1


async def test_waiting_for_the_rest_of_a_rounded_time() -> None:
    """A wait for less than a nanosecond takes one, so a loop that waits for a remainder always ends."""
    deadline = 0.1 + 0.2  # a little more than 0.3
    await asyncio.sleep(0.1)
    turns = 0
    while (left_s := deadline - loop().time()) > 0:
        await asyncio.sleep(left_s)
        turns += 1
    assert turns <= 2


def test_timers_of_one_instant_without_a_seed() -> None:
    """With seed=None timers of one instant keep asyncio's order: the order in which they were set."""
    said: list[int] = []

    async def main() -> None:
        here = asyncio.get_running_loop()
        for number, delay_s in enumerate([0.3, 0.1, 0.3, 0.1]):
            here.call_later(delay_s, said.append, number)
        await asyncio.sleep(1)

    run(main(), seed=None)
    assert said == [1, 3, 0, 2]


async def test_many_cancelled_timers() -> None:
    """Cancelled timers do not pile up, and those that are left still fire."""
    fired: list[str] = []
    asyncio.get_running_loop().call_later(2, fired.append, "kept")
    for _ in range(5000):
        asyncio.get_running_loop().call_later(1000, fired.append, "cancelled").cancel()
    assert len(loop()._timers) < 2500
    await asyncio.sleep(2000)
    assert fired == ["kept"]


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_the_same_seed_twice(seed: int | None) -> None:
    """Equal seeds give equal runs, step by step."""
    assert digest_of_small_world(seed) == digest_of_small_world(seed)


def test_the_same_seed_in_other_processes() -> None:
    """Neither hash seeds nor memory addresses affect the order of steps."""
    code = "from tests.support.small_world import *; print(digest_of_small_world(7))"
    for hash_seed in ["1", "2"]:
        ballast = [sys.executable, "-c", f"ballast = [object() for _ in range({hash_seed}0001)]; {code}"]
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        found = subprocess.run(ballast, env=env, cwd=ROOT, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == digest_of_small_world(7)


def test_another_seed() -> None:
    """Another seed orders the callbacks of one instant differently."""
    assert len({tuple(run(small_world(), seed=seed)) for seed in range(5)}) == 5


def test_the_date() -> None:
    """The wall clock follows the seed and moves with virtual time."""

    async def dates() -> tuple[float, float]:
        before = loop().wall()
        await asyncio.sleep(60)
        return before, loop().wall()

    before, after = run(dates(), seed=3)
    assert after - before == pytest.approx(60)
    assert run(dates(), seed=3) == (before, after)
    assert run(dates(), seed=4) != (before, after)


def test_a_deadlock() -> None:
    """When all tasks wait and no timer is set, an error names each task, oldest first, and where it waits."""

    async def waits(event: asyncio.Event) -> None:
        await event.wait()

    async def main() -> None:
        await asyncio.sleep(2)
        event = asyncio.Event()
        for name in ["zoe", "adam"]:
            asyncio.create_task(waits(event), name=name)
        await waits(event)

    with pytest.raises(Deadlock) as stuck:
        run(main())
    first, *tasks = str(stuck.value).splitlines()
    assert first == "at 2.0 s everything waits and nothing is scheduled:"
    assert [line.split(":")[0].strip() for line in tasks] == ["main", "zoe", "adam"]
    assert "test_loop.py" in tasks[1] and "Event.wait" in tasks[1]


def test_a_task_that_spins() -> None:
    """A task that yields for ever does not stop time: timers still fire, and without timers it is a
    deadlock."""

    async def spins_until(event: asyncio.Event) -> None:
        while not event.is_set():
            await asyncio.sleep(0)

    async def timed() -> float:
        event = asyncio.Event()
        asyncio.get_running_loop().call_later(1, event.set)
        await spins_until(event)
        return loop().time()

    assert run(timed()) == 1
    with pytest.raises(Deadlock, match="spins"):
        run(spins_until(asyncio.Event()))


def in_a_thread(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call, name="stranger")
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    ("what", "escape"),
    [
        ("sockets", lambda: asyncio.open_connection("127.0.0.1", 1)),
        ("sockets", lambda: asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)),
        ("threads", lambda: asyncio.to_thread(time.time)),
        ("subprocesses", lambda: asyncio.create_subprocess_exec("true")),
    ],
)
def test_the_world_outside(what: str, escape: Callable[[], object]) -> None:
    """The outside world is not reachable, and no `except Exception` hides the attempt."""

    async def main() -> None:
        with contextlib.suppress(Exception):
            await escape()  # type: ignore[misc]

    with pytest.raises(Escaped, match=f"there are no {what} in virtual time"):
        run(main())


def test_a_thread_that_calls_into_the_loop() -> None:
    """A call from a thread is detected, although the error is raised in that thread."""
    refused: list[BaseException] = []

    async def main() -> None:
        here = asyncio.get_running_loop()

        def call() -> None:
            with pytest.raises(Escaped) as refusal:
                here.call_soon_threadsafe(print)
            refused.append(refusal.value)

        in_a_thread(call)
        await asyncio.sleep(1)

    with pytest.raises(Escaped, match="stranger"):
        run(main())
    assert refused


def test_waiting_for_a_thread() -> None:
    """A wait that only a thread could end is reported as such."""
    ends = threading.Event()
    try:

        async def main() -> None:
            threading.Thread(target=ends.wait, name="stranger").start()
            await asyncio.Event().wait()

        with pytest.raises(Escaped, match="stranger"):
            run(main())
    finally:
        ends.set()


def test_a_task_left_behind() -> None:
    """A task left behind is cancelled and reported by name; a task that ends at the same instant is not."""
    ended: list[str] = []

    async def forgotten(name: str) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(name)

    async def quick() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def main() -> str:
        for name in ["zoe", "adam"]:
            asyncio.create_task(forgotten(name), name=name)
        asyncio.create_task(quick(), name="quick")
        await asyncio.sleep(0)
        return "done"

    with pytest.raises(Leaked) as leak:
        run(main())
    assert [line.split(":")[0] for line in str(leak.value).splitlines()[1:]] == ["zoe", "adam"]
    assert ended == ["zoe", "adam"] or ended == ["adam", "zoe"]
    assert run(main(), leaks=True) == "done"


def test_an_error_that_nobody_looks_at() -> None:
    """An error that is never retrieved fails the run."""

    async def fails() -> None:
        raise ValueError("unseen")

    async def main() -> None:
        asyncio.create_task(fails())
        await asyncio.sleep(1)

    with pytest.raises(Leaked, match="unseen"):
        run(main())


def test_generators_left_open() -> None:
    """Open generators are closed at the end of the run, in virtual time, in the order in which they began."""
    closed: list[tuple[int, float]] = []
    kept: list[AsyncIterator[int]] = []

    async def numbers(name: int) -> AsyncIterator[int]:
        try:
            yield name
        finally:
            await asyncio.sleep(1)
            closed.append((name, loop().time()))

    async def main() -> None:
        kept.extend(numbers(name) for name in range(8))
        for generator in reversed(kept):
            await anext(generator)

    run(main())
    assert closed == [(7 - number, number + 1.0) for number in range(8)]


def test_an_invariant_that_breaks() -> None:
    """An error raised by on_step ends the run, and leaves nothing running."""
    ended: list[bool] = []

    async def main() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(True)

    def check(at_ns: int, name: str) -> None:
        assert at_ns < 10**9, f"{name} at {at_ns}"

    with pytest.raises(AssertionError, match="at 10000000000"):
        run(main(), on_step=check)
    assert ended


def test_asyncio_s_own_runner() -> None:
    """The loop also serves asyncio.Runner."""

    async def main() -> float:
        await asyncio.sleep(5)
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(main()) == 5


@pytest.mark.real_sockets
async def test_a_test_marked_real_sockets() -> None:
    """A test marked real_sockets runs on a real event loop."""
    assert not isinstance(asyncio.get_running_loop(), VirtualLoop)


def test_an_interrupt_waits_for_the_end_of_the_step() -> None:
    """What a signal's handler asks for comes between two turns: within a step, a future would be half set."""
    steps: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().interrupt()  # type: ignore[attr-defined]
        steps.append("the rest of the step")
        try:
            await asyncio.sleep(1.0)
        finally:
            steps.append("closed")

    with pytest.raises(KeyboardInterrupt):
        run(main())
    assert steps == ["the rest of the step", "closed"]
