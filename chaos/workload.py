"""What is asked, and when: made before the run, so that a slow service is asked as often as a fast one."""

from dataclasses import dataclass
from random import Random
from typing import Any

from chaos.scenario import Workload

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
WAYS = ("Explain", "Tell a child", "Sum up", "Write a few lines about", "Answer an exam question on")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of the plan. `at_s` is when it starts, counted from the start of the run."""

    number: int
    at_s: float
    prompt: str
    stream: bool

    def body(self, model: str) -> dict[str, Any]:
        """The request as OpenAI clients write it. Without a temperature: no cache may answer it."""
        return {
            "model": model,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": self.prompt},
            ],
            "stream": self.stream,
        }


def plan(workload: Workload, seed: int) -> list[Ask]:
    """Requests at random moments, as many independent people would send them (a Poisson process)."""
    dice = Random(f"{seed}:workload")
    asks: list[Ask] = []
    at_s = dice.expovariate(workload.rate_per_s)
    while at_s < workload.seconds:
        prompt = f"{dice.choice(WAYS)} {dice.choice(SUBJECTS)}. (question {len(asks) + 1} of run {seed})"
        asks.append(Ask(len(asks), at_s, prompt, dice.random() < workload.stream_share))
        at_s += dice.expovariate(workload.rate_per_s)
    return asks
