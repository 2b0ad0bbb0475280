"""Who waits, who goes first, who is sent away, and what they are told."""

import asyncio

import pytest

from dub5.service.config.options import AdmissionOptions
from dub5.service.errors import DeadlineExceeded, Overloaded
from dub5.service.model import Priority
from tests.support.queue_harness import ONE, TWO, QueueHarness, settle

HIGH, NORMAL, LOW = Priority


async def served(harness: QueueHarness, seconds: float, every_s: float) -> None:
    """Places come free at a steady rate."""
    for _ in range(round(seconds / every_s)):
        await asyncio.sleep(every_s)
        harness.places.give()
        await settle()


class TestPlaces:
    async def test_room(self) -> None:
        """A request that finds a free slot does not wait, and no event reports it."""
        harness = QueueHarness(2)
        await harness.come(1)
        assert harness.inside == [1] and not harness.events

    async def test_one_place_wakes_one(self) -> None:
        """A place that is free again calls one of those who wait, and the others are left alone."""
        harness = QueueHarness(0)
        for number in range(100):
            await harness.come(number)
        looked = harness.places.looked
        harness.places.give()
        await settle()
        assert harness.inside == [0]
        assert harness.places.looked - looked < 6
        assert [event.how for event in harness.events] == ["served"]
        await harness.close()

    async def test_several_places_at_once(self) -> None:
        """Each of several free slots is taken, though the queue was notified only once."""
        harness = QueueHarness(0)
        for number in range(10):
            await harness.come(number)
        harness.places.free["one"] = 4
        harness.places.give()
        await settle()
        assert harness.inside == [0, 1, 2, 3, 4]
        await harness.close()

    async def test_somebody_is_faster(self) -> None:
        """A request that was woken, and finds the slot taken, keeps its place in the queue."""
        harness = QueueHarness(0)
        for number in (1, 2):
            await harness.come(number)
        harness.places.give()
        harness.places.take([ONE])  # a retry, say: those who are inside do not ask the queue
        await settle()
        assert not harness.inside
        harness.places.give()
        await settle()
        assert harness.inside == [1]
        await harness.close()

    async def test_nobody_pushes_in(self) -> None:
        """A new request joins the end of the queue, even if a slot is free for a waiting one."""
        harness = QueueHarness(0)
        await harness.come(1)
        harness.places.free["one"] = 1  # nobody was told yet
        await harness.come(2)
        await settle()
        assert harness.inside == [1]
        await harness.close()

    async def test_called_and_gone(self) -> None:
        """A client that leaves in the moment in which it is called passes the place on."""
        harness = QueueHarness(0)
        for number in (1, 2):
            await harness.come(number)
        harness.places.give()
        harness.tasks[1].cancel()
        await settle()
        assert harness.inside == [2]
        assert [event.how for event in harness.events] == ["left", "served"]

    async def test_a_client_that_leaves(self) -> None:
        """A client that leaves is out of the queue at once."""
        harness = QueueHarness(0)
        for number in range(3):
            await harness.come(number)
        await harness.leave(1)
        assert harness.queue.waiting == 2
        await harness.close()
        assert harness.queue.waiting == 0

    async def test_nobody_says_so(self) -> None:
        """A cool-down that ends, or a probe that is due, makes room without a word: it is found all the
        same."""
        harness = QueueHarness(0)
        await harness.come(1)
        harness.places.free["one"] = 1
        await asyncio.sleep(0.06)
        assert harness.inside == [1]

    async def test_lines_do_not_disturb_each_other(self) -> None:
        """A line for one provider keeps nobody from another; who can use both takes whichever comes first."""
        harness = QueueHarness(0, two=1)
        await harness.come(1)
        await harness.come(2, targets=[TWO])
        assert harness.inside == [2]
        await harness.come(3, targets=[ONE, TWO])
        harness.places.give("two")
        await settle()
        assert harness.inside == [2, 3]
        await harness.close()

    async def test_lines_take_turns(self) -> None:
        """Two routes with the same provider share its places."""
        harness = QueueHarness(0, two=0)
        for number in range(3):
            await harness.come(number)
            await harness.come(10 + number, targets=[ONE, TWO])
        for _ in range(4):
            harness.places.give()
            await settle()
        assert sorted(harness.inside) == [0, 1, 10, 11]
        await harness.close()

    async def test_switched_off(self) -> None:
        """With `queue_max` 0 no request waits: the loop over the targets explains the refusal."""
        harness = QueueHarness(1, AdmissionOptions(waiting_max=0))
        harness.places.free["one"] = 0
        assert harness.queue.may_pass(harness.places, [ONE], 0.0)  # type: ignore[arg-type]


class TestOrder:
    async def test_a_line_that_moves(self) -> None:
        """A queue that moves is first in, first out."""
        harness = QueueHarness(0)
        for number in range(3):
            await harness.come(number)
        await served(harness, 0.3, 0.1)
        assert harness.inside == [0, 1, 2]

    async def test_a_line_that_stands(self) -> None:
        """The newest goes first, since it is the farthest from giving up."""
        harness = QueueHarness(0, AdmissionOptions(target_s=0.5, interval_s=1.0))
        for number in range(40):
            await harness.come(number)
            await asyncio.sleep(0.1)
        harness.places.give()
        await settle()
        assert harness.inside == [39]
        await harness.close()

    async def test_classes(self) -> None:
        """The higher ones go first, within a class the older ones."""
        harness = QueueHarness(0)
        for number, priority in enumerate((LOW, NORMAL, HIGH, LOW, NORMAL, HIGH)):
            await harness.come(number, priority)
        for _ in range(6):
            harness.places.give()
            await settle()
        assert harness.inside == [2, 5, 1, 4, 0, 3]

    async def test_nobody_starves(self) -> None:
        """Half of what there is room for is high: the low ones have the other half."""
        harness = QueueHarness(0)
        for number in range(0, 200, 2):
            await harness.come(number, LOW)
            await harness.come(number + 1, HIGH)
            for _ in range(2):
                harness.places.give()
                await settle()
            await asyncio.sleep(0.1)
        assert len(harness.inside) == 200 and not harness.errors


class TestRefusals:
    async def test_waited_too_long(self) -> None:
        """Once the line has stood for an interval, those go who have waited for more than twice the target;
        at once."""
        harness = QueueHarness(0, AdmissionOptions(target_s=0.5, interval_s=2.0))
        for number in range(60):
            await harness.come(number)
            await asyncio.sleep(0.1)
        refused = [number for number, error in harness.errors.items() if isinstance(error, Overloaded)]
        assert 45 <= len(refused) <= 50  # all but those of the last second
        waited_s = [event.waited_s for event in harness.events]
        assert max(waited_s) <= 2.7 and all(waited_s[i] <= 1.15 for i in range(20, len(waited_s)))
        assert {event.how for event in harness.events} == {"overloaded"}
        await harness.close()

    async def test_the_last_one_stays(self) -> None:
        """A single one that waits is not sent away, or a place would find nobody."""
        harness = QueueHarness(0)
        await harness.come(1)
        await asyncio.sleep(60.0)
        harness.places.give()
        await settle()
        assert harness.inside == [1]

    async def test_out_of_time(self) -> None:
        """A request with less time left than half of the recent answers took is refused while it can still
        act."""
        harness = QueueHarness(0)
        for took_s in (0.1, 0.7, 0.8, 0.9, 9.0):
            harness.service_times.of("chat", "chat", True).note(took_s)
        await harness.come(2, within_s=2.0)
        await harness.come(3, within_s=0.7)
        await asyncio.sleep(3.0)
        assert {n: type(error) for n, error in harness.errors.items()} == {
            3: DeadlineExceeded,
            2: DeadlineExceeded,
        }
        assert harness.ended_s[3] == 0.0
        assert 1.15 <= harness.ended_s[2] <= 1.25

    async def test_full(self) -> None:
        """Requests beyond the queue's limit are refused at once."""
        harness = QueueHarness(0, AdmissionOptions(waiting_max=3))
        for number in range(5):
            await harness.come(number)
        assert set(harness.errors) == {3, 4} and harness.queue.waiting == 3
        assert harness.events[0].waited_s == 0.0
        await harness.close()

    async def test_full_of_lower_ones(self) -> None:
        """The oldest of the lowest class goes for a higher one, and for no lower or equal one."""
        harness = QueueHarness(0, AdmissionOptions(waiting_max=3))
        for number, priority in enumerate((NORMAL, LOW, LOW, LOW, HIGH, NORMAL, LOW)):
            await harness.come(number, priority)
        await settle()
        assert [n for n in range(7) if n in harness.errors] == [1, 2, 3, 6]
        await harness.close()

    async def test_what_they_are_told(self) -> None:
        """The refusal names what is full, and estimates Retry-After from the recent drain of the queue."""
        harness = QueueHarness(0, AdmissionOptions(target_s=60.0))
        for number in range(20):
            await harness.come(number)
        await served(harness, 5.0, 0.5)
        harness.queue.options = AdmissionOptions(waiting_max=10)
        await harness.come(99)
        error = harness.errors[99]
        assert error.retry_after_s == pytest.approx(11 / 2.0, rel=0.25)
        assert [(a.reason, a.tried) for a in error.attempts] == [("provider_full", False)]
        await harness.close()

    async def test_nothing_moves(self) -> None:
        """Without any recent drain Retry-After is ten seconds."""
        harness = QueueHarness(0, AdmissionOptions(waiting_max=1))
        for number in range(2):
            await harness.come(number)
        assert harness.errors[1].retry_after_s == 10.0
        await harness.close()


class TestStatus:
    async def test_who_waits(self) -> None:
        """Waiting requests are counted by queue and class, with the oldest one's wait."""
        harness = QueueHarness(0)
        await harness.come(1, HIGH)
        await asyncio.sleep(1.0)
        await harness.come(2)
        told = harness.queue.snapshot()
        assert told == {
            "waiting": 2,
            "waiting_max": 1000,
            "lines": [
                {
                    "targets": ["one/m"],
                    "waiting": {"high": 1, "normal": 1, "low": 0},
                    "stands": False,
                    "oldest_s": 1.0,
                    "served_per_s": 0.0,
                }
            ],
        }
        await harness.close()

    async def test_the_time_is_not_ours(self) -> None:
        """What a request waited for its providers is no overhead of this service."""
        harness = QueueHarness(0)
        await harness.come(1)
        await asyncio.sleep(1.0)
        harness.places.give()
        await settle()
        assert harness.events[0].waited_s == 1.0


class TestOtherProviders:
    async def test_a_full_queue_before_another(self) -> None:
        """As many requests as may wait for one provider are in nobody's way who can go to another."""
        harness = QueueHarness(0, AdmissionOptions(waiting_max=3), two=1)
        for number in range(3):
            await harness.come(number)
        await harness.come(10, targets=[ONE, TWO])
        assert harness.inside == [10] and not harness.errors
        await harness.close()

    async def test_they_wait_beside_each_other(self) -> None:
        """They do not count against those who wait for another provider, and go first at none but theirs."""
        harness = QueueHarness(0, AdmissionOptions(waiting_max=3), two=0)
        for number in range(3):
            await harness.come(number)
        for number in range(10, 14):
            await harness.come(number, targets=[ONE, TWO])
        assert [harness.errors[n].code for n in harness.errors] == ["overloaded"] and 13 in harness.errors
        harness.places.give("two")
        await settle()
        assert harness.inside == [10]
        harness.places.give("one")
        await settle()
        assert harness.inside == [10, 0]
        await harness.close()

    async def test_nobody_pushes_in_at_a_provider_that_is_waited_for(self) -> None:
        """A newcomer with a choice leaves the provider alone that others wait for."""
        harness = QueueHarness(0, two=0)
        await harness.come(1)
        harness.places.free["one"] = 1
        await harness.come(2, targets=[TWO, ONE])
        await settle()
        assert harness.inside == [1]
        await harness.close()

    async def test_a_higher_class_of_another_provider_makes_no_room(self) -> None:
        """Nobody is sent away for a request that needs another provider."""
        harness = QueueHarness(0, AdmissionOptions(waiting_max=1), two=0)
        await harness.come(1, LOW)
        await harness.come(2, HIGH, targets=[TWO])
        await harness.come(3, HIGH, targets=[TWO])
        assert list(harness.errors) == [3]
        await harness.close()
