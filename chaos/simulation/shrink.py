"""Shrinking: reduce a failing world as long as it breaks the same rule, so that what remains is what matters.

fault windows, of providers and of the database (ddmin) -> requests -> people
    -> drain, crash, reload, stalls, slow clients, bursts, settings -> providers -> phases
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dub5.chaos.simulation.run import WorldResult, run_world
from dub5.chaos.simulation.world.model import LoopStalls, ServiceSettings, World, WorldRoute
from dub5.chaos.simulation.world.people import SHARES
from dub5.chaos.simulation.world.requests import planned_requests
from dub5.service.config.options import LimitsOptions

RunWorld = Callable[[World], WorldResult]


class Shrinker:
    """Runs smaller worlds for at most `seconds`. `rules`: the rules that the failing world breaks."""

    def __init__(self, rules: frozenset[str], seconds: float, run_one: RunWorld = run_world) -> None:
        self._rules = rules
        self._until_s = time.monotonic() + seconds
        self._run = run_one
        self.tried = 0

    def shrink(self, world: World) -> World:
        """Return the smallest failing world that was found."""
        before = None
        while world != before and self._has_time():
            before = world
            for smaller in (
                self._fewer_faults,
                self._fewer_requests,
                self._fewer_people,
                self._plainer,
                self._fewer_providers,
                self._shorter,
            ):
                world = smaller(world)
        return world

    def _fails(self, world: World) -> bool:
        if not self._has_time():
            return False
        self.tried += 1
        return bool(self._rules & rules_of(self._run(world)))

    def _has_time(self) -> bool:
        return time.monotonic() < self._until_s

    def _fewer_faults(self, world: World) -> World:
        kept = self._fewest(world.troubles, lambda some: dataclasses.replace(world, troubles=tuple(some)))
        world = dataclasses.replace(world, troubles=tuple(kept))
        kept = self._fewest(world.database, lambda some: dataclasses.replace(world, database=tuple(some)))
        return dataclasses.replace(world, database=tuple(kept))

    def _fewer_requests(self, world: World) -> World:
        numbers = [plan.number for plan in planned_requests(world)]
        blocks = [numbers[i : i + 8] for i in range(0, len(numbers), 8)]

        def only(some: Sequence[Sequence[int]]) -> World:
            return dataclasses.replace(world, kept=_ranges([number for block in some for number in block]))

        left = self._fewest(blocks, only)
        if len(left) <= 8:
            left = self._fewest([[number] for block in left for number in block], only)
        return only(left) if sum(map(len, left)) < len(numbers) else world

    def _fewer_people(self, world: World) -> World:
        """Return the world with half as many people or turns, again and again, or without people."""
        people = world.people
        if people is None:
            return world
        nobody = dataclasses.replace(world, people=None, database=(), crash=None, jobs=None)
        if self._fails(nobody):
            return nobody
        for name in ("count", "turns"):
            fewer = dataclasses.replace(people, **{name: getattr(people, name) // 2})
            smaller = dataclasses.replace(world, people=fewer)
            if getattr(fewer, name) and self._fails(smaller):
                return self._fewer_people(smaller)
        return world

    def _fewest(self, items: Sequence[Any], world_of: Callable[[Sequence[Any]], World]) -> list[Any]:
        """Return a minimal list that still fails, by delta debugging: leave out ever smaller parts."""
        left, part = list(items), max(1, len(items) // 2)
        while left and part:
            at = 0
            while at < len(left) and self._has_time():
                without = left[:at] + left[at + part :]
                if self._fails(world_of(without)):
                    left = without
                else:
                    at += part
            part //= 2
        return left

    def _plainer(self, world: World) -> World:
        for plainer in _plainer(world):
            if self._fails(plainer):
                return self._plainer(plainer)
        return world

    def _fewer_providers(self, world: World) -> World:
        for provider in world.providers:
            if len(world.providers) > 1 and self._fails(fewer := _without_provider(world, provider.name)):
                return self._fewer_providers(fewer)
        return world

    def _shorter(self, world: World) -> World:
        for shorter in (dataclasses.replace(world, rest_s=0.0), dataclasses.replace(world, calm_s=0.0)):
            if shorter != world and self._fails(shorter):
                return shorter
        return world


def rules_of(result: WorldResult) -> frozenset[str]:
    """Return the rules that a run broke."""
    return frozenset(violation.split(" ", 1)[0] for violation in result.violations)


def _plainer(world: World) -> Iterator[World]:
    """Yield worlds with one unusual thing less."""
    if world.drain is not None:
        yield dataclasses.replace(world, drain=None)
    if world.crash is not None:
        yield dataclasses.replace(world, crash=None)
    if world.jobs is not None:
        yield dataclasses.replace(world, jobs=None)
    if world.reload is not None:
        yield dataclasses.replace(world, reload=None)
    if world.odd is not None:
        yield dataclasses.replace(world, odd=None)
    if world.addresses:
        yield dataclasses.replace(world, limits=LimitsOptions(), addresses=0)
    if world.stalls != LoopStalls():
        yield dataclasses.replace(world, stalls=LoopStalls())
    if world.callers:
        yield dataclasses.replace(world, callers=(), odd=None)
    plain: dict[str, Any] = {"leave_share": 0.0, "slow_share": 0.0, "bursts": (), "last": 0}
    plain |= {"repeat_share": 0.0, "program_share": 0.0, "delivery_share": 0.0}
    plain |= {"embeddings_share": 0.0, "hasty_share": 0.0}
    for name, value in plain.items():
        if getattr(world.load, name) != value:
            yield dataclasses.replace(world, load=dataclasses.replace(world.load, **{name: value}))
    if world.people is not None:
        for name in SHARES:
            if getattr(world.people, f"{name}_share"):
                less: dict[str, Any] = {f"{name}_share": 0.0}
                yield dataclasses.replace(world, people=dataclasses.replace(world.people, **less))
    usual = ServiceSettings()
    for name in ServiceSettings.__slots__:
        if getattr(world.tuning, name) != getattr(usual, name):
            yield dataclasses.replace(
                world, tuning=dataclasses.replace(world.tuning, **{name: getattr(usual, name)})
            )
    for i, route in enumerate(world.routes):
        for name in ("delivery", "cache", "degraded", "reject_patterns"):
            usual_one = getattr(WorldRoute(route.name, route.policy, route.targets), name)
            if getattr(route, name) != usual_one:
                plainer_route = dataclasses.replace(route, **{name: usual_one})
                routes = (*world.routes[:i], plainer_route, *world.routes[i + 1 :])
                yield dataclasses.replace(world, routes=routes)
    for i, provider in enumerate(world.providers):
        if provider.limits or provider.capacity:
            plainer = dataclasses.replace(provider, limits=None, capacity=None)
            yield dataclasses.replace(
                world, providers=(*world.providers[:i], plainer, *world.providers[i + 1 :])
            )


def _without_provider(world: World, name: str) -> World:
    routes = [
        dataclasses.replace(route, targets=tuple(t for t in route.targets if not t.startswith(f"{name}/")))
        for route in world.routes
    ]
    return dataclasses.replace(
        world,
        providers=tuple(provider for provider in world.providers if provider.name != name),
        routes=tuple(route for route in routes if route.targets),
        troubles=tuple(window for window in world.troubles if window.provider != name),
    )


def _ranges(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return sorted numbers as ranges: 1 2 3 7 as (1, 3), (7, 7)."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return tuple(found)
