"""Add what a few worlds have besides: embeddings, notices sold as answers, short deadlines on a busy loop.

Each is drawn from an rng stream of its own, so all else of a world stays as it is.
"""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from dub5.chaos.simulation.world.model import FaultWindow, LoopStalls, World, WorldProvider
from dub5.service.failover.rejected_content import JUDGED_S
from dub5.simulators.latency import PRESETS

GAP_MAX_S = JUDGED_S / 10  # between the words of a provider that sends notices
NOTICE = {"kind": "notice"}
REJECT_PATTERNS = ("important notice",)


def with_extras(world: World, always_healthy: WorldProvider | None) -> World:
    """Return the world with its extras. The provider that stays healthy sends no notices."""
    return _with_notices(_with_load(world), always_healthy)


def _with_load(world: World) -> World:
    rng = Random(f"{world.seed}:extras")
    embeddings_share, hasty_share = rng.choice((0.0, 0.0, 0.1, 0.3)), rng.choice((0.0, 0.2, 0.5))
    if world.stalls == LoopStalls():
        hasty_share = 0.0
    return replace(
        world, load=replace(world.load, embeddings_share=embeddings_share, hasty_share=hasty_share)
    )


def _with_notices(world: World, always_healthy: WorldProvider | None) -> World:
    rng = Random(f"{world.seed}:notices")
    # A notice whose words come so slowly that it cannot be judged in JUDGED_S is passed on by design.
    slow = {window.provider for window in world.troubles if window.fault["kind"] == "slow"}
    slow |= {p.name for p in world.providers if PRESETS[p.latency].gap_s > GAP_MAX_S}
    senders = [p for p in world.providers if p is not always_healthy and p.name not in slow]
    if not senders or rng.random() > 0.2:
        return world
    routes = tuple(replace(route, reject_patterns=REJECT_PATTERNS) for route in world.routes)
    windows = [_window(rng, world, senders) for _ in range(rng.randint(1, 3))]
    troubles = sorted((*world.troubles, *windows), key=lambda window: (window.at_s, window.provider))
    return replace(world, routes=routes, troubles=tuple(troubles))


def _window(rng: Random, world: World, senders: Sequence[WorldProvider]) -> FaultWindow:
    at_s = world.warm_s + rng.random() * world.storm_s * 0.9
    for_s = min(world.warm_s + world.storm_s - at_s, rng.choice((1.0, 10.0, 30.0)))
    return FaultWindow(rng.choice(senders).name, round(at_s, 2), round(for_s, 2) + 0.01, dict(NOTICE))
