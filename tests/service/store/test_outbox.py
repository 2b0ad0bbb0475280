"""The bookkeeping of the outbox: order, bounds, and who goes first."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from dub5.service.store.outbox import Outbox


@dataclass(frozen=True)
class Write:
    lane: str
    number: int
    size: int = 10


STEPS = st.lists(st.one_of(st.sampled_from("abc"), st.sampled_from(["take", "back", "done", "defer"])))


@given(STEPS)
def test_any_order_of_events(steps: list[str]) -> None:
    """Whatever happens: each lane is sent in order, one at a time, without holes; and counts are right."""
    outbox: Outbox[Write] = Outbox(writes_max=5, bytes_max=45)
    kept: dict[str, list[int]] = {}  # by lane, what was accepted and is not through
    under_way: list[Write] = []
    for number, step in enumerate(steps):
        if step in ("a", "b", "c"):
            held = sum(map(len, kept.values()))
            if outbox.add(Write(step, number)):
                kept.setdefault(step, []).append(number)
            else:
                assert held > 0
            assert sum(map(len, kept.values())) <= 4  # 45 bytes
        elif step == "take" and (write := outbox.take()) is not None:
            assert write.lane not in {other.lane for other in under_way}
            assert write.number == kept[write.lane][0]
            under_way.append(write)
        elif step == "back" and under_way:
            outbox.put_back(under_way.pop())
        elif step == "done" and under_way:
            write = under_way.pop(0)
            outbox.remove(write)
            kept[write.lane].pop(0)
        elif step == "defer":
            outbox.defer()
        assert [(w.lane, w.number) for w in outbox] == [(lane, n) for lane in kept for n in kept[lane]] or {
            (w.lane, w.number) for w in outbox
        } == {(lane, n) for lane in kept for n in kept[lane]}
        assert (outbox.count, outbox.bytes) == (len(list(outbox)), 10 * len(list(outbox)))
    for write in under_way:
        outbox.put_back(write)
    while (last := outbox.take()) is not None:
        assert last.number == kept[last.lane].pop(0)
        outbox.remove(last)
    assert not any(kept.values())


def test_once_full_nothing_is_taken_until_it_is_empty() -> None:
    """A write whose predecessor was forgotten is not sent: what is lost is the end of the outage."""
    outbox: Outbox[Write] = Outbox(writes_max=2)
    first, second = Write("a", 1), Write("b", 1)
    assert [outbox.add(write) for write in (first, second, Write("c", 1))] == [True, True, False]
    outbox.remove(outbox.take() or first)
    assert not outbox.add(Write("c", 2))
    outbox.remove(outbox.take() or second)
    assert outbox.add(Write("c", 3))


def test_what_is_too_large_is_forgotten_alone() -> None:
    """A write that could never fit does not close an empty outbox."""
    outbox: Outbox[Write] = Outbox(bytes_max=100)
    assert not outbox.add(Write("a", 1, size=101))
    assert outbox.add(Write("a", 2))


def test_bulk_leaves_room() -> None:
    """There is no room for bulk where the rest of the outbox is for small writes."""
    outbox: Outbox[Write] = Outbox(bytes_max=100)
    assert outbox.has_room_for_bulk(75) and not outbox.has_room_for_bulk(76)
    outbox.add(Write("a", 1, size=70))
    assert not outbox.has_room_for_bulk(6) and outbox.add(Write("b", 1, size=30))


def test_the_backlog_goes_last() -> None:
    """Writes that somebody waits for go before those of an outage, and a lane that goes on is waited for."""
    outbox: Outbox[Write] = Outbox()
    for lane in "abc":
        outbox.add(Write(lane, 1))
        outbox.add(Write(lane, 2))
    outbox.defer()
    outbox.add(Write("d", 1))
    outbox.add(Write("b", 3))
    sent = []
    while (write := outbox.take()) is not None:
        sent.append(f"{write.lane}{write.number}")
        outbox.remove(write)
    assert sent == ["d1", "b1", "b2", "b3", "a1", "c1", "a2", "c2"]
    outbox.add(Write("a", 4))
    outbox.defer()
    assert outbox.take(backlog=False) is None
