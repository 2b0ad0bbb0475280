"""What clients ask, and how they behave: drawn request by request, each from its own chance, so that leaving some out
changes none of the others."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from chaos.simulate.world import World


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `leave_s`: the client leaves so long after asking; `leave_words`: as soon as it has read so much of a
    stream; `pause_s`: it waits so long before it reads on, each time."""

    number: int
    at_s: float
    route: str
    stream: bool
    deadline_s: float
    prompt: str
    leave_s: float | None = None
    leave_words: int | None = None
    pause_s: float = 0.0
    last: bool = False  # asked after the rest

    def body(self) -> dict[str, Any]:
        """The request as OpenAI clients write it."""
        return {
            "model": self.route,
            "messages": [{"role": "user", "content": self.prompt}],
            "stream": self.stream,
        }


def asks(world: World) -> list[Ask]:
    """All of them, by time."""
    numbered = enumerate(sorted(_moments(world)))
    return [_ask(world, number, at_s) for number, at_s in numbered if _kept(world, number)]


def _moments(world: World) -> Iterator[float]:
    dice, load = Random(f"{world.seed}:arrivals"), world.load
    at_s = dice.expovariate(load.rate_per_s)
    while at_s < world.traffic_s:
        yield at_s
        at_s += dice.expovariate(load.rate_per_s)
    for from_s, count in load.bursts:
        yield from (from_s + i * 1e-6 for i in range(count))
    if world.drain is None:
        for i in range(load.last * len(world.routes)):
            yield world.end_s + i * 0.3


def _ask(world: World, number: int, at_s: float) -> Ask:
    dice, load = Random(f"{world.seed}:ask:{number}"), world.load
    last = at_s >= world.end_s
    stream = dice.random() < load.stream_share
    leaves, slow, by_time = (
        dice.random() < load.leave_share,
        dice.random() < load.slow_share,
        dice.random() < 0.6,
    )
    soon_s, words = dice.choice((0.02, 0.3, 2.0)) * dice.random(), dice.randint(1, 6)
    pause_s = dice.choice((0.05, 0.5, 3.0, 40.0))
    shortest_s, longest_s = load.deadline_s
    return Ask(
        number=number,
        at_s=at_s,
        route=world.routes[number % len(world.routes)].name,
        stream=stream,
        deadline_s=round(dice.uniform(shortest_s, longest_s), 2) if not last else 300.0,
        prompt=f"Question {number} of world {world.seed}",
        leave_s=soon_s if leaves and (by_time or not stream) and not last else None,
        leave_words=words if leaves and stream and not by_time and not last else None,
        pause_s=pause_s if slow and stream and not last else 0.0,
        last=last,
    )


def _kept(world: World, number: int) -> bool:
    return world.kept is None or any(first <= number <= last for first, last in world.kept)
