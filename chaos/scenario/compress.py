"""Compress an incident of hours into minutes of real time: cut the plateaus between changes, keep the edges.

hours    |--edge--|............plateau............|--edge--|......|--edge--|
minutes  |--edge--|.|--edge--|.|--edge--|
"""

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from dub5.chaos.scenario.model import Scenario

EDGE_S = 13.0  # longer than a failover may take
PLATEAU_S = 2.0
TAIL_S = 30.0  # after the last change: a breaker may rest for 12 s


def compress(scenario: Scenario) -> Scenario:
    """Return the scenario for a run on real time; one without plateaus is unchanged."""
    if scenario.workload.plateau_rate_per_s is None:
        return scenario
    changes_s = sorted({moment_s for fault in scenario.faults for moment_s in (fault.at_s, fault.until_s)})
    faults = [
        replace(fault, at_s=at_s, for_s=compressed_s(changes_s, fault.until_s) - at_s)
        for fault in scenario.faults
        for at_s in [compressed_s(changes_s, fault.at_s)]
    ]
    tail_s = max(TAIL_S, scenario.expect.recover_s or 0.0)
    seconds = compressed_s(changes_s, scenario.heal_s) + tail_s
    workload = msgspec.structs.replace(scenario.workload, seconds=seconds, plateau_rate_per_s=None)
    return replace(scenario, faults=tuple(faults), workload=workload)


def compressed_s(changes_s: Sequence[float], at_s: float) -> float:
    """Return where a moment lies after compression: changes are at most an edge and a plateau apart."""
    moved, before_s = 0.0, 0.0
    for change_s in (*(change for change in changes_s if change < at_s), at_s):
        moved += min(change_s - before_s, EDGE_S + PLATEAU_S)
        before_s = change_s
    return moved
