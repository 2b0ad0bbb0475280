"""What operators, platforms and monitors ask."""

import asyncio
import re
from typing import Any

import pytest

from dub5.service import clock
from dub5.service.app import Service
from dub5.service.config.settings import (
    LoadedSettings,
    ProviderSettings,
    RouteSettings,
    ServerSettings,
    Settings,
)
from dub5.service.model import Price
from dub5.simulators.script import Respond
from dub5.simulators.virtual import AppClient, VirtualWire
from tests.support.world import ServiceWorld, body, healthy, in_turn, status, until

HEALTH = ("/livez", "/readyz", "/health", "/health?deep=true")


@pytest.mark.parametrize("path", HEALTH)
async def test_all_is_well(path: str) -> None:
    """Every question has the answer 200, with GET and with HEAD."""
    async with ServiceWorld(one=healthy()) as world:
        assert (await world.client.request("GET", path)).status == 200
        asked = await world.client.request("HEAD", path)
        assert (asked.status, asked.body) == (200, b"")


async def test_draining() -> None:
    """Alive, but not ready: nobody restarts it, and nobody sends it more."""
    async with ServiceWorld(one=healthy(gap_s=1.0)) as world, world.stream():
        draining = asyncio.create_task(world.service.drain())
        await asyncio.sleep(0.1)
        seen = {path: (await world.client.request("GET", path)).status for path in HEALTH}
        asked = await world.client.request("HEAD", "/readyz")
        await draining
    assert seen == {"/livez": 200, "/readyz": 503, "/health": 503, "/health?deep=true": 503}
    assert asked.status == 503


async def test_deep_health() -> None:
    """A route all of whose targets are down is a failing component; the process is still well."""
    async with ServiceWorld(one=status(500, b"{}")) as world:
        for _ in range(5):
            await world.ask()
        deep = await world.client.request("GET", "/health?deep=true")
        shallow = await world.client.request("GET", "/health")
    components = deep.json()["components"]
    assert (deep.status, shallow.status) == (503, 200)
    one = components["targets"]["one/m"]
    assert (one["status"], one["breaker"]) == ("unhealthy", "open")
    assert components["routes"]["chat"]["status"] == "down"
    assert components.keys() == {"process", "settings", "cache", "database", "queue", "routes", "targets"}
    assert components["database"] == {"status": "off"}
    assert components["cache"] == {"status": "off", "storage": "memory"}


async def deep_health(world: ServiceWorld) -> tuple[int, Any]:
    deep = await world.client.request("GET", "/health?deep=true")
    return deep.status, deep.json()["components"]


@pytest.mark.parametrize("broken", [status(401, b"{}"), status(500, b"{}"), status(404, b"{}")])
async def test_deep_health_believes_the_answers(broken: Respond) -> None:
    """A route whose last answers all failed is not ok, whatever is believed of its targets; one answer, or a
    minute without any, makes it ok again."""
    async with ServiceWorld(one=until(60.0, broken, healthy())) as world:
        few, at_first = await deep_health(world)
        assert (few, at_first["routes"]["chat"]["few_calls"]) == (200, True)
        for _ in range(3):
            await world.ask()
        failing, seen = await deep_health(world)
        assert (failing, seen["routes"]["chat"]["failed_in_a_row"]) == (503, 3)
        assert seen["routes"]["chat"]["status"] in ("failing", "down")
        one = seen["targets"]["one/m"]
        assert (one["answered"], one["few_calls"]) == (0, True) and one["failed_in_a_row"] == one[
            "failed"
        ] > 0
        await asyncio.sleep(300.0)
        assert (await deep_health(world))[0] == 200
        for _ in range(10):
            await world.ask()
        well, seen = await deep_health(world)
        assert (well, seen["routes"]["chat"]["failed_in_a_row"]) == (200, 0)
        assert seen["routes"]["chat"]["few_calls"] is False


async def test_deep_health_of_a_full_process() -> None:
    """A process that sheds all requests for half a minute, because as many are open as it accepts, is not ok;
    while some are answered in between, it is."""
    server = ServerSettings(in_flight_max=1)
    slow = healthy(words=("a ",) * 12, gap_s=10.0)
    async with ServiceWorld(one=in_turn(slow, healthy()), server=server) as world:
        async with world.stream() as open_one:
            reading = asyncio.create_task(open_one.body())
            for second in range(60):
                assert (await world.ask()).json()["error"]["code"] == "overloaded"
                state, seen = await deep_health(world)
                assert (state, seen["process"]["status"]) == (
                    (503, "failing") if second >= 30 else (200, "ok")
                )
                await asyncio.sleep(1.0)
            assert seen["process"]["in_flight"] == seen["process"]["in_flight_max"] == 1
            await reading
        assert (await world.ask()).status == 200
        assert (await deep_health(world))[0] == 200


async def test_deep_health_of_fallbacks_and_callers_faults() -> None:
    """What a caller did wrong is no failure of a route."""
    async with ServiceWorld(one=status(400, b"{}")) as world:
        for _ in range(5):
            await world.ask()
        assert (await deep_health(world))[0] == 200


async def test_incidents_name_the_provider() -> None:
    """An incident of a host names its provider, not an address that says nothing."""
    async with ServiceWorld(one=status(530, b"error code: 1033"), two=healthy()) as world:
        for _ in range(6):
            await world.ask()
        seen = (await world.client.request("GET", "/status")).json()
    assert seen["incidents"] and {incident["target"] for incident in seen["incidents"]} == {"one"}


async def test_status() -> None:
    """What the page shows: targets, counts, the last requests with their trails, incidents."""
    async with ServiceWorld(one=status(429, b"{}", {"retry-after": "20"}), two=healthy()) as world:
        await world.ask()
        await world.ask()
        await asyncio.sleep(5)
        seen = (await world.client.request("GET", "/status")).json()
    one, two = seen["targets"]
    assert (one["health"], one["cooling_s"], one["failed"]) == (
        "unhealthy",
        pytest.approx(20 - clock.now(), abs=0.3),
        1,
    )
    assert (two["health"], two["answered"]) == ("healthy", 2)
    assert seen["outcomes"]["complete"] == 2
    assert seen["happened"]["failed_over"] == 1
    assert [row["reason"] for row in seen["recent"][-1]["attempts"]] == ["http_429", "ok"]


async def test_strain() -> None:
    """The page also sees how much a provider is given, and that it is less once one has said so."""
    async with ServiceWorld(one=status(429, b"{}", {"retry-after": "20"}), two=healthy()) as world:
        await world.ask()
        seen = (await world.client.request("GET", "/status")).json()
    one, two = seen["targets"]
    assert one["limit"] < one["limit_max"] == two["limit"]
    assert (one["provider_in_flight"], two["provider_in_flight"]) == (0, 0)
    assert seen["happened"]["limit_lowered"] == 1
    assert [incident["target"] for incident in seen["incidents"] if incident["what"] == "limit_lowered"] == [
        "one"
    ]
    assert (one["priced"], two["priced"]) == (False, False)
    assert two["spent"]["billed"] | {"cost_usd": None} == seen["spent"]["billed"]
    assert two["spent"]["billed"]["prompt_tokens"] == 1


def provider(name: str, **more: Any) -> ProviderSettings:
    return ProviderSettings(name, "openai", f"http://{name}.test/v1", **more)


def service(*providers: ProviderSettings) -> Service:
    targets = tuple(f"{one.name}/m" for one in providers)
    settings = Settings(provider=providers, route=(RouteSettings("chat", targets),))
    wire = VirtualWire({f"http://{one.name}.test/v1": healthy() for one in providers})
    return Service(LoadedSettings(settings, {}, ()), wire=wire, seed="test")


async def test_costs() -> None:
    """With a price for its model, every answer and every stream that was left early counts in dollars, in
    /status and in the metrics alike."""
    price = Price(prompt=2_000_000.0, completion=1_000_000.0)  # in dollars a million: 2 a token, and 1
    async with AppClient(service(provider("one", prices={"m": price})).asgi) as client:
        await client.request("POST", "/v1/chat/completions", json=body())
        async with client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as answer:
            await answer.read()
        await asyncio.sleep(1)
        seen = (await client.request("GET", "/status")).json()
        scrape = (await client.request("GET", "/metrics")).body.decode()
    (one,) = seen["targets"]
    assert one["priced"]
    assert one["spent"] == seen["spent"]
    assert seen["spent"]["billed"] == {
        "prompt_tokens": 1,
        "completion_tokens": 3,
        "estimated_tokens": 0,
        "cost_usd": 5.0,
    }
    left = seen["spent"]["maybe"]
    assert left["cost_usd"] == 2.0 * left["prompt_tokens"] + left["completion_tokens"] > 0
    assert left["estimated_tokens"] == left["prompt_tokens"] + left["completion_tokens"]
    assert [row["cost_usd"] for row in seen["recent"]] == [None, 5.0]
    told = dict(re.findall(r'gateway_cost_usd_total\{certainty="(\w+)",target="one/m"\} (\S+)', scrape))
    assert {name: float(value) for name, value in told.items()} == {
        name: seen["spent"][name]["cost_usd"] for name in ("billed", "maybe")
    }


@pytest.fixture
def built_before_the_loop() -> Service:
    return service(provider("one", isolated=True), provider("two"))


async def test_isolated(built_before_the_loop: Service) -> None:
    """A provider that the settings isolate is told as such, from the start, and asked by nobody."""
    async with AppClient(built_before_the_loop.asgi) as client:
        answer = await client.request("POST", "/v1/chat/completions", json=body())
        seen = (await client.request("GET", "/status")).json()
    assert answer.headers["x-dub5-target"] == "two/m"
    assert (seen["targets"][0]["breaker"], seen["targets"][0]["health"]) == ("isolated", "unhealthy")
    assert seen["happened"]["breaker_isolated"] == 1
    assert [row["target"] for row in seen["recent"][0]["attempts"]] == ["two/m"]


async def test_models() -> None:
    """The list of models is the list of routes."""
    async with ServiceWorld(one=healthy()) as world:
        listed = (await world.client.request("GET", "/v1/models")).json()
        alone = (await world.client.request("GET", "/v1/models/chat")).json()
    assert listed["object"] == "list"
    assert listed["data"] == [alone]
    assert (alone["id"], alone["object"]) == ("chat", "model")


async def test_page() -> None:
    """The page comes with its policy, and costs nothing where it has not changed."""
    async with ServiceWorld(one=healthy()) as world:
        page = await world.client.request("GET", "/")
        again = await world.client.request("GET", "/", headers={"if-none-match": page.headers["etag"]})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (again.status, again.body) == (304, b"")
