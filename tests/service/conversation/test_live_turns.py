"""Turns in memory: found while they are answered and a while after, in a bounded number of bytes."""

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest

from dub5.service.conversation import live_turns
from dub5.service.conversation.live_turn import Begun, Failed, LiveTurn, Opened, TurnListener
from dub5.service.conversation.live_turns import OBJECTS_BYTES, REMEMBER_S, LiveTurns
from dub5.service.errors import StreamCut

PIECES = ("größer ", "🌍", "a", "", "日本 ")


def turn(number: int, owner: str = "me") -> LiveTurn:
    return LiveTurn(f"turn-{number}", (owner, "talk", f"q-{number}"))


def end(live: LiveTurn) -> None:
    live.end(Failed(StreamCut("cut"), "req"))


def pending(done: bool) -> Any:
    """Return the write of an end, as far as memory looks at it."""
    return SimpleNamespace(done=done)


async def heard(listener: TurnListener) -> str:
    """Return all that a listener hears from now on."""
    text = ""
    while steps := await listener.read():
        text += "".join(step for step in steps if isinstance(step, str))
    return text


@pytest.mark.parametrize("seed", range(20))
async def test_every_listener_hears_the_same(seed: int) -> None:
    """Whoever comes at any time, from any position, hears all from there on."""
    rng, live = random.Random(seed), turn(1)
    live.open(Opened("q-1", "talk", kept=True))
    live.begin(Begun("chat"))
    said, hearing = [""], []
    for _ in range(40):
        piece = rng.choice(PIECES)
        live.add(piece)
        said.append(said[-1] + piece)
        if rng.random() < 0.3:
            before = rng.choice(said)
            listener = live.listen(len(before.encode()))
            hearing.append((before, asyncio.create_task(heard(listener))))
        if rng.random() < 0.3:
            live.listen().leave()
        if len(live.listeners) > 12:
            break
        await asyncio.sleep(rng.choice((0, 0.1)))
    end(live)
    for before, task in hearing:
        assert before + await task == said[-1]
    for listener in list(live.listeners):
        listener.leave()
    assert not live.listeners and not live._waiters


async def test_forgotten() -> None:
    """A turn that has ended is found by its owner for a while, and then no more."""
    turns, live = LiveTurns(), turn(1)
    turns.add(live)
    end(live)
    turns.remember(live, pending(done=True))
    await asyncio.sleep(REMEMBER_S - 1)
    assert turns.get("me", live.id) is turns.find(live.key) is live
    assert turns.get("you", live.id) is None
    assert turns.count == 0
    await asyncio.sleep(2)
    assert turns.get("me", live.id) is turns.find(live.key) is None


async def test_not_forgotten_before_it_is_kept() -> None:
    """A turn whose end is not in the database is found until it is."""
    turns, live, write = LiveTurns(), turn(1), pending(done=False)
    turns.add(live)
    end(live)
    turns.remember(live, write)
    await asyncio.sleep(REMEMBER_S * 10)
    assert turns.get("me", live.id) is live
    write.done = True
    await asyncio.sleep(REMEMBER_S * 2)
    assert turns.get("me", live.id) is None


async def test_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns that have ended take a bounded number of bytes, kept or not: the oldest goes first."""
    monkeypatch.setattr(live_turns, "REMEMBERED_BYTES_MAX", 10 * (OBJECTS_BYTES + 1_100))
    turns = LiveTurns()
    for number in range(100):
        live = turn(number)
        turns.add(live)
        live.add("x" * 1_000)
        end(live)
        turns.remember(live, pending(done=False))
    found = [number for number in range(100) if turns.get("me", f"turn-{number}")]
    assert found == list(range(90, 100))
    assert turns._ended_bytes <= live_turns.REMEMBERED_BYTES_MAX
