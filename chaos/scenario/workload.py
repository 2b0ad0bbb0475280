"""The planned requests of a run. Planned in advance (open loop), so a slow service gets as many as a fast
one."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from dub5.chaos.scenario.model import Scenario

SUBJECTS = (
    "why the sky is blue",
    "how bread rises",
    "what a circuit breaker does",
    "how to learn a poem by heart",
    "the difference between weather and climate",
    "how tides come about",
    "what a flashcard should say",
    "how to begin a letter of application",
)
INSTRUCTIONS = ("Explain", "Tell a child", "Sum up", "Write a few lines about", "Answer an exam question on")


@dataclass(frozen=True, slots=True)
class ScenarioRequest:
    """One planned request. `at_s` counts from the start of the run."""

    number: int
    at_s: float
    prompt: str
    stream: bool
    route: str

    def body(self) -> dict[str, Any]:
        """Return the body as OpenAI clients write it; without a temperature, so no cache may answer it."""
        return {
            "model": self.route,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": self.prompt},
            ],
            "stream": self.stream,
        }


def plan(scenario: Scenario, seed: int) -> list[ScenarioRequest]:
    """Return requests at random moments: a Poisson process with the rate of the load at each moment."""
    rng, workload = Random(f"{seed}:workload"), scenario.workload
    routes, weights = list(workload.mix), list(workload.mix.values())
    requests: list[ScenarioRequest] = []
    for at_s in _arrival_times(scenario, rng):
        prompt = (
            f"{rng.choice(INSTRUCTIONS)} {rng.choice(SUBJECTS)}. (question {len(requests) + 1} of run {seed})"
        )
        stream = rng.random() < workload.stream_share
        route = routes[0] if len(routes) == 1 else rng.choices(routes, weights)[0]
        requests.append(ScenarioRequest(len(requests), at_s, prompt, stream, route))
    return requests


def _arrival_times(scenario: Scenario, rng: Random) -> Iterator[float]:
    for from_s, until_s, rate_per_s in scenario.stretches:
        at_s = from_s + rng.expovariate(
            rate_per_s
        )  # a Poisson process has no memory: each stretch may start anew
        while at_s < until_s:
            yield at_s
            at_s += rng.expovariate(rate_per_s)
