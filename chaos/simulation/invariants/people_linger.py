"""Turns that nobody listens to.

rule              says
linger_respected  a turn that nobody listens to is ended after `linger_s`: not before, and not later; so is a
                  turn that its owner stops
"""

from dub5.chaos.simulation.invariants.audience import LEAVE_S
from dub5.chaos.simulation.invariants.record import ObservedAttempt, RequestRecord, RunRecord
from dub5.chaos.simulation.world.people import People
from dub5.service.model import Outcome


def check_linger(people: People, record: RunRecord, request: RequestRecord) -> None:
    """Check a turn in the moment of its end."""
    audience, ended, now_s = request.audience, request.ended, request.ended_s
    assert audience is not None and ended is not None, "a turn has ended"
    number, gone_s = request.plan.number, audience.given_up_s()
    if ended.outcome is Outcome.CANCELLED and audience.ends_too_early(now_s):
        record.violated("linger_respected", f"#{number} was ended although somebody listened")
    late_s = 0.0 if gone_s is None else record.ran_s(gone_s, now_s)
    if any(map(is_whole, request.attempts)):
        late_s -= people.keep_s  # the end is written, whoever listens
    record.measured("turn goes on without listeners", late_s)
    if late_s > LEAVE_S:
        record.violated("linger_respected", f"#{number} went on for {late_s:.3f} s after its linger time")


def is_whole(attempt: ObservedAttempt) -> bool:
    """Say whether the provider has sent all of its answer."""
    return attempt.reported is not None and attempt.reported.ok
