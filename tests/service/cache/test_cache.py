"""The cache in memory: its bounds, how long an answer is given, and what ends that sooner."""

import asyncio
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.cache.cache import AnswerCache, CacheHit, Selection, Stored
from dub5.service.cache.key import CacheKey
from dub5.service.cache.replay import as_chunks, assemble
from dub5.service.cache.storage_memory import ENTRY_OVERHEAD_BYTES, MemoryStorage
from dub5.service.config.options import CacheBounds, CacheOptions
from dub5.service.events import Events
from dub5.simulators.script import Data, End, Head, Script, SimRequest
from tests.support.questions import MARK, ON, EventRecorder, request
from tests.support.world import SSE, ServiceWorld, chunk, completion, payloads, reply

STALE = CacheOptions(enabled=True, ttl_s=60.0, stale_while_revalidate_s=30.0, stale_if_error_s=600.0)
ANSWER = Stored(b"answer", "one/m")


class NamedQuestions:
    """A cache, and questions by name."""

    def __init__(self, bounds: CacheBounds | None = None, options: CacheOptions = ON) -> None:
        self.heard = EventRecorder()
        self.storage = MemoryStorage(bounds or CacheBounds())
        self.cache = AnswerCache(self.storage.bounds, Events(self.heard), self.storage)
        self.options = options

    def key(self, name: str, caller: str = "a", model: str = "chat") -> CacheKey:
        key = self.cache.key(request(caller, model=model, name=name), self.options, MARK)
        assert key is not None
        return key

    async def lookup(self, name: str, caller: str = "a", model: str = "chat") -> CacheHit | None:
        return await self.cache.lookup(self.key(name, caller, model), model, self.options)

    async def ask(self, name: str, stored: Stored = ANSWER, caller: str = "a", model: str = "chat") -> None:
        """A request that finds nothing, and the answer of a provider."""
        key = self.key(name, caller, model)
        await self.cache.lookup(key, model, self.options)
        await self.cache.keep(key, stored, self.options)


async def test_the_longest_unused_goes_first() -> None:
    """With too many answers the longest unused one is dropped first."""
    small = NamedQuestions(CacheBounds(entries_max=2))
    await small.ask("a")
    await small.ask("b")
    assert await small.lookup("a")
    await small.ask("c")
    assert await small.lookup("a") and await small.lookup("c")
    assert await small.lookup("b") is None
    assert small.storage.entries == 2


async def test_bytes_are_bounded() -> None:
    """The bytes of all answers, and of each, are bounded; an answer that is too large drops no other."""
    one = 100 + ENTRY_OVERHEAD_BYTES
    small = NamedQuestions(CacheBounds(bytes_max=3 * one, entry_bytes_max=2 * one))
    for name in "abcd":
        await small.ask(name, Stored(b"x" * 100, "one/m"))
    assert small.storage.bytes == 3 * one
    await small.ask("large", Stored(b"x" * 700, "one/m"))
    assert await small.lookup("large")
    assert small.storage.bytes == 700 + ENTRY_OVERHEAD_BYTES + one
    await small.ask("too large", Stored(b"x" * 1300, "one/m"))
    assert await small.lookup("too large") is None
    assert await small.lookup("large")


async def test_other_bounds_hold_from_the_next_answer_on() -> None:
    """New bounds, as a reload sets them, hold from the next answer on."""
    small = NamedQuestions()
    for name in "abc":
        await small.ask(name)
    small.cache.bounds = CacheBounds(entries_max=1)
    await small.ask("d")
    assert small.storage.entries == 1


async def test_an_answer_lives_as_long_as_the_route_says() -> None:
    """After the route's lifetime an answer is gone, from the count and the bytes as well."""
    small = NamedQuestions()
    await small.ask("a")
    await asyncio.sleep(59)
    assert await small.lookup("a")
    await asyncio.sleep(1)
    assert await small.lookup("a") is None
    assert (small.storage.entries, small.storage.bytes) == (0, 0)


async def test_what_has_expired_takes_no_place() -> None:
    """A full cache forgets the dead before the living, however lately the dead were used."""
    small = NamedQuestions(CacheBounds(entries_max=2))
    await small.ask("old")
    await asyncio.sleep(30)
    await small.ask("young")
    assert await small.lookup("old")
    await asyncio.sleep(31)
    await small.ask("new")
    assert await small.lookup("young")


async def test_an_answer_that_is_replaced_lives_anew() -> None:
    """A replaced answer has a lifetime of its own."""
    small = NamedQuestions()
    await small.ask("a")
    await asyncio.sleep(40)
    await small.ask("a", Stored(b"newer", "one/m"))
    await asyncio.sleep(40)
    found = await small.lookup("a")
    assert found and found.stored.body == b"newer" and found.age_s == pytest.approx(40)


async def test_many_replacements_leave_nothing_behind() -> None:
    """The list of expiries does not grow with replacements."""
    small = NamedQuestions()
    for _ in range(1_000):
        await small.ask("a")
    assert len(small.storage._ends) < 200


class TestStale:
    async def test_while_it_is_asked_for_again(self) -> None:
        """Past its time it is given at once, marked, for a while; then not."""
        small = NamedQuestions(options=STALE)
        await small.ask("a")
        ages = []
        for _ in range(4):
            found = await small.lookup("a")
            ages.append((found.fresh, found.age_s) if found else None)
            await asyncio.sleep(30)
        assert ages == [(True, 0), (True, 30), (False, 60), None]
        assert small.heard.results == ["miss", "hit", "hit", "stale", "miss"]

    async def test_one_asks_again(self) -> None:
        """Of all who are given a stale answer, until the new one is there or that has failed."""
        small = NamedQuestions(options=STALE)
        await small.ask("a")
        first, second, third = small.key("a"), small.key("a"), small.key("a")
        assert [await small.cache.claim(key) for key in (first, second)] == [True, False]
        await small.cache.release(second)
        assert not await small.cache.claim(third)
        await small.cache.release(first)
        assert await small.cache.claim(third)
        await asyncio.sleep(31)
        assert await small.cache.claim(first), "who claimed it is taken to be gone"

    async def test_a_new_answer_ends_the_claim(self) -> None:
        """After a new answer the next request that finds it stale may claim it."""
        small = NamedQuestions(options=STALE)
        key = small.key("a")
        await small.cache.lookup(key, "chat", STALE)
        assert await small.cache.claim(key)
        await small.cache.keep(key, ANSWER, STALE)
        assert await small.cache.claim(small.key("a"))

    async def test_when_nobody_answers(self) -> None:
        """When no provider answers, an older answer is served, up to its maximum age."""
        small = NamedQuestions(options=STALE)
        await small.ask("a")
        await asyncio.sleep(600)
        key = small.key("a")
        assert await small.cache.lookup(key, "chat", STALE) is None
        found = await small.cache.stale_if_error(key, "chat", STALE)
        assert found is not None and (found.stored, found.age_s) == (ANSWER, pytest.approx(600, abs=1))
        assert small.heard.results[-2:] == ["miss", "stale"]
        await asyncio.sleep(61)
        assert await small.cache.stale_if_error(small.key("a"), "chat", STALE) is None

    async def test_off_unless_asked_for(self) -> None:
        """By default no answer is served past its lifetime."""
        small = NamedQuestions()
        await small.ask("a")
        key = small.key("a")
        await asyncio.sleep(61)
        assert await small.cache.lookup(key, "chat", ON) is None
        assert await small.cache.stale_if_error(key, "chat", ON) is None


GONE = {
    "everything": (Selection(everything=True), []),
    "route": (Selection(route="chat"), ["other"]),
    "caller": (Selection(caller="a"), ["chat b"]),
    "model": (Selection(model="m"), ["other"]),
    "target": (Selection(model="one/m"), ["other"]),
    "another's model": (Selection(model="three/m"), ["chat", "chat b", "other"]),
}


class TestInvalidation:
    @pytest.mark.parametrize(("selection", "left"), GONE.values(), ids=GONE)
    async def test_what_is_named_is_gone(self, selection: Selection, left: list[str]) -> None:
        """The named answers are gone, and no others."""
        small = NamedQuestions()
        asked = {
            "chat": ("a", "chat", "one/m"),
            "chat b": ("b", "chat", "one/m"),
            "other": ("a", "other", "two/n"),
        }
        for caller, model, target in asked.values():
            await small.ask("q", Stored(b"x", target), caller, model)
        if selection.caller:
            del asked["other"]
        await small.cache.invalidate(selection)
        assert [
            name for name, (caller, model, _) in asked.items() if await small.lookup("q", caller, model)
        ] == left

    async def test_one_key(self) -> None:
        """A key names the answer to one question of one caller."""
        small = NamedQuestions()
        await small.ask("q")
        await small.ask("r")
        await small.cache.invalidate(Selection(key=small.key("q").digest))
        assert await small.lookup("q") is None
        assert await small.lookup("r")
        assert small.storage.entries == 1

    async def test_what_is_on_its_way(self) -> None:
        """An answer that was asked for before is not kept after: it may be what was wrong. A second look
        changes nothing of that."""
        small = NamedQuestions()
        key = small.key("q")
        await small.cache.lookup(key, "chat", ON)
        await small.cache.invalidate(Selection(route="chat"))
        await small.cache.stale_if_error(key, "chat", ON)
        await small.cache.keep(key, ANSWER, ON)
        assert await small.lookup("q") is None
        await small.ask("q")
        assert await small.lookup("q")

    async def test_a_thousand_selections(self) -> None:
        """Stamps of invalidations are bounded: beyond them everything is asked anew."""
        small = NamedQuestions()
        for number in range(1_002):
            await small.cache.invalidate(Selection(caller=str(number)))
        await small.ask("q")
        await small.cache.invalidate(Selection(caller="x"))
        assert len(small.storage._generations) < 1_002

    def test_exactly_one_is_named(self) -> None:
        """An invalidation must name exactly one thing."""
        assert Selection(route="a").chosen() == ("route", "a")
        assert Selection(everything=True).chosen() == ("everything", "")
        assert Selection().chosen() is None
        assert Selection(route="a", model="b").chosen() is None


@given(st.text(max_size=2000))
def test_there_and_back(text: str) -> None:
    """A stored answer given as a stream, and put together again, is the same answer."""
    chunks = as_chunks(completion(text), with_usage=True)
    whole = assemble(chunk.raw[len(b"data: ") :] for chunk in chunks)
    assert whole is not None
    assert msgspec.json.decode(whole)["choices"][0]["message"]["content"] == text
    assert payloads(chunks[-1].raw)[0]["usage"]["total_tokens"] == 4


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("finish", "kept"), [("stop", True), ("length", True), ("content_filter", False), ("tool_calls", False)]
)
async def test_only_what_came_to_its_own_end(finish: str, kept: bool, stream: bool) -> None:
    """Half of an answer, as a filter leaves it, is given to who asked for it, and to nobody after."""

    def ends(request: SimRequest) -> Script:
        if not json.loads(request.body).get("stream"):
            yield from reply(200, completion("hello", finish))
            return
        yield Head(200, SSE)
        yield chunk({"content": "hello"})
        yield chunk({}, finish)
        yield Data(b"data: [DONE]\n\n")
        yield End()

    async with ServiceWorld(one=ends, route={"cache": ON}) as world:
        for _ in range(2):
            answer = await world.ask(stream=stream, temperature=0)
            assert answer.status == 200 and b"hello" in answer.body
    assert len(world.asked["one"]) == (1 if kept else 2)
