"""Whatever happens in whatever order: nobody is forgotten, nobody goes in without a place, nothing is left
behind."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dub5.service.config.options import AdmissionOptions
from dub5.service.model import Priority
from dub5.simulators.virtual import run
from tests.support.examples import examples
from tests.support.queue_harness import ONE, TWO, QueueHarness, settle

WAYS = ((ONE,), (TWO,), (ONE, TWO), (TWO, ONE))
ENDS = {"served", "left", "expired", "overloaded", "full"}

come = st.tuples(
    st.just("come"),
    st.sampled_from(list(Priority)),
    st.sampled_from([0.2, 1.0, 5.0, 1000.0]),
    st.sampled_from(WAYS),
)
steps = st.lists(
    st.one_of(
        come,
        come,
        st.tuples(st.just("give"), st.sampled_from(["one", "two"]), st.integers(1, 3)),
        st.tuples(st.just("quiet"), st.sampled_from(["one", "two"])),
        st.tuples(st.just("steal"), st.sampled_from(["one", "two"])),
        st.tuples(st.just("leave"), st.integers(0, 1000)),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.06, 0.5, 3.0])),
    ),
    max_size=60,
)


async def act(harness: QueueHarness, step: tuple[Any, ...]) -> None:
    """Without settling: what follows comes in the midst of it."""
    match step:
        case ("come", priority, within_s, targets):
            await harness.come(len(harness.tasks), priority, within_s=within_s, targets=targets)
        case ("give", name, count):
            harness.places.free[name] += count - 1
            harness.places.give(name)
        case ("quiet", name):  # a place that nobody tells of
            harness.places.free[name] += 1
        case ("steal", name):
            harness.places.free[name] = max(0, harness.places.free[name] - 1)
        case ("leave", which):
            if harness.tasks:
                harness.tasks[which % len(harness.tasks)].cancel()
        case ("wait", s):
            await asyncio.sleep(s)


def check(harness: QueueHarness) -> None:
    """What holds whenever everything has come to rest."""
    queue = harness.queue
    waiting = [waiter for wait_queue in queue._queues.values() for waiter in wait_queue]
    assert queue.waiting == len(waiting) <= 2 * queue.options.waiting_max
    assert queue.waiting == sum(not task.done() for task in harness.tasks.values())
    assert queue._called is None
    assert min(harness.places.free.values()) >= 0
    for waiter in waiting:
        assert waiter.wait_queue.fleet.must_wait(waiter.wait_queue.targets, 0.0), (
            "somebody waits beside a free place"
        )


async def play(script: list[tuple[Any, ...]]) -> None:
    options = AdmissionOptions(waiting_max=8, target_s=0.2, interval_s=0.5)
    harness = QueueHarness(1, options, two=0)
    for step in script:
        await act(harness, step)
        if step[0] in ("wait", "give"):
            await asyncio.sleep(0.06)
            await settle()
            check(harness)
    await asyncio.sleep(0.06)
    check(harness)
    for task in harness.tasks.values():
        task.cancel()
    await settle()
    check(harness)
    await asyncio.sleep(0.1)
    assert harness.queue._timer is None and harness.queue.waiting == 0
    assert {event.how for event in harness.events} <= ENDS
    assert len({event.request_id for event in harness.events}) == len(harness.events), "one leaves once"


@examples(150)
@given(steps, st.integers(0, 3))
def test_any_order(script: list[tuple[Any, ...]], seed: int) -> None:
    """Places come, are stolen, and are made in silence; people come, leave and run out of time."""
    run(play(script), seed=seed)
