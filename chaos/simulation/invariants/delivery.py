"""Whole delivery: a stream that is held back until the provider's answer is complete.

rule                      says
whole_delivery_respected  the provider's answer is complete before its first word reaches the client; such a
                          stream is never cut, and its client never waits longer than a heartbeat for a byte
"""

from dub5.chaos.simulation.invariants.record import RequestRecord, RunRecord
from dub5.chaos.simulation.world.model import World
from dub5.service.api.stream import HEARTBEAT_S
from dub5.service.model import Outcome

LATE_S = 0.1


def check_delivery(world: World, record: RunRecord) -> None:
    """Check every stream that was to be delivered whole."""
    for request in record.requests.values():
        if request.plan.whole and request.ended is not None:
            _check_whole(world, record, request)


def _check_whole(world: World, record: RunRecord, request: RequestRecord) -> None:
    number, ended = request.plan.number, request.ended
    assert ended is not None, "checked by the caller"
    streamed = request.headers.get("content-type", "").startswith("text/event-stream")
    record.sometimes["heartbeat"] += streamed and "x-dub5-target" not in request.headers
    if not request.plan.pause_s and not request.plan.socket:  # a server pings sockets by itself
        record.measured("longest silence of a held stream", request.silent_s)
        if request.silent_s > HEARTBEAT_S + LATE_S + world.stalls.longest_s:
            record.violated(
                "whole_delivery_respected", f"#{number} received nothing for {request.silent_s:.3f} s"
            )
        if ended.outcome is Outcome.CUT and not _drained(world, request):
            record.violated(
                "whole_delivery_respected", f"#{number} was to be delivered whole, but was cut: {ended.code}"
            )
    told_again = request.plan.again and not request.attempts  # how an equal question ended
    if request.content_s and not (ended.cached or ended.degraded or told_again):
        complete = [
            attempt
            for attempt in request.leader_or_self.attempts
            if attempt.reported is not None and attempt.reported.ok
        ]
        if not any(attempt.ended_s <= request.content_s for attempt in complete):
            record.violated(
                "whole_delivery_respected",
                f"#{number} received its first word before the provider's answer was complete",
            )
    failed = [
        attempt
        for attempt in request.attempts
        if attempt.reported and not attempt.reported.ok and attempt.reported.first_token_s is not None
    ]
    if ended.outcome is Outcome.COMPLETE and any(
        attempt.reported and attempt.reported.reason not in ("hedge_lost", "cancelled") for attempt in failed
    ):
        record.sometimes["whole: failed over after content"] += 1


def _drained(world: World, request: RequestRecord) -> bool:
    return world.drain is not None and request.ended_s >= world.drain.at_s
