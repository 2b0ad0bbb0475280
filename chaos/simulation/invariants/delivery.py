"""`whole_delivery_respected`: a stream that is held until it is whole is whole when its first word goes out."""

from dub5.chaos.simulation.invariants.record import RequestRecord, RunRecord
from dub5.chaos.simulation.world.model import World
from dub5.service.api.stream import HEARTBEAT_S
from dub5.service.model import Outcome

LATE_S = 0.1


def check_delivery(world: World, record: RunRecord) -> None:
    """Looks at every stream that was to be held."""
    for request in record.requests.values():
        if request.plan.whole and request.ended is not None:
            _check_whole(world, record, request)


def _check_whole(world: World, record: RunRecord, request: RequestRecord) -> None:
    number, ended = request.plan.number, request.ended
    assert ended is not None, "asked above"
    streamed = request.headers.get("content-type", "").startswith("text/event-stream")
    record.sometimes["heartbeat"] += streamed and "x-dub5-target" not in request.headers
    if not request.plan.pause_s:
        record.measured("a held stream said nothing for", request.silent_s)
        if request.silent_s > HEARTBEAT_S + LATE_S:
            record.violated(
                "whole_delivery_respected", f"#{number} heard nothing for {request.silent_s:.3f} s"
            )
        if ended.outcome is Outcome.CUT and not _drained(world, request):
            record.violated(
                "whole_delivery_respected", f"#{number} was to come whole, and was cut: {ended.code}"
            )
    if request.content_s and not (ended.cached or ended.degraded):
        tries = [
            attempt
            for attempt in request.leader_or_self.attempts
            if attempt.reported is not None and attempt.reported.ok
        ]
        if not any(attempt.ended_s <= request.content_s for attempt in tries):
            record.violated(
                "whole_delivery_respected",
                f"#{number} read its first word before the provider had said the last",
            )
    failed = [
        t
        for t in request.attempts
        if t.reported and not t.reported.ok and t.reported.first_token_s is not None
    ]
    if ended.outcome is Outcome.COMPLETE and any(
        t.reported and t.reported.reason not in ("hedge_lost", "cancelled") for t in failed
    ):
        record.sometimes["whole: failed over after content"] += 1


def _drained(world: World, request: RequestRecord) -> bool:
    return world.drain is not None and request.ended_s >= world.drain.at_s
