"""The table of metastable failure, with the real service in virtual time.

    python -m tests.experiments.metastable              the tables of docs/operate/overload.md; some minutes
    python -m tests.experiments.metastable --load 0.8   one column

A provider has a capacity of 25 requests a second. For a minute it has half of that; then it is healthy again.
Is the service? Good is an answer within four seconds: no client waits longer.

    policy       attempts of two seconds, at most 1 + 3 with retries      requests of clients that left
    naive        every failure is retried, a timeout too                  are finished
    + expiry     as naive                                                 are cancelled, deadlines are kept
    budget       retries add at most a fifth                              are finished
    no retries   one attempt                                              are finished
    ours         the defaults of the service                              are cancelled, deadlines are kept
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

from dub5.service.config.options import (
    AdmissionOptions,
    BreakerOptions,
    BudgetOptions,
    HedgeOptions,
    LimiterOptions,
    ProbeOptions,
    RetryOptions,
    TimeoutOptions,
)
from dub5.service.failover import target_attempts
from dub5.service.resilience.classify import Classification, Then
from dub5.service.resilience.retry import RetryDecision, decide_retry
from dub5.simulators.limits.concurrency import Capacity
from dub5.simulators.virtual import run
from tests.experiments.pressure import PressureOutcome, PressureScene

SLOTS = 25  # and each does one request a second
FROM_S, TO_S, END_S = 20.0, 80.0, 200.0
PATIENCE_S = 4.0
TRY = TimeoutOptions(first_token_s=2.0)
NEVER = 10**6
UNGUARDED: dict[str, Any] = {
    "breaker": BreakerOptions(failures_in_a_row=NEVER, calls_min=NEVER),
    "limiter": LimiterOptions(min=NEVER, max=NEVER),
    "hedge": HedgeOptions(share=0.0),
    "probe": ProbeOptions(enabled=False),
    "admission": AdmissionOptions(waiting_max=0),
}
THREE = RetryOptions(same_target_max=3, last_target_max=3)
UNPAID = BudgetOptions(share=1.0, floor_per_s=NEVER)
LOADS = (0.6, 0.7, 0.8)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A way to run the service. `expiry`: it notices when people leave, and it knows their deadline."""

    name: str
    options: dict[str, Any]
    timeouts: TimeoutOptions = TRY
    expiry: bool = False
    again: bool = True  # timeouts are retried, which the service itself never does


POLICIES = (
    RetryPolicy("naive, 3 retries", UNGUARDED | {"retry": THREE, "budget": UNPAID}),
    RetryPolicy("naive + expiry", UNGUARDED | {"retry": THREE, "budget": UNPAID}, expiry=True),
    RetryPolicy(
        "20 % budget", UNGUARDED | {"retry": THREE, "budget": BudgetOptions(share=0.2, floor_per_s=0.0)}
    ),
    RetryPolicy("no retries", UNGUARDED | {"budget": UNPAID}, again=False),
    RetryPolicy("ours", {}, timeouts=TimeoutOptions(), expiry=True, again=False),
)


@dataclass(frozen=True, slots=True)
class MetastableOutcome:
    """Outcome of one run. `back_s`: from the end of the fault until 95 % stay good; None: never."""

    back_s: float | None
    during: float  # share of good answers during the trouble
    at_last: float  # share of good answers in the last minute
    tries: float  # requests at the provider for each request in the last minute

    def __str__(self) -> str:
        end = (
            f"back in {self.back_s:.0f} s" if self.back_s is not None else f"**stuck at {self.at_last:.0%}**"
        )
        return f"{end}, {self.tries:.1f}x load"


def _all_again(classification: Classification, tries: Any, **known: Any) -> RetryDecision | None:
    if classification.reason.endswith("_timeout") and classification.reason != "deadline_timeout":
        classification = replace(classification, then=Then.RETRY)
    return decide_retry(classification, tries, **known | {"last": True})


@contextmanager
def _run_by(policy: RetryPolicy) -> Iterator[None]:
    if not policy.again:
        yield
        return
    with patch.object(target_attempts, "decide_retry", _all_again):
        yield


def scene(
    policy: RetryPolicy, load: float, *, works_for_nobody: bool, slots: int = SLOTS, end_s: float = END_S
) -> PressureScene:
    """Return the scene of a cell."""
    return PressureScene(
        rate_per_s=load * slots,
        seconds=end_s,
        capacity=Capacity(slots=slots, abandons=not works_for_nobody),
        later={
            FROM_S: Capacity(slots=slots // 2, abandons=not works_for_nobody),
            TO_S: Capacity(slots=slots, abandons=not works_for_nobody),
        },
        patience_s=PATIENCE_S if policy.expiry else 20.0,
        deadline_s=PATIENCE_S if policy.expiry else None,
        works_for_nobody=works_for_nobody,
        timeouts=policy.timeouts,
        options=policy.options,
    )


def play(
    policy: RetryPolicy, load: float, *, works_for_nobody: bool, slots: int = SLOTS, end_s: float = END_S
) -> MetastableOutcome:
    """Play one cell of the table."""
    played = scene(policy, load, works_for_nobody=works_for_nobody, slots=slots, end_s=end_s)
    with _run_by(policy):
        return judged(run(played.play()))


def judged(played: PressureOutcome) -> MetastableOutcome:
    """Return the outcome of a run."""
    good, end_s = partial(good_share, played), played.scene.seconds
    back_s, at_s = None, TO_S
    while at_s < end_s - 10.0:
        if good(at_s, at_s + 10.0) < 0.95:
            back_s = None
        elif back_s is None:
            back_s = at_s - TO_S
        at_s += 10.0
    came = len(played.during(end_s - 60.0, end_s))
    tries = played.tries(end_s - 60.0, end_s) / max(1, came)
    return MetastableOutcome(back_s, good(FROM_S, TO_S), good(end_s - 60.0, end_s - 10.0), tries)


def good_share(played: PressureOutcome, from_s: float, to_s: float) -> float:
    """Return the share of requests of this time that were answered in time."""
    came = played.during(from_s, to_s)
    return sum(asked.whole and asked.took_s <= PATIENCE_S for asked in came) / max(1, len(came))


def table(loads: tuple[float, ...]) -> Iterator[str]:
    """Return the lines of the table, in Markdown."""
    for works_for_nobody in (False, True):
        kind = "finishes" if works_for_nobody else "drops"
        yield f"The provider {kind} requests of clients that left:"
        yield ""
        yield "| policy | " + " | ".join(f"load {load:.0%}" for load in loads) + " | good during the fault |"
        yield "|---" * (len(loads) + 2) + "|"
        for policy in POLICIES:
            cells = [play(policy, load, works_for_nobody=works_for_nobody) for load in loads]
            yield f"| {policy.name} | {' | '.join(map(str, cells))} | {cells[-1].during:.0%} |"
        yield ""


def main(args: list[str]) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.experiments.metastable",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--load", type=float, action="append", help="share of the capacity, 0.6 0.7 0.8 if not given"
    )
    loads = tuple(parser.parse_args(args).load or LOADS)
    for line in table(loads):
        print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
