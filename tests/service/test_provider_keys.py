"""Keys of providers: checked before a request finds out, resting once refused, never seen."""

import asyncio
import itertools
from typing import Any

import pytest

from dub5.service import clock
from dub5.service.config.options import BreakerOptions, KeysOptions, RetryOptions
from dub5.service.events import KeyChecked, KeyStateChanged
from dub5.service.resilience.classify import CooldownReason
from dub5.service.resilience.provider_keys import RestCause, key_label
from dub5.simulators.script import Hang, Script, SimRequest
from tests.support.keyed_provider import LIST, REFUSED, KeyedProvider, heard
from tests.support.steady_clients import SteadyClients
from tests.support.world import ServiceWorld, healthy, reply, script, status

CHECKED = {"keys": KeysOptions(check_s=900.0)}
TWO_KEYS = {"one": ("sk-a", "sk-b")}


async def key_rows(world: ServiceWorld) -> dict[str, Any]:
    rows = (await world.client.request("GET", "/status")).json()["keys"]
    return {row["key"]: row for row in rows}


async def test_a_key_is_checked_now_and_then() -> None:
    """Each key is asked for within a minute, and then every quarter of an hour; not all at one moment."""
    one = KeyedProvider("sk-a", "sk-b")
    async with ServiceWorld(one=one, keys=TWO_KEYS, options=CHECKED) as world:
        checked = heard(world, KeyChecked)
        await asyncio.sleep(61)
        assert sorted(set(one.checks)) == ["", "sk-a", "sk-b"]  # the list is not public
        assert [event.result for event in checked if isinstance(event, KeyChecked)] == ["valid", "valid"]
        await asyncio.sleep(3600)
        assert 4 <= one.checks.count("sk-a") <= 6 and one.checks.count("") == 1
        rows = await key_rows(world)
        assert {row["state"] for row in rows.values()} == {"valid"}
        assert all(clock.wall() - 1000 < row["checked_at"] <= clock.wall() for row in rows.values())
        assert one.calls == []


async def test_off() -> None:
    """Without checks no provider is asked for anything but answers."""
    one = KeyedProvider("sk-one")
    async with ServiceWorld(one=one, options={"keys": KeysOptions(check_s=0.0)}) as world:
        await world.ask()
        await asyncio.sleep(10_000)
        assert one.checks == [] and (await key_rows(world))[key_label("sk-one")]["state"] == "valid"


async def test_a_key_that_was_revoked_while_nobody_asked() -> None:
    """The check finds it; the next request uses the other key at once, and nobody notices."""
    one = KeyedProvider("sk-a", "sk-b")
    async with ServiceWorld(one=one, keys=TWO_KEYS, options=CHECKED) as world:
        await asyncio.sleep(100)
        one.accepted.remove("sk-a")
        changed = heard(world, KeyStateChanged)
        await asyncio.sleep(1000)
        answers = [await world.ask() for _ in range(5)]
        assert [answer.status for answer in answers] == [200] * 5
        assert one.calls == ["sk-b"] * 5
        assert changed == [KeyStateChanged("one", key_label("sk-a"), "valid", "refused", "check")]
        rows = await key_rows(world)
        assert rows[key_label("sk-a")]["state"] == "refused" and rows[key_label("sk-b")]["state"] == "valid"
        assert rows[key_label("sk-a")]["refused_since"] < clock.wall()
        assert world.happened("key_refused") == 1
        page = (await world.client.request("GET", "/status")).body + (
            await world.client.request("GET", "/metrics")
        ).body
        assert b"sk-a" not in page and key_label("sk-a").encode() in page


async def test_a_key_that_is_good_again() -> None:
    """A refused key is asked for more often; it is used again when the provider takes it."""
    one = KeyedProvider("sk-a", "sk-b")
    async with ServiceWorld(one=one, keys=TWO_KEYS, options=CHECKED) as world:
        one.accepted.remove("sk-a")
        await asyncio.sleep(61)
        changed = heard(world, KeyStateChanged)
        one.accepted.add("sk-a")
        await asyncio.sleep(150)
        assert changed == [KeyStateChanged("one", key_label("sk-a"), "refused", "valid", "check")]
        await world.ask()
        assert one.calls == ["sk-a"]


async def test_one_event_under_load() -> None:
    """A key is revoked while 40 streams are under way and requests come in: no request fails, one event."""
    one = KeyedProvider("sk-a", "sk-b", answer=healthy(first_s=0.5, gap_s=1.0))
    async with ServiceWorld(one=one, keys=TWO_KEYS, options=CHECKED) as world:
        await asyncio.sleep(100)
        changed = heard(world, KeyStateChanged)
        clients = asyncio.create_task(SteadyClients(world).ask(400, 0.05))
        await asyncio.sleep(5)
        one.accepted.remove("sk-a")
        assert (await clients).answered() == 1.0
        assert changed == [KeyStateChanged("one", key_label("sk-a"), "valid", "refused", "call")]
        assert one.calls[-100:] == ["sk-b"] * 100


async def test_the_last_key_is_never_taken_away() -> None:
    """Where a check alone has refused the only key, requests still try it: the list may have other rights."""
    one = KeyedProvider("sk-one", lists=lambda request: reply(401, REFUSED))
    async with ServiceWorld(one=one, options=CHECKED) as world:
        await asyncio.sleep(61)
        assert (await key_rows(world))[key_label("sk-one")]["state"] == "refused"
        changed = heard(world, KeyStateChanged)
        assert (await world.ask()).status == 200
        await asyncio.sleep(10_000)
        assert (await key_rows(world))[key_label("sk-one")]["state"] == "valid"
        assert changed == [KeyStateChanged("one", key_label("sk-one"), "refused", "valid", "call")]


@pytest.mark.parametrize(
    "lists", [status(404, b""), status(503, b""), status(403, b"{}"), script(Hang()), status(200, LIST)]
)
async def test_answers_that_say_nothing_of_a_key(lists: Any) -> None:
    """No list, a failing provider, rights that lack, a public list: the key stays unknown."""
    one = KeyedProvider("sk-one", lists=lists)
    async with ServiceWorld(one=one, options=CHECKED) as world:
        changed = heard(world, KeyStateChanged)
        await asyncio.sleep(4000)
        assert len(one.checks) > 3 and changed == []
        assert (await key_rows(world))[key_label("sk-one")]["state"] == "unknown"
        assert (await world.ask()).status == 200


async def test_a_public_list_does_not_contradict_calls() -> None:
    """A refused key stays refused though anybody may read the list: one event in an hour of requests."""
    one = KeyedProvider("sk-b", lists=status(200, LIST))
    async with ServiceWorld(one=one, keys=TWO_KEYS, options=CHECKED) as world:
        changed = heard(world, KeyStateChanged)
        clients = await SteadyClients(world).ask(360, 10.0)
        assert clients.answered() == 1.0
        assert [event.after for event in changed if isinstance(event, KeyStateChanged)] == [
            "refused",
            "valid",
        ]
        assert world.happened("key_refused") == 1


async def test_checks_are_no_attempts() -> None:
    """A provider that hangs at checks is healthy all the same: guards and limits know nothing of them."""
    one = KeyedProvider("sk-one", lists=script(Hang()))
    options = {"keys": KeysOptions(check_s=1.0)}
    async with ServiceWorld(one=one, options=options, breaker=BreakerOptions(failures_in_a_row=1)) as world:
        await asyncio.sleep(300)
        (target,) = world.service._current.states()
        assert target.breaker == "closed" and target.in_flight == target.provider_in_flight == 0
        assert len(one.checks) > 10 and world.happened("crashed") == 0


async def test_rotation_under_load() -> None:
    """Old keys are replaced in mid-load and refused from then on: no request fails, streams go on."""
    one = KeyedProvider("sk-old", answer=healthy(first_s=0.2, gap_s=1.0))
    async with ServiceWorld(one=one, keys={"one": ("sk-old",)}, options=CHECKED) as world:
        clients = asyncio.create_task(SteadyClients(world).ask(200, 0.05))
        await asyncio.sleep(5)
        one.accepted.add("sk-new")
        changed = heard(world, KeyStateChanged)
        world.service.reload(world.with_keys({"one": ("sk-new",)}))
        one.accepted.remove("sk-old")
        assert (await clients).answered() == 1.0
        assert {key for key, _ in itertools.groupby(one.calls)} == {"sk-old", "sk-new"}
        assert [key for key, _ in itertools.groupby(one.calls)] == ["sk-old", "sk-new"]
        assert [event.key for event in changed if isinstance(event, KeyStateChanged)] == [key_label("sk-new")]


async def test_without_retries() -> None:
    """The rest of a refused key holds for all models of its provider once a check has confirmed it."""
    one = KeyedProvider()
    route = {"targets": ("one/m", "one/n", "two/m")}
    options = CHECKED | {"retry": RetryOptions(same_target_max=0, last_target_max=0)}
    async with ServiceWorld(one=one, two=healthy(), route=route, options=options) as world:
        await asyncio.sleep(61)
        answer = await world.ask()
        assert answer.headers["x-dub5-target"] == "two/m" and one.calls == []
        assert [target.wait_s > 0 for target in world.service._current.states()] == [True, True, False]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("second", [None, status(500)])
@pytest.mark.parametrize("revoked", ["at a check", "meanwhile"])
async def test_a_forecast_costs_nobody_an_answer(stream: bool, second: Any, revoked: str) -> None:
    """One key is revoked, the other is said to have nothing left but answers: so it is asked in the end."""
    one = KeyedProvider("sk-a", "sk-b")
    more = {} if second is None else {"two": second}
    retry = {"retry": RetryOptions(same_target_max=0, last_target_max=0)}
    async with ServiceWorld(one=one, keys=TWO_KEYS, options=retry, **more) as world:
        first, other, *_ = world.service.fleet.key_states
        now_s = clock.now()
        other.rest(RestCause.QUOTA, now_s + 300, CooldownReason.LIMITED)
        if revoked == "at a check":
            first.note_check(refused=True, now_s=now_s, rest_until_s=now_s + 300)
        one.accepted.discard("sk-a")
        answer = await world.ask(stream=stream)
        assert answer.status == 200 and answer.headers["x-dub5-target"] == "one/m"
        assert one.calls == (["sk-b"] if revoked == "at a check" else ["sk-a", "sk-b"])


async def test_a_key_without_rights_to_one_model() -> None:
    """A provider says 401 for one model: that model rests, no request costs a call more, one event tells."""

    def respond(request: SimRequest) -> Script:
        return reply(401, REFUSED) if b'"best"' in request.body else healthy()(request)

    async with ServiceWorld(one=respond, route={"targets": ("one/best", "one/m")}) as world:
        changes = heard(world, KeyStateChanged)
        for _ in range(300):
            assert (await world.ask()).status == 200
            await asyncio.sleep(1)
        refused = sum(b'"best"' in request.body for request in world.asked["one"])
        assert refused <= 7
        assert len(changes) == 2  # refused, valid
