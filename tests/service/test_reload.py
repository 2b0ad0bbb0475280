"""Other settings while the service runs: for new requests at once, for those in flight never."""

import asyncio
import re
from typing import Any

import pytest
from msgspec.structs import replace

from dub5.service import clock
from dub5.service.app import Service
from dub5.service.config.options import (
    BreakerOptions,
    BudgetOptions,
    CacheBounds,
    CacheOptions,
    HealthOptions,
    LimiterOptions,
    ProbeOptions,
    RetryOptions,
    TimeoutOptions,
)
from dub5.service.config.settings import LoadedSettings, ProviderSettings, RouteSettings, Secret, Settings
from dub5.service.resilience.health import TargetSnapshot
from dub5.simulators.script import End, Hang, Head, Wait
from dub5.simulators.virtual import AppClient
from tests.support.world import SSE, WORDS, ServiceWorld, chunk, healthy, payloads, script, status, text_of

DOWN = status(530, b"error code: 1033")
SLOW = healthy(first_s=0.01, gap_s=5.0)  # an answer of fifteen seconds
ONCE = BreakerOptions(failures_in_a_row=1, open_s=40.0, open_max_s=40.0)
ASKED_ONCE = RetryOptions(same_target_max=0, last_target_max=0)
CACHED = {"cache": CacheOptions(enabled=True, ttl_s=300.0)}


def reload(
    world: ServiceWorld,
    *,
    keys: dict[str, tuple[str, ...]] | None = None,
    callers: tuple[str, ...] = (),
    **more: Any,
) -> None:
    """The same settings but for `more`; keys as the World gives them out, but for `keys`."""
    settings = replace(world.service.settings, **more)
    given = {provider.name: (f"sk-{provider.name}",) for provider in settings.provider} | (keys or {})
    secrets = {name: tuple(map(Secret, some)) for name, some in given.items()}
    world.service.reload(LoadedSettings(settings, secrets, tuple(map(Secret, callers)), ()))


def isolating(settings: Settings, *names: str) -> tuple[ProviderSettings, ...]:
    return tuple(replace(provider, isolated=provider.name in names) for provider in settings.provider)


def routed(settings: Settings, **more: Any) -> tuple[RouteSettings, ...]:
    return tuple(replace(route, **more) for route in settings.route)


def state(world: ServiceWorld, name: str) -> TargetSnapshot:
    return {state.name: state for state in world.service.fleet.snapshots(clock.now())}[name]


async def reported(world: ServiceWorld) -> dict[str, Any]:
    return (await world.client.request("GET", "/status")).json()


class TestNewRequests:
    async def test_routes(self) -> None:
        """A new name is answered and listed, the old one is not, and the metrics have a label for the new
        one."""
        async with ServiceWorld(one=healthy()) as world:
            reload(world, route=(RouteSettings("other", ("one/n",)),))
            assert (await world.ask(model="other")).headers["x-dub5-target"] == "one/n"
            assert (await world.ask()).status == 404
            models = (await world.client.request("GET", "/v1/models")).json()["data"]
            scrape = (await world.client.request("GET", "/metrics")).body.decode()
            assert [model["id"] for model in models] == ["other"]
            assert 'gateway_requests_total{outcome="complete",route="other",stream="false"} 1.0' in scrape
            assert re.search(r'gateway_attempts_total\{[^}]*target="one/n"[^}]*\} 1.0', scrape)

    async def test_provider_keys(self) -> None:
        """A key that was changed is used by the next request."""
        async with ServiceWorld(one=healthy()) as world:
            reload(world, keys={"one": ("sk-new",)})
            await world.ask()
        assert world.asked["one"][0].headers["authorization"] == "Bearer sk-new"

    async def test_caller_keys(self) -> None:
        """A changed caller key is accepted by the next request, and the old one no longer."""
        async with ServiceWorld(one=healthy(), caller_keys=("old",)) as world:
            reload(world, callers=("new",))
            answers = [await world.ask(headers={"authorization": f"Bearer {key}"}) for key in ("old", "new")]
        assert [answer.status for answer in answers] == [401, 200]

    async def test_bounds(self) -> None:
        """Of requests and bodies."""
        async with ServiceWorld(one=SLOW) as world:
            server = world.service.settings.server
            reload(world, server=replace(server, in_flight_max=1, request_bytes_max=200))
            async with world.stream() as stream:
                await stream.read()
                assert (await world.ask()).json()["error"]["code"] == "overloaded"
            await asyncio.sleep(1)
            assert (await world.ask(user="x" * 200)).status == 413

    async def test_options_of_the_guards(self) -> None:
        """A breaker that was there before goes by the new numbers."""
        async with ServiceWorld(one=DOWN, two=healthy()) as world:
            reload(world, breaker=ONCE, retry=ASKED_ONCE)
            await world.ask()
            assert state(world, "one/m").breaker == "open"


class TestInFlight:
    async def test_clocks(self) -> None:
        """A stream goes by the clocks it began with; the next one by the new ones."""
        async with ServiceWorld(one=SLOW) as world, world.stream() as stream:
            said = await stream.read()
            reload(world, route=routed(world.service.settings, timeouts=TimeoutOptions(between_tokens_s=1.0)))
            while data := await stream.read():
                said += data
            assert text_of(said) == "".join(WORDS)
            assert payloads((await world.ask(stream=True)).body)[-1]["error"]["code"] == "stream_stalled"

    async def test_targets(self) -> None:
        """A request falls over along the route that it came by, though it is no more."""
        late = script(Wait(3.0), Head(503), End())
        async with ServiceWorld(one=late, two=healthy(), three=healthy()) as world:
            asking = asyncio.ensure_future(world.ask())
            await asyncio.sleep(1)
            reload(world, route=(RouteSettings("other", ("three/m",)),))
            answer = await asking
        assert answer.headers["x-dub5-target"] == "two/m"

    async def test_what_a_stream_holds_is_given_back(self) -> None:
        """The new fleet counts it as in flight, and no longer once it has ended: the limiter's place, too."""
        async with ServiceWorld(one=SLOW) as world:
            async with world.stream() as stream:
                await stream.read()
                reload(world, limiter=LimiterOptions(max=7))
                seen = state(world, "one/m")
                assert (seen.in_flight, seen.provider_in_flight, seen.limit) == (1, 1, 7)
            await asyncio.sleep(1)
            seen = state(world, "one/m")
            assert (seen.in_flight, seen.provider_in_flight) == (0, 0)

    async def test_news_of_a_key_that_stays(self) -> None:
        """A limit that an old request meets counts for new ones, by whichever place the key has in the new
        list."""
        limited = script(Wait(3.0), Head(429, {"retry-after": "60"}), End())
        async with ServiceWorld(one=limited, two=healthy(), keys={"one": ("sk-a",)}) as world:
            asking = asyncio.ensure_future(world.ask())
            await asyncio.sleep(1)
            reload(world, keys={"one": ("sk-b", "sk-a")}, retry=ASKED_ONCE)
            await asking
            await world.ask()
            await world.ask()
        used = [request.headers["authorization"][-4:] for request in world.asked["one"]]
        assert used == ["sk-a", "sk-b"]


class TestWhatIsKnown:
    async def test_stays(self) -> None:
        """Of a target with the same address: that its breaker is open, that its key cools, how fast it is."""
        limited = status(429, b"{}", {"retry-after": "60"})
        async with ServiceWorld(one=DOWN, two=limited, three=healthy(), breaker=ONCE) as world:
            await world.ask(stream=True)
            before = world.service.fleet.snapshots(clock.now())
            reload(
                world,
                health=HealthOptions(calls_min=1),
                budget=BudgetOptions(share=0.5),
                route=(RouteSettings("chat", ("three/m", "two/m", "one/m", "one/n")),),
            )
            after = {state.name: state for state in world.service.fleet.snapshots(clock.now())}
            load_s = world.service.fleet.score(next(iter(world.service.fleet._states)), clock.now()).load_s
        assert [after[state.name] for state in before] == before
        assert list(after) == ["three/m", "two/m", "one/m", "one/n"]
        assert after["one/m"].breaker == "open"
        assert after["two/m"].cooling_s > 50
        assert load_s > 0

    async def test_goes_with_the_address(self) -> None:
        """A provider with a new address starts with a clean state."""
        async with ServiceWorld(one=DOWN, two=healthy(), breaker=ONCE) as world:
            await world.ask()
            one, two = world.service.settings.provider
            assert state(world, "one/m").breaker == "open"
            reload(world, provider=(replace(one, base_url=two.base_url), two))
            assert state(world, "one/m").breaker == "closed"
            assert (await world.ask()).headers["x-dub5-target"] == "one/m"

    async def test_counts_that_nothing_new_judges(self) -> None:
        """A reload that changes a key does not hide four failures from the fifth."""
        fifth = BreakerOptions(failures_in_a_row=100, calls_min=5)
        async with ServiceWorld(one=DOWN, two=healthy(), breaker=fifth) as world:
            reload(world, retry=ASKED_ONCE)
            for _ in range(4):
                await world.ask()
            reload(world, keys={"one": ("sk-new",)})
            await world.ask()
            assert state(world, "one/m").breaker == "open"


class TestCache:
    async def test_kept(self) -> None:
        """Answers stay over a change that makes none of them wrong."""
        async with ServiceWorld(one=healthy(), route=CACHED) as world:
            await world.ask(temperature=0)
            one = world.service.settings.provider[0]
            reload(world, keys={"one": ("sk-new",)}, provider=(replace(one, key_env=("NEW",)),))
            assert (await world.ask(temperature=0)).headers["x-dub5-cache"] == "hit"

    async def test_bounds(self) -> None:
        """Less room lets go of what was unused the longest."""
        async with ServiceWorld(one=healthy(), route=CACHED) as world:
            await world.ask(temperature=0, seed=1)
            reload(world, cache=CacheBounds(entries_max=1))
            for seed in (2, 2, 1):
                answer = await world.ask(temperature=0, seed=seed)
        assert world.happened("cache_hit") == 1
        assert answer.headers["x-dub5-cache"] == "miss"

    @pytest.mark.parametrize("change", ["target", "address", "reject_patterns"])
    async def test_not_from_others(self, change: str) -> None:
        """What was kept of other targets, or of another address, or unjudged, is not given."""
        async with ServiceWorld(one=healthy(), two=healthy(), route=CACHED) as world:
            await world.ask(temperature=0)
            settings = world.service.settings
            one, two = settings.provider
            match change:
                case "target":
                    reload(world, route=routed(settings, targets=("two/m",)))
                case "address":
                    reload(world, provider=(replace(one, base_url=two.base_url), two))
                case "reject_patterns":
                    reload(world, route=routed(settings, reject_patterns=("hello",)))
            answer = await world.ask(temperature=0)
        assert answer.headers.get("x-dub5-cache") != "hit"
        assert len(world.asked["two"]) == 1


class TestTold:
    async def test_refused(self) -> None:
        """Settings that cannot be used change nothing, and the reason can be read."""
        async with ServiceWorld(one=healthy()) as world:
            assert (await reported(world))["reloaded"] is None
            world.service.reject_settings(["server.port: must be a whole number."])
            told = await reported(world)
            scrape = (await world.client.request("GET", "/metrics")).body.decode()
            assert (await world.ask()).status == 200
        assert told["reloaded"]["problems"] == ["server.port: must be a whole number."]
        assert told["reloaded"]["ok"] is False
        assert told["incidents"][0]["what"] == "settings_refused"
        assert 'gateway_settings_reloads_total{result="refused"} 1.0' in scrape

    async def test_applied(self) -> None:
        """When, and with what result."""
        async with ServiceWorld(one=healthy()) as world:
            await asyncio.sleep(30)
            reload(world)
            told = (await reported(world))["reloaded"]
            assert told == {"at": round(clock.wall(), 3), "ok": True, "problems": []}


class TestProbes:
    async def test_the_old_prober_ends(self) -> None:
        """Two of them would ask twice as often, and one that was turned off must not ask at all."""
        async with ServiceWorld(one=DOWN, breaker=BreakerOptions(failures_in_a_row=1)) as world:
            await world.ask()
            reload(world, probe=ProbeOptions(enabled=False))
            await asyncio.sleep(0)
            asked = len(world.asked["one"])
            await asyncio.sleep(300)
            assert len(world.asked["one"]) == asked
            reload(world, probe=ProbeOptions())
            await asyncio.sleep(30)
            assert len(world.asked["one"]) > asked

    async def test_a_target_is_probed_as_before(self) -> None:
        """What a target serves is known after a reload, too: one of embeddings is never asked for a chat."""
        async with ServiceWorld(one=DOWN, breaker=BreakerOptions(failures_in_a_row=1)) as world:
            await world.client.request("POST", "/v1/embeddings", json={"model": "chat", "input": "Hi"})
            reload(world, probe=ProbeOptions())
            await asyncio.sleep(60)
            paths = {request.path for request in world.asked["one"]}
            assert len(world.asked["one"]) > 2 and paths == {"/v1/embeddings"}

    async def test_one_that_is_heard_out(self) -> None:
        """An old request's probe tells the new fleet that its target is back."""
        late = [DOWN, healthy(first_s=4.0)]

        def one(request):
            return late[0](request)

        short = BreakerOptions(failures_in_a_row=1, open_s=10.0, slow_start_s=0.0)
        off = {"probe": ProbeOptions(enabled=False), "retry": ASKED_ONCE}
        async with ServiceWorld(one=one, two=healthy(), breaker=short) as world:
            reload(world, **off)
            await world.ask()
            late.pop(0)
            await asyncio.sleep(20)
            assert (await world.ask(stream=True)).headers["x-dub5-target"] == "two/m"
            assert state(world, "one/m").probing == 1
            reload(world, **off, keys={"one": ("sk-new",)})
            await asyncio.sleep(5)
            assert state(world, "one/m").breaker == "closed"

    async def test_nothing_is_left_at_the_end(self) -> None:
        """The end of the service ends what old settings have begun."""
        short = BreakerOptions(failures_in_a_row=1, open_s=10.0)
        turn = iter([DOWN])
        hanging = script(Head(200, SSE), chunk({"role": "assistant"}), Hang())
        others = asyncio.all_tasks()
        async with ServiceWorld(one=lambda r: next(turn, hanging)(r), two=healthy(), breaker=short) as world:
            reload(world, probe=ProbeOptions(enabled=False), retry=ASKED_ONCE)
            await world.ask()
            await asyncio.sleep(20)
            await world.ask(stream=True)
            assert state(world, "one/m").probing
            reload(world, probe=ProbeOptions(enabled=False))
        assert asyncio.all_tasks() == others
        assert world.service.board.targets["one/m"].failed == 1  # the probe was not torn down, but ended


class TestIsolated:
    async def test_from_the_start(self) -> None:
        """A target isolated in the settings gets no call, not even a probe, and the status says so."""
        world = ServiceWorld(one=healthy(), two=healthy())
        settings = replace(world.service.settings, provider=isolating(world.service.settings, "one"))
        world.service = Service(LoadedSettings(settings, {}, ()), wire=world.wire, seed="test")
        world.client = AppClient(world.service.asgi)
        async with world:
            answers = [await world.ask() for _ in range(5)]
            await asyncio.sleep(300)
            told = await reported(world)
        assert {answer.headers["x-dub5-target"] for answer in answers} == {"two/m"}
        assert world.asked["one"] == []
        assert (told["targets"][0]["breaker"], told["targets"][0]["health"]) == ("isolated", "unhealthy")

    async def test_a_stream_goes_on(self) -> None:
        """A stream from an isolated target goes on to its end, which changes nothing."""
        async with ServiceWorld(one=SLOW, two=healthy()) as world:
            async with world.stream() as stream:
                said = await stream.read()
                reload(world, provider=isolating(world.service.settings, "one"))
                while data := await stream.read():
                    said += data
            assert text_of(said) == "".join(WORDS)
            assert state(world, "one/m").breaker == "isolated"

    async def test_an_old_request_does_not_go_there(self) -> None:
        """A request that began before the isolation does not go to the isolated target."""
        late = script(Wait(3.0), Head(503), End())
        async with ServiceWorld(one=late, two=healthy(), three=healthy()) as world:
            asking = asyncio.ensure_future(world.ask())
            await asyncio.sleep(1)
            reload(world, provider=isolating(world.service.settings, "two"))
            answer = await asking
        assert answer.headers["x-dub5-target"] == "three/m"

    async def test_there_and_back_under_load(self) -> None:
        """Taking a provider out and letting it in again costs no request."""
        async with ServiceWorld(one=healthy(first_s=0.3), two=healthy()) as world:
            asking = []
            for second in range(60):
                if second in (20, 40):
                    reload(world, provider=isolating(world.service.settings, *["one"][: second < 40]))
                asking += [asyncio.ensure_future(world.ask(stream=bool(i % 2))) for i in range(4)]
                await asyncio.sleep(1)
            answers = await asyncio.gather(*asking)
        assert world.outcomes() == {"complete": 240}
        by = [answer.headers["x-dub5-target"] for answer in answers]
        assert (by[:80], by[80:160]) == (["one/m"] * 80, ["two/m"] * 80)
        assert by[-1] == "one/m"

    async def test_alone(self) -> None:
        """Where everybody is isolated, the error says it, and when to come again."""
        async with ServiceWorld(one=healthy()) as world:
            reload(world, provider=isolating(world.service.settings, "one"))
            answer = await world.ask()
        assert answer.status == 503
        assert answer.json()["error"]["attempts"][0]["reason"] == "isolated"
        assert answer.headers["retry-after"] == "60"

    async def test_beside_one_that_is_down(self) -> None:
        """Next to an isolated target, Retry-After is that of the one that is down."""
        async with ServiceWorld(one=healthy(), two=DOWN, breaker=ONCE) as world:
            reload(world, provider=isolating(world.service.settings, "one"), retry=ASKED_ONCE)
            await world.ask()
            answer = await world.ask()
        assert 25 <= int(answer.headers["retry-after"]) <= 40
