"""What operators, platforms and monitors ask."""

import asyncio

import pytest

from service import clock
from tests.service.world import World, healthy, status

HEALTH = ("/livez", "/readyz", "/health", "/health?deep=true")


@pytest.mark.parametrize("path", HEALTH)
async def test_all_is_well(path: str) -> None:
    """Every question has the answer 200, with GET and with HEAD."""
    async with World(one=healthy()) as world:
        assert (await world.client.request("GET", path)).status == 200
        asked = await world.client.request("HEAD", path)
        assert (asked.status, asked.body) == (200, b"")


async def test_draining() -> None:
    """Alive, but not ready: nobody restarts it, and nobody sends it more."""
    async with World(one=healthy(gap_s=1.0)) as world, world.stream():
        draining = asyncio.create_task(world.service.drain())
        await asyncio.sleep(0.1)
        seen = {path: (await world.client.request("GET", path)).status for path in HEALTH}
        asked = await world.client.request("HEAD", "/readyz")
        await draining
    assert seen == {"/livez": 200, "/readyz": 503, "/health": 503, "/health?deep=true": 503}
    assert asked.status == 503


async def test_deep_health() -> None:
    """A route all of whose targets are down is a failing component; the process is still well."""
    async with World(one=status(500, b"{}")) as world:
        for _ in range(5):
            await world.ask()
        deep = await world.client.request("GET", "/health?deep=true")
        shallow = await world.client.request("GET", "/health")
    components = deep.json()["components"]
    assert (deep.status, shallow.status) == (503, 200)
    assert components["targets"]["one/m"] == {"status": "unhealthy", "breaker": "open"}
    assert components["routes"]["chat"] == {"status": "down"}


async def test_status() -> None:
    """What the page shows: targets, counts, the last requests with their trails, incidents."""
    async with World(one=status(429, b"{}", {"retry-after": "20"}), two=healthy()) as world:
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


async def test_models() -> None:
    """The routes are the models."""
    async with World(one=healthy()) as world:
        listed = (await world.client.request("GET", "/v1/models")).json()
        alone = (await world.client.request("GET", "/v1/models/chat")).json()
    assert listed["object"] == "list"
    assert listed["data"] == [alone]
    assert (alone["id"], alone["object"]) == ("chat", "model")


async def test_page() -> None:
    """The page comes with its policy, and costs nothing where it has not changed."""
    async with World(one=healthy()) as world:
        page = await world.client.request("GET", "/")
        again = await world.client.request("GET", "/", headers={"if-none-match": page.headers["etag"]})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (again.status, again.body) == (304, b"")
