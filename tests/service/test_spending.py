"""Daily budgets of providers: counted by their prices, told at 80 %, kept until midnight UTC."""

import asyncio
import json
from typing import Any

from msgspec.structs import replace

from dub5.service import clock
from dub5.service.config.checks import contradictions
from dub5.service.config.options import ProbeOptions
from dub5.service.config.settings import ProviderSettings, RouteSettings, Settings
from dub5.service.events import SpendingNoted
from dub5.service.model import Price
from dub5.service.resilience.provider_keys import key_label
from dub5.service.resilience.spending import DAY_S
from tests.support.conversation_world import ConversationWorld
from tests.support.keyed_provider import heard
from tests.support.world import ServiceWorld, completion, healthy, in_turn, status, text_of

# An answer of ServiceWorld in one piece takes one token of prompt, and three of completion: a dollar.
A_DOLLAR = {"prices": {"m": Price(prompt=250_000.0, completion=250_000.0)}}
FOUR_DOLLARS = {"one": A_DOLLAR | {"spend_max_usd_per_day": 4.0}}


async def to_midnight() -> None:
    """Wait for the next day."""
    await asyncio.sleep(DAY_S - clock.wall() % DAY_S + 1)


async def targets_of(world: ServiceWorld, count: int) -> list[str]:
    return [(await world.ask()).headers["x-dub5-target"] for _ in range(count)]


async def key_row(world: ServiceWorld) -> dict[str, Any]:
    rows = (await world.client.request("GET", "/status")).json()["keys"]
    return next(row for row in rows if row["provider"] == "one")


async def test_a_budget() -> None:
    """Over its budget a provider is passed over until midnight UTC; 80 % and 100 % are told once a day."""
    options = {"probe": ProbeOptions(enabled=False)}  # a day of virtual time takes no second then
    async with ServiceWorld(one=healthy(), two=healthy(), fields=FOUR_DOLLARS, options=options) as world:
        noted = heard(world, SpendingNoted)
        assert await targets_of(world, 6) == ["one/m"] * 4 + ["two/m"] * 2
        assert noted == [SpendingNoted("one", "spending_reached", 4.0, 4.0)]
        row = await key_row(world)
        assert (row["spent_usd_today"], row["spend_max_usd_per_day"]) == (4.0, 4.0)
        await asyncio.sleep(DAY_S - clock.wall() % DAY_S - 1)
        assert await targets_of(world, 1) == ["two/m"]
        await to_midnight()
        assert (await key_row(world))["spent_usd_today"] == 0.0
        assert await targets_of(world, 5) == ["one/m"] * 4 + ["two/m"]
        assert len(noted) == 2 and world.happened("spending_reached") == 2


async def test_a_provider_without_keys() -> None:
    """A provider that needs no key has a budget, too."""
    keys: dict[str, tuple[str, ...]] = {"one": ()}
    async with ServiceWorld(one=healthy(), two=healthy(), keys=keys, fields=FOUR_DOLLARS) as world:
        assert await targets_of(world, 5) == ["one/m"] * 4 + ["two/m"]


async def test_nearly_spent() -> None:
    """At 80 % there is one event, and requests go on."""
    fields = {"one": A_DOLLAR | {"spend_max_usd_per_day": 10.0}}
    async with ServiceWorld(one=healthy(), two=healthy(), fields=fields) as world:
        noted = heard(world, SpendingNoted)
        assert await targets_of(world, 9) == ["one/m"] * 9
        assert noted == [SpendingNoted("one", "spending_near", 8.0, 10.0)]
        assert await targets_of(world, 2) == ["one/m", "two/m"]
        assert [event.what for event in noted if isinstance(event, SpendingNoted)] == [
            "spending_near",
            "spending_reached",
        ]


async def test_no_last_resort() -> None:
    """A spent budget holds where no other provider is left, too: the error says when it ends."""
    async with ServiceWorld(one=healthy(), fields=FOUR_DOLLARS) as world:
        await targets_of(world, 4)
        refused = await world.ask()
        error = refused.json()["error"]
        assert refused.status == 429 and error["attempts"][0]["reason"] == "quota_used_up"
        assert len(world.asked["one"]) == 4


async def test_streams_go_on() -> None:
    """A stream that has begun is not cut when its provider's budget is spent."""
    slow = healthy(gap_s=5.0)
    world = ServiceWorld(one=slow, two=healthy(), fields=FOUR_DOLLARS)
    async with world, world.stream() as stream:
        await targets_of(world, 5)
        assert (await key_row(world))["spent_usd_today"] == 4.0
        assert text_of(await stream.body()) == "hello big world"


async def test_a_larger_budget() -> None:
    """A reload that raises the budget lets requests through at once; what was spent still counts."""
    async with ServiceWorld(one=healthy(), two=healthy(), fields=FOUR_DOLLARS) as world:
        assert await targets_of(world, 5) == ["one/m"] * 4 + ["two/m"]
        one, two = world.service.settings.provider
        more = replace(world.service.settings, provider=(replace(one, spend_max_usd_per_day=6.0), two))
        world.service.reload(replace(world.loaded, settings=more))
        assert await targets_of(world, 3) == ["one/m", "one/m", "two/m"]


async def test_kept_in_the_database() -> None:
    """A restarted process, and one beside it, know what was spent; all together respect the budget."""
    async with ConversationWorld(one=healthy(), two=healthy(), fields=FOUR_DOLLARS) as world:
        assert await targets_of(world, 2) == ["one/m"] * 2
        await asyncio.sleep(20)
        beside = ConversationWorld(
            one=healthy(), two=healthy(), fields=FOUR_DOLLARS, database=world.database.reopen(), seed="other"
        )
        async with beside:
            assert (await key_row(beside))["spent_usd_today"] == 2.0
            assert await targets_of(beside, 3) == ["one/m", "one/m", "two/m"]
        await asyncio.sleep(20)
        assert await targets_of(world, 1) == ["two/m"]
    again = ConversationWorld(
        one=healthy(), two=healthy(), fields=FOUR_DOLLARS, database=world.database.reopen(), seed="third"
    )
    async with again:
        assert (await key_row(again))["spent_usd_today"] == 4.0
        assert await targets_of(again, 1) == ["two/m"]


async def test_by_key() -> None:
    """Each key has a sum of its own, in /status and in the metrics; together they make the budget."""
    keys = {"one": ("sk-a", "sk-b")}
    async with ServiceWorld(one=healthy(), keys=keys, fields={"one": A_DOLLAR}) as world:
        await targets_of(world, 3)
        scrape = (await world.client.request("GET", "/metrics")).body.decode()
        assert f'gateway_key_cost_usd_total{{key="{key_label("sk-a")}",provider="one"}} 3.0' in scrape


def test_a_budget_without_prices() -> None:
    """A budget that cannot be counted is refused, and the sentence names the models that lack a price."""
    provider = ProviderSettings(
        "one", "openai", "http://one.test", prices={"m": Price(1.0)}, spend_max_usd_per_day=5.0
    )
    settings = Settings((provider,), (RouteSettings("chat", ("one/m", "one/n")),))
    (problem,) = contradictions(settings, ["one"])
    assert problem.startswith("provider 'one'.spend_max_usd_per_day: what 'n' costs is not known; add prices")


async def test_a_number_that_is_no_count() -> None:
    """A provider that says 10**30 tokens once has spent what is estimated: it is asked again."""
    answer = json.loads(completion("hello"))
    answer["usage"] = {"prompt_tokens": 10**30, "completion_tokens": 2**32 * 1.0, "total_tokens": 2**63}
    one = in_turn(status(200, json.dumps(answer).encode()), healthy())
    budget = {"one": A_DOLLAR | {"spend_max_usd_per_day": 100.0}}
    async with ServiceWorld(one=one, two=healthy(), fields=budget) as world:
        assert await targets_of(world, 3) == ["one/m"] * 3
        assert (await key_row(world))["spent_usd_today"] < 10.0
