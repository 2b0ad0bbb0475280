"""Answers from a file: who is given them, what a broken line does, and that nobody waits long."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from dub5.service import clock
from dub5.service.app import WARM_UP_S
from dub5.service.cache import warming
from dub5.service.cache.cache import AnswerCache
from dub5.service.cache.warming import Warm, warm
from dub5.service.config.options import CacheBounds, CacheOptions
from dub5.service.events import CacheWarmed, Events
from dub5.service.resilience.storage_guard import NoGuard, StorageLost
from tests.support.questions import MARK, EventRecorder, request
from tests.support.world import ServiceWorld, completion, healthy

HI = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}


def line(answer: Any = None, **fields: Any) -> str:
    said = json.loads(completion("warm")) if answer is None else answer
    return json.dumps({"request": {**HI, **fields}, "answer": said})


class WarmedCache:
    """A cache, and what was told of a file that it was warmed from."""

    def __init__(self, path: Path, *lines: str, guard: NoGuard | None = None) -> None:
        path.write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
        self.heard = EventRecorder()
        self.options = CacheOptions(enabled=True, ttl_s=60.0, warm_from=str(path))
        self.events = Events(self.heard)
        self.cache = AnswerCache(CacheBounds(), self.events, guard=guard)

    async def warm(self) -> CacheWarmed:
        await warm(self.cache, [Warm("chat", self.options, MARK)], self.events)
        (told,) = [event for event in self.heard.events if isinstance(event, CacheWarmed)]
        return told

    async def lookup(self, caller: str = "a", **fields: Any) -> bytes | None:
        key = self.cache.key(request(caller, **{**HI, **fields}), self.options, MARK)
        assert key is not None
        found = await self.cache.lookup(key, "chat", self.options)
        return found and found.stored.body


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


async def test_every_caller_is_given_them(path: Path) -> None:
    """Warmed answers are served to every caller, until their lifetime is over."""
    filled = WarmedCache(path, line(), "", line(seed=2))
    assert await filled.warm() == CacheWarmed("chat", 2, ())
    assert await filled.lookup("a") == await filled.lookup("b") is not None
    assert await filled.lookup(seed=2) and not await filled.lookup(seed=3)
    await asyncio.sleep(60)
    assert await filled.lookup() is None


async def test_ones_own_answer_goes_first(path: Path) -> None:
    """A caller's own answer, which is younger, wins over a warmed one."""
    filled = WarmedCache(path, line())
    await filled.warm()
    key = filled.cache.key(request("a", **HI), filled.options, MARK)
    assert key is not None
    await asyncio.sleep(1)
    await filled.cache.lookup(key, "chat", filled.options)
    await filled.cache.keep(key, warming.Stored(b"mine", "one/m"), filled.options)
    assert await filled.lookup("a") == b"mine"
    assert await filled.lookup("b") != b"mine"


BROKEN = {
    "no JSON": ("{", "not valid JSON"),
    "not UTF-8": (line(messages=[{"role": "user", "content": "?"}]).replace("?", "\udcff"), "not valid JSON"),
    "no object": ("[1]", "object"),
    "no answer": (json.dumps({"request": HI}), "answer"),
    "more than that": (line()[:-1] + ', "caller": "x"}', "caller"),
    "another model": (line(model="other"), "not this route"),
    "no messages": (json.dumps({"request": {"temperature": 0}, "answer": {}}), "messages"),
    "an answer that was cut": (line(json.loads(completion("half", None))), "not a complete"),
    "no temperature": (line(temperature=None), "temperature"),
    "tools": (line(tools=[{}]), "not stored"),
}


@pytest.mark.parametrize(("broken", "why"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_line_is_told_and_skipped(path: Path, broken: str, why: str) -> None:
    """A broken line is reported and skipped; those around it are kept."""
    filled = WarmedCache(path, line(), broken, line(seed=2))
    told = await filled.warm()
    assert told.kept == 2
    assert len(told.problems) == 1
    assert told.problems[0].startswith("line 2: ") and why in told.problems[0]


async def test_a_file_that_is_not_there(path: Path) -> None:
    """A missing file is reported, and the service starts."""
    filled = WarmedCache(path)
    path.unlink()
    assert (await filled.warm()).problems == (
        "the file cannot be read (it does not exist, or is not a file)",
    )


async def test_a_line_without_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line without end is a broken line, and does not fill the memory."""
    monkeypatch.setattr(warming, "LINE_BYTES_MAX", 1000)
    told = await WarmedCache(path, line(), "x" * 100_000, line(seed=2)).warm()
    assert told.kept == 2 and len(told.problems) == 1


async def test_many_broken_lines(path: Path) -> None:
    """Of many broken lines only some are reported."""
    told = await WarmedCache(path, *["{"] * 1_000).warm()
    assert len(told.problems) == warming.PROBLEMS_MAX + 1
    assert told.problems[-1] == "and 980 more"


class LostStorageGuard(NoGuard):
    """Each call takes a second, and fails."""

    async def call(self, *_: Any, **__: Any) -> Any:
        await asyncio.sleep(1.0)
        raise StorageLost("gone")


async def test_a_lost_storage_is_given_up(path: Path) -> None:
    """A lost storage ends the warming, and is not asked for each line."""
    filled = WarmedCache(path, *[line(seed=n) for n in range(100)], guard=LostStorageGuard())
    told = await filled.warm()
    assert told.kept == 0 and len(told.problems) == warming.LOST_MAX
    assert clock.now() == warming.LOST_MAX


async def test_the_start_waits_a_bounded_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start waits a bounded time; then requests are answered while the rest is read."""
    path.write_text("\n".join(line(seed=n) for n in range(10)))
    real = AnswerCache.offer

    async def slowly(*arguments: Any) -> None:
        await asyncio.sleep(1.0)
        await real(*arguments)

    monkeypatch.setattr(AnswerCache, "offer", slowly)
    route = {"cache": CacheOptions(enabled=True, warm_from=str(path))}
    async with ServiceWorld(one=healthy(), route=route) as world:
        assert clock.now() == WARM_UP_S
        hit = await world.ask(**HI, seed=0)
        assert (hit.headers["x-dub5-cache"], hit.headers["x-dub5-target"]) == ("hit", "file/warm")
        assert (await world.ask(**HI, seed=8)).headers["x-dub5-cache"] == "miss"
        await asyncio.sleep(10)
        assert (await world.ask(**HI, seed=9)).headers["x-dub5-cache"] == "hit"
