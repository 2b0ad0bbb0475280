"""An incident of hours in a minute of real time: what lies between two changes is cut, the changes stay as they were.

hours    |--edge--|............plateau............|--edge--|......|--edge--|
minute   |--edge--|.|--edge--|.|--edge--|
"""

from collections.abc import Sequence
from dataclasses import replace

from dub5.chaos.scenario.model import Scenario

EDGE_S = 13.0  # longer than a failover may take
PLATEAU_S = 2.0
TAIL_S = 30.0  # after the last change: a breaker may rest for 12 s


def compress(scenario: Scenario) -> Scenario:
    """The scenario for a run on real time; one without plateaus as it is."""
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
    workload = replace(scenario.workload, seconds=seconds, plateau_rate_per_s=None)
    return replace(scenario, faults=tuple(faults), workload=workload)


def compressed_s(changes_s: Sequence[float], at_s: float) -> float:
    """Where a moment lies then: no two neighbours in `0, *changes_s` are farther apart than an edge and a plateau."""
    moved, before_s = 0.0, 0.0
    for change_s in (*(change for change in changes_s if change < at_s), at_s):
        moved += min(change_s - before_s, EDGE_S + PLATEAU_S)
        before_s = change_s
    return moved
