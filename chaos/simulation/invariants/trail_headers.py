"""What the rules read out of a reply, and out of a request's tries."""

import re
from collections.abc import Mapping

from dub5.chaos.simulation.invariants.record import HEARD_OUT, Case, Trial

STALE = frozenset({"send_closed", "send_reset", "wait_closed", "wait_reset"})
NUMBER = re.compile(r"\d+(\.\d+)?")


def wait_s(headers: Mapping[str, str]) -> float | None:
    """What a reply says in so many words; milliseconds before seconds. Dates and nonsense are left to the service."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if NUMBER.fullmatch(said := headers.get(name, "")):
            return float(said) * unit_s
    return None


def has_answer(case: Case, trial: Trial) -> bool:
    """Whether another target, or a substitute, was faster: then a probe may be heard out, client or no client."""
    if any(one.ended is not None and one.ended.degraded for one in (case, *case.sharers)):
        return True
    others = [other for other in case.trials if other is not trial]
    return any(other.attempt is not None and other.attempt.first_token_s is not None for other in others)


def goes_on(case: Case, trial: Trial) -> bool:
    """Whether it is a probe or trial that is heard out, and that had met a dead connection, which tells nothing."""
    before = [other.attempt for other in case.trials if other.target == trial.target and other is not trial]
    heard_out = case.hedged.get(trial.target) in HEARD_OUT
    return heard_out and len(before) == 1 and before[0] is not None and before[0].reason in STALE
