"""The tests' services share one Litestar application (tests/support/shared_app.py) and nothing else."""

import asyncio

from tests.support.world import ServiceWorld, healthy

ADMIN = "/admin/cache/invalidate"


def name_of(world: ServiceWorld) -> str:
    (name,) = world.asked
    return name


async def test_each_service_answers_for_itself() -> None:
    """Services that run at the same time use their own targets, metrics, admin tokens and events."""
    async with ServiceWorld(one=healthy()) as first, ServiceWorld(two=healthy()) as second:
        for world, name in ((first, "one"), (second, "two"), (first, "one")):
            assert (await world.ask()).headers["x-dub5-target"] == f"{name}/m"
        assert (first.outcomes(), second.outcomes()) == ({"complete": 2}, {"complete": 1})
        for world, other in ((first, "two"), (second, "one")):
            metrics = (await world.client.request("GET", "/metrics")).body.decode()
            assert f"{other}/m" not in metrics and f"{name_of(world)}/m" in metrics
            token = {"authorization": f"Bearer {world.service.admin.token.reveal()}", "host": "localhost"}
            said = await world.client.request("POST", ADMIN, headers=token, json={"everything": True})
            assert said.status == 200
            foreign = await world.client.request("POST", ADMIN, headers={"authorization": "Bearer x"})
            assert foreign.status == 404


async def test_one_service_ends_alone() -> None:
    """A service that has ended leaves the others running."""
    async with ServiceWorld(two=healthy()) as second:
        async with ServiceWorld(one=healthy()) as first:
            assert (await first.ask()).status == 200
        assert (await second.ask()).status == 200
        assert [task.get_name() for task in asyncio.all_tasks()].count("probes") == 1
