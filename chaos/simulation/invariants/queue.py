"""`queue_fair_and_timely`: the queue before full providers. Who is dropped costs nothing and hears of it
at once; a higher class goes first."""

from collections import defaultdict
from collections.abc import Hashable

from dub5.chaos.simulation.invariants.record import QueueWait, RequestRecord, RunRecord
from dub5.chaos.simulation.world.model import World

REFUSED_S = 0.05  # from the decision to the refusal
TICK_S = 0.05  # how often those who wait are looked at
EPSILON_S = 1e-6
RANKS = {"high": 0, "normal": 1, "low": 2}


def check_queue(world: World, record: RunRecord) -> None:
    """Looks at all waits together."""
    queues: dict[Hashable, list[tuple[RequestRecord, QueueWait]]] = defaultdict(list)
    for request in record.requests.values():
        for wait in request.waits:
            queues[request.plan.route, request.generation].append((request, wait))
            _check_deadline(world, record, request, wait)
    for queue in queues.values():
        for request, wait in queue:
            if wait.how == "served":
                _check_priority(world, record, request, wait, queue)


def _check_deadline(world: World, record: RunRecord, request: RequestRecord, wait: QueueWait) -> None:
    """Nobody waits past the deadline, and who is refused is told so within 50 ms."""
    number, until_s = request.plan.number, request.until_s(world.tunings[request.generation].timeouts.total_s)
    if wait.to_s > until_s + TICK_S + EPSILON_S:
        record.violated(
            "queue_fair_and_timely",
            f"#{number} was {wait.how} {wait.to_s - until_s:.3f} s after its deadline",
        )
    refused = wait.how not in ("served", "left") and not request.is_refresh
    if not refused or request.plan.pause_s or request.left_s is not None:
        return
    late_s = request.ended_s - wait.to_s
    record.measured("refusal after its decision", late_s)
    if late_s > REFUSED_S:
        record.violated(
            "queue_fair_and_timely", f"#{number} was {wait.how}, and heard of it {late_s:.3f} s later"
        )
    if (
        request.ended is not None
        and request.ended.code == "overloaded"
        and "retry-after" not in request.headers
    ):
        record.violated("queue_fair_and_timely", f"#{number} was turned away, and not told when to come back")


def _check_priority(
    world: World,
    record: RunRecord,
    request: RequestRecord,
    wait: QueueWait,
    queue: list[tuple[RequestRecord, QueueWait]],
) -> None:
    """Whoever got a place did not overtake a higher class."""
    for other, others in queue:
        if (
            _rank(world, other) < _rank(world, request)
            and others.from_s < wait.to_s - EPSILON_S
            and others.to_s > wait.to_s + EPSILON_S
        ):
            record.violated(
                "queue_fair_and_timely",
                f"#{request.plan.number} overtakes #{other.plan.number}, whose caller goes first",
            )
            return


def _rank(world: World, request: RequestRecord) -> int:
    return RANKS["normal" if request.plan.caller is None else world.callers[request.plan.caller]]
