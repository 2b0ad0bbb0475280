"""The admission queue before providers that are at capacity.

rule                   says
queue_fair_and_timely  no request waits past its deadline; a dropped request is refused within 50 ms, with a
                       Retry-After; no request is served before a waiting one of a higher priority
"""

from collections import defaultdict
from collections.abc import Hashable

from dub5.chaos.simulation.invariants.record import QueueWait, RequestRecord, RunRecord
from dub5.chaos.simulation.world.model import World

REFUSED_S = 0.05  # from the decision to the refusal
TICK_S = 0.05  # how often the queue looks at its waiting requests
EPSILON_S = 1e-6
RANKS = {"high": 0, "normal": 1, "low": 2}


def check_queue(world: World, record: RunRecord) -> None:
    """Check all waits of a run."""
    queues: dict[Hashable, list[tuple[RequestRecord, QueueWait]]] = defaultdict(list)
    for request in record.requests.values():
        for wait in request.waits:
            queues[request.plan.route, request.plan.embed, request.generation].append((request, wait))
            _check_deadline(world, record, request, wait)
    for queue in queues.values():
        for request, wait in queue:
            if wait.how == "served":
                _check_priority(world, record, request, wait, queue)


def _check_deadline(world: World, record: RunRecord, request: RequestRecord, wait: QueueWait) -> None:
    """Check that a wait ended by the deadline, and that a refusal reached its client within 50 ms."""
    number, until_s = request.plan.number, request.until_s(world.tunings[request.generation].timeouts.total_s)
    if record.ran_s(until_s, wait.to_s) > TICK_S + EPSILON_S:
        record.violated(
            "queue_fair_and_timely",
            f"#{number} was {wait.how} {wait.to_s - until_s:.3f} s after its deadline",
        )
    refused = wait.how not in ("served", "left") and not request.is_refresh
    if not refused or request.plan.pause_s or request.left_s is not None:
        return
    late_s = record.ran_s(wait.to_s, request.ended_s)
    record.measured("refusal after its decision", late_s)
    is_fallback = request.ended is not None and request.ended.degraded is not None
    if world.people is not None and request.plan.turn and is_fallback:
        late_s -= world.people.keep_s  # so long the end of a turn may wait for the database
    if late_s > REFUSED_S:
        record.violated(
            "queue_fair_and_timely", f"#{number} was {wait.how}, but refused {late_s:.3f} s later"
        )
    if (
        request.ended is not None
        and request.ended.code == "overloaded"
        and "retry-after" not in request.headers
    ):
        record.violated("queue_fair_and_timely", f"#{number} was refused as overloaded without a Retry-After")


def _check_priority(
    world: World,
    record: RunRecord,
    request: RequestRecord,
    wait: QueueWait,
    queue: list[tuple[RequestRecord, QueueWait]],
) -> None:
    """Check that a served request did not overtake one of a higher priority."""
    for other, other_wait in queue:
        if (
            _rank(world, other) < _rank(world, request)
            and other_wait.from_s < wait.to_s - EPSILON_S
            and other_wait.to_s > wait.to_s + EPSILON_S
        ):
            record.violated(
                "queue_fair_and_timely",
                f"#{request.plan.number} overtakes #{other.plan.number}, which has a higher priority",
            )
            return


def _rank(world: World, request: RequestRecord) -> int:
    return RANKS["normal" if request.plan.caller is None else world.priorities[request.plan.caller]]
