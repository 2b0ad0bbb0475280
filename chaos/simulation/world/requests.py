"""Plan the requests of a world and how their clients behave: `planned_requests(world)`.

Each request has its own random stream, so leaving some out changes none of the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from dub5.chaos.simulation.world.build import caller_key
from dub5.chaos.simulation.world.model import LoadProfile, World
from dub5.chaos.simulation.world.odd_caller import odd_prompt, odd_requests
from dub5.service.config.settings import DeliveryName

# Beginnings of prompts. Some name a subject.
ABOUT = ("", "", "Explain this python code. ", "Please summarize. ", "What is the right dosage? ")
FORGED = "198.51.100.1"  # what a client writes into X-Forwarded-For
PROGRAMS: tuple[dict[str, Any], ...] = (
    {"tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]},
    {"response_format": {"type": "json_object"}},
)


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One planned request. `leave_s`: the client leaves this long after sending; `leave_words`: after reading
    this many words of a stream; `pause_s`: it waits this long between two reads."""

    number: int
    at_s: float
    route: str
    stream: bool
    deadline_s: float
    prompt: str
    leave_s: float | None = None
    leave_words: int | None = None
    pause_s: float = 0.0
    last: bool = False  # sent after the rest
    caller: int | None = None  # index of its key; None: no key
    cacheable: bool = False  # may be answered from the cache or a shared call
    whole: bool = False  # a stream that is held back until it is complete
    delivery: DeliveryName | None = None  # named in its header
    program: int | None = None  # index into PROGRAMS: a program reads the answer
    odd: str = ""  # the kind of an odd caller's request
    address: str = ""  # of its client, as a proxy reports it
    embed: bool = False  # asks for the embedding of its prompt, not for a chat
    turn: bool = False  # asks in a conversation (people.py)
    socket: bool = False  # over a WebSocket
    session: int | None = None  # of the person whose session asks
    again: bool = False  # it may get the end of an equal question, or be a stranger's

    def body(self) -> dict[str, Any]:
        """Return the request body as OpenAI clients write it."""
        if self.embed:
            return {"model": self.route, "input": self.prompt}
        return {
            "model": self.route,
            "messages": [{"role": "user", "content": self.prompt}],
            "stream": self.stream,
            **({"temperature": 0} if self.cacheable else {}),
            **(PROGRAMS[self.program] if self.program is not None else {}),
        }

    def headers(self) -> dict[str, str]:
        """Return the request headers."""
        headers = {"x-deadline-ms": str(round(self.deadline_s * 1000))}
        if self.caller is not None:
            headers["authorization"] = f"Bearer {caller_key(self.caller)}"
        if self.delivery is not None:
            headers["x-dub5-delivery"] = self.delivery
        if self.address:
            headers["x-forwarded-for"] = f"{FORGED}, {self.address}"
        return headers


def planned_requests(world: World) -> list[PlannedRequest]:
    """Return all planned requests, by time."""
    numbered = enumerate(sorted(_arrival_times(world)))
    plans = [
        _with_extras(world, _planned_request(world, number, at_s))
        for number, at_s in numbered
        if _kept(world, number)
    ]
    plans = sorted([*plans, *_odd_requests(world)], key=lambda plan: plan.at_s)
    return [_with_address(world, plan) for plan in plans] if world.addresses else plans


def _with_address(world: World, plan: PlannedRequest) -> PlannedRequest:
    number = Random(f"{world.seed}:address:{plan.number}").randrange(world.addresses)
    return replace(plan, address=f"203.0.113.{number}")


def _odd_requests(world: World) -> list[PlannedRequest]:
    return [
        PlannedRequest(
            number=number,
            at_s=at_s,
            route=route,
            stream=stream,
            deadline_s=300.0,
            prompt=odd_prompt(kind, number),
            caller=len(world.callers),
            whole=stream and world.route(route).delivery == "whole",
            odd=kind,
        )
        for number, at_s, route, kind, stream in odd_requests(world)
        if _kept(world, number)
    ]


def _with_extras(world: World, plan: PlannedRequest) -> PlannedRequest:
    rng = Random(f"{world.seed}:extras:{plan.number}")
    embed, hasty = rng.random() < world.load.embeddings_share, rng.random() < world.load.hasty_share
    hasty_s = round(rng.uniform(0.1, 1.5), 2)
    if plan.last:
        return plan
    if hasty:
        plan = replace(plan, deadline_s=min(plan.deadline_s, hasty_s))
    if embed:
        plan = replace(plan, embed=True, stream=False, whole=False, cacheable=False, delivery=None)
        plan = replace(plan, leave_words=None, pause_s=0.0, program=None)
    return plan


def _arrival_times(world: World) -> Iterator[float]:
    rng, load = Random(f"{world.seed}:arrivals"), world.load
    at_s = rng.expovariate(load.rate_per_s)
    while at_s < world.traffic_s:
        yield at_s
        at_s += rng.expovariate(load.rate_per_s)
    for from_s, count in load.bursts:
        yield from (from_s + i * 1e-6 for i in range(count))
    if world.drain is None:
        for i in range(load.last * len(world.routes)):
            yield world.end_s + i * 0.3


def _planned_request(world: World, number: int, at_s: float) -> PlannedRequest:
    rng, load = Random(f"{world.seed}:ask:{number}"), world.load
    last = at_s >= world.end_s
    stream = rng.random() < load.stream_share
    leaves, slow, by_time = (
        rng.random() < load.leave_share,
        rng.random() < load.slow_share,
        rng.random() < 0.6,
    )
    leave_after_s, words = rng.choice((0.02, 0.3, 2.0)) * rng.random(), rng.randint(1, 6)
    pause_s = rng.choice((0.05, 0.5, 3.0, 40.0))
    shortest_s, longest_s = load.deadline_s
    deadline_s = round(rng.uniform(shortest_s, longest_s), 2) if not last else 300.0
    route = world.routes[number % len(world.routes)]
    program = rng.randrange(len(PROGRAMS)) if rng.random() < load.program_share and not last else None
    repeats = rng.random() < load.repeat_share and not last and program is None
    delivery: DeliveryName | None = None
    if rng.random() < load.delivery_share:
        delivery = rng.choice(("live", "whole"))
    return PlannedRequest(
        number=number,
        at_s=at_s,
        route=route.name,
        stream=stream,
        deadline_s=deadline_s,
        prompt=_prompt(world.seed, load, rng, number, repeats),
        caller=rng.randrange(len(world.callers)) if world.callers else None,
        cacheable=repeats and route.cache.enabled,
        whole=stream and (delivery or route.delivery) == "whole",
        delivery=delivery,
        program=program,
        leave_s=leave_after_s if leaves and (by_time or not stream) and not last else None,
        leave_words=words if leaves and stream and not by_time and not last else None,
        pause_s=pause_s if slow and stream and not last else 0.0,
        last=last,
    )


def _prompt(seed: int, load: LoadProfile, rng: Random, number: int, repeats: bool) -> str:
    if repeats:
        number = rng.randrange(load.questions)
        return f"{ABOUT[number % len(ABOUT)]}Question {number} of world {seed}, as ever"
    return f"{rng.choice(ABOUT)}Question {number} of world {seed}"


def _kept(world: World, number: int) -> bool:
    return world.kept is None or any(first <= number <= last for first, last in world.kept)
