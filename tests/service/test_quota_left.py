"""Quota left: a key whose provider says that nothing is left rests before it is refused, and only then."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from dub5.service.config.options import KeysOptions
from dub5.service.providers.quota_left import ANTHROPIC_QUOTA, OPENAI_QUOTA, quota_left
from dub5.simulators.script import Head, Respond, Script, SimRequest
from tests.support.world import ServiceWorld, healthy, in_turn

EMPTY = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20s"}
NOW = 1_763_700_000.0


def saying(headers: Mapping[str, str]) -> Respond:
    """Answer well, with these headers."""

    def respond(request: SimRequest) -> Script:
        for action in healthy()(request):
            if isinstance(action, Head):
                yield Head(action.status, {**action.headers, **headers})
            else:
                yield action

    return respond


async def targets_of(world: ServiceWorld, count: int, **fields: Any) -> str:
    """Ask so often; return the first letters of the providers that answered."""
    answers = [await world.ask(**fields) for _ in range(count)]
    return "".join(answer.headers["x-dub5-target"][:3] + " " for answer in answers).strip()


@pytest.mark.parametrize("stream", [False, True])
async def test_rests_until_the_reset(stream: bool) -> None:
    """Nothing is left: the next target answers until the reset, then this one again. Nobody was refused."""
    one = in_turn(saying(EMPTY), healthy())
    async with ServiceWorld(one=one, two=healthy()) as world:
        assert await targets_of(world, 3, stream=stream) == "one two two"
        await asyncio.sleep(20)
        assert await targets_of(world, 2, stream=stream) == "one one"


async def test_the_key_with_room() -> None:
    """Of several keys the one with room is used."""
    async with ServiceWorld(one=saying(EMPTY), two=healthy(), keys={"one": ("sk-a", "sk-b")}) as world:
        assert await targets_of(world, 3) == "one one two"
        keys = [request.headers["authorization"] for request in world.asked["one"]]
        assert keys == ["Bearer sk-a", "Bearer sk-b"]
        rows = (await world.client.request("GET", "/status")).json()["keys"]
        assert [row["quota"]["requests"]["left"] for row in rows if row["provider"] == "one"] == [0, 0]
        scrape = (await world.client.request("GET", "/metrics")).body.decode()
        assert scrape.count('what="requests"} 0.0') == 2


async def test_the_last_candidate() -> None:
    """A forecast takes nobody's answer away: without another target the provider is asked all the same."""
    async with ServiceWorld(one=saying(EMPTY)) as world:
        assert await targets_of(world, 3) == "one one one"


async def test_tokens() -> None:
    """Fewer tokens are left than a usual answer took (four): the key rests."""
    left = {"x-ratelimit-remaining-tokens": "100", "x-ratelimit-reset-tokens": "5s"}
    few = left | {"x-ratelimit-remaining-tokens": "3"}
    one = in_turn(*[saying(left)] * 30, saying(few), healthy())
    async with ServiceWorld(one=one, two=healthy()) as world:
        assert await targets_of(world, 32) == "one " * 31 + "two"
        await asyncio.sleep(5)
        assert await targets_of(world, 1) == "one"


async def test_more_than_was_said() -> None:
    """A later answer that says there is more ends the rest; one that had been asked before does not."""
    room = saying(EMPTY | {"x-ratelimit-remaining-requests": "9"})
    async with ServiceWorld(one=in_turn(saying(EMPTY), room, healthy())) as world:
        await world.ask()
        (key,) = world.service.fleet._states[next(iter(world.service.fleet._states))].keys
        assert key.cooldown_until_s > 0
        await world.ask()
        assert key.cooldown_until_s == 0.0


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-remaining-requests": "0"},
        EMPTY | {"x-ratelimit-reset-requests": "soon"},
        EMPTY | {"x-ratelimit-reset-requests": "-5"},
        EMPTY | {"x-ratelimit-reset-requests": "0"},
        EMPTY | {"x-ratelimit-reset-requests": "90000"},
        EMPTY | {"x-ratelimit-reset-requests": "Thu, 01 Jan 2026 00:00:00 GMT"},
        EMPTY | {"x-ratelimit-reset-requests": "NaN"},
        EMPTY | {"x-ratelimit-remaining-requests": "-1"},
        EMPTY | {"x-ratelimit-remaining-requests": "0.5"},
        EMPTY | {"x-ratelimit-remaining-requests": "none"},
        EMPTY | {"x-ratelimit-remaining-requests": ""},
        EMPTY | {"x-ratelimit-remaining-requests": "٠"},
        EMPTY | {"x-ratelimit-remaining-requests": "²"},  # a digit, of which int() makes nothing
        EMPTY | {"x-ratelimit-remaining-requests": "0, 0"},
        EMPTY | {"x-ratelimit-remaining-requests": "9" * 400},
    ],
)
async def test_headers_that_make_no_sense(headers: Mapping[str, str]) -> None:
    """Nothing is done on them, and nothing breaks."""
    async with ServiceWorld(one=saying(headers), two=healthy()) as world:
        assert await targets_of(world, 3) == "one one one"
        assert (await world.client.request("GET", "/status")).status == 200


@pytest.mark.parametrize("said", ["-1", "none", "9" * 400, "1, 1"])
async def test_nonsense_ends_no_rest(said: str) -> None:
    """What nobody can read does not say that there is more."""
    nonsense = saying({"x-ratelimit-remaining-requests": said})
    async with ServiceWorld(one=in_turn(saying(EMPTY), nonsense)) as world:
        await world.ask()
        (key,) = world.service.fleet._states[next(iter(world.service.fleet._states))].keys
        until_s = key.cooldown_until_s
        await world.ask()
        assert key.cooldown_until_s == until_s > 0


async def test_off() -> None:
    """The setting turns it off."""
    options = {"keys": KeysOptions(check_s=0.0, quota_headers=False)}
    async with ServiceWorld(one=saying(EMPTY), two=healthy(), options=options) as world:
        assert await targets_of(world, 3) == "one one one"


def test_names() -> None:
    """Each dialect's own headers are read, and all of its limits."""
    anthropic = {
        "anthropic-ratelimit-requests-remaining": "7",
        "anthropic-ratelimit-input-tokens-remaining": "0",
        "anthropic-ratelimit-input-tokens-reset": "2025-11-21T04:41:00Z",
    }
    found = quota_left(ANTHROPIC_QUOTA, anthropic)
    assert [(one.what, one.left, one.reset_s(NOW)) for one in found] == [
        ("requests", 7, None),
        ("input_tokens", 0, 60.0),
    ]
    assert quota_left(OPENAI_QUOTA, anthropic) == []
