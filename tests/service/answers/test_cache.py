"""The cache: what shares a key, what never does, and its bounds."""

import asyncio

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from service.answers.cache import NOT_IN_KEY, AnswerCache, Stored
from service.answers.replay import as_chunks, assemble
from service.chat import Caller, ChatBody, ChatRequest
from service.events import Events
from service.options import CacheBounds, CacheOptions
from tests.service.world import completion, payloads

ON = CacheOptions(enabled=True, ttl_s=60.0)
VALUES = (
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
)
FIELDS = st.dictionaries(
    st.sampled_from(["max_tokens_x", "seed", "top_k", "presence_penalty", "stop_x", "unheard_of"]),
    VALUES,
    max_size=3,
)


def request(caller: str = "a", **fields: object) -> ChatRequest:
    raw = msgspec.json.encode(
        {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0, **fields}
    )
    body = msgspec.json.decode(raw, type=ChatBody)
    return ChatRequest("req_1", Caller(caller), body, msgspec.json.decode(raw, type=dict[str, msgspec.Raw]))


def key(caller: str = "a", **fields: object) -> str | None:
    return AnswerCache(CacheBounds(), Events()).key(request(caller, **fields), ON, "mark")


@given(FIELDS, FIELDS)
def test_bodies_that_differ_share_no_key(one: dict[str, object], other: dict[str, object]) -> None:
    """Any field may change the answer, known here or not."""
    assert (key(**one) == key(**other)) == (
        msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")
    )


def test_how_it_travels_is_no_difference() -> None:
    """A stream and a JSON answer to one question are one answer."""
    assert key() == key(stream=True, stream_options={"include_usage": True}, user="u")
    assert {"stream", "stream_options", "user"} <= NOT_IN_KEY


def test_callers_share_nothing() -> None:
    """The same question from somebody else has a place of its own."""
    assert key("a") != key("b")


async def test_bounds() -> None:
    """The longest unused goes first, by number and by bytes."""
    cache = AnswerCache(CacheBounds(entries_max=2, bytes_max=1000), Events())
    for name in "abc":
        await cache.keep(name, Stored(b"x" * 100, "one/m"), ON)
        await cache.look("a", "chat")
    assert await cache.look("a", "chat") is not None
    assert await cache.look("b", "chat") is None
    await cache.keep("large", Stored(b"x" * 950, "one/m"), ON)
    assert await cache.look("a", "chat") is None
    await cache.keep("too large", Stored(b"x" * 2000, "one/m"), ON)
    assert await cache.look("too large", "chat") is None
    assert await cache.look("large", "chat") is not None
    await cache.aclose()


@given(st.text(max_size=2000))
def test_there_and_back(text: str) -> None:
    """A stored answer given as a stream, and put together again, is the same answer."""
    chunks = as_chunks(completion(text), with_usage=True)
    whole = assemble(chunk.raw[len(b"data: ") :] for chunk in chunks)
    assert whole is not None
    assert msgspec.json.decode(whole)["choices"][0]["message"]["content"] == text
    assert payloads(chunks[-1].raw)[0]["usage"]["total_tokens"] == 4


async def test_ttl() -> None:
    """An answer lives as long as the route says."""
    cache = AnswerCache(CacheBounds(), Events())
    await cache.keep("a", Stored(b"x", "one/m"), ON)
    await asyncio.sleep(59)
    assert await cache.look("a", "chat") is not None
    await asyncio.sleep(2)
    assert await cache.look("a", "chat") is None
    await cache.aclose()
