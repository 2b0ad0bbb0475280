"""The end of a run: everything acquired is released, and client, events, status and ledgers agree on each
request.

    rule                   says
    permits_accounted_for  every attempt has ended; every permit, connection, queue place and task is returned
    drain_in_time          a drain ends within its time and 2 s for last words
    honest_end             each request ends as one of the honest outcomes: no answer pretends to be more than
                           it is
    ends_by_deadline       each request ends within its deadline and 100 ms
    one_agreed_end         the client and the service's event agree on how a request ended, and on the error
                           code
    no_spliced_answer      what a client read is the beginning of one provider's answer
    attempts_counted_once  each attempt is in the trail once, with its cost; one of the sharing requests is
                           charged

Consistency with /status and the ledgers is in consistency.py.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any

from dub5.chaos.run.judge import HONEST, ClientOutcome
from dub5.chaos.simulation.invariants.consistency import LedgerConsistency, check_status
from dub5.chaos.simulation.invariants.online import OnlineInvariants
from dub5.chaos.simulation.invariants.record import RequestRecord, RunRecord
from dub5.chaos.simulation.world.build import PRICE
from dub5.chaos.simulation.world.model import World
from dub5.service.app import Service
from dub5.service.failover.final_error import UNSUPPORTED
from dub5.service.model import AttemptRecord, Outcome
from dub5.simulators.answers import Proof, judge
from dub5.simulators.ledger import Ledger
from dub5.simulators.virtual import VirtualLoop

LATE_S = 0.1  # allowed between the deadline and the end
JOB_TASKS = ("job ", "lease ", "step ")  # their own invariant waits for the jobs to end
LAST_WORDS_S = 2.0  # allowed on top for a client that does not read: the error event waits for it
SETTLE_S = 1.0
_DEGRADED = ClientOutcome.DEGRADED
# The client's outcomes that agree with an outcome in the service's events.
MATCHING_OUTCOMES = {
    Outcome.COMPLETE: {ClientOutcome.COMPLETE},
    Outcome.DEGRADED: {ClientOutcome.DEGRADED},
    Outcome.REFUSED: {ClientOutcome.REFUSED},
    Outcome.FAILED: {ClientOutcome.FAILED, ClientOutcome.REFUSED},
    Outcome.CUT: {ClientOutcome.CUT},
}


class ShutdownInvariants:
    """Checks one run after its last request."""

    def __init__(
        self,
        world: World,
        record: RunRecord,
        invariants: OnlineInvariants,
        service: Service,
        ledger: Ledger,
    ) -> None:
        self._world = world
        self._record = record
        self._invariants = invariants
        self._service = service
        self._ledger = ledger
        self._idle_tasks: Counter[str] = Counter()
        self._lines_before = 0

    def replaced(self, invariants: OnlineInvariants, service: Service, lines_before: int) -> None:
        """Check another process, whose idle tasks are those of the first. `lines_before`: of the ledger."""
        self._invariants, self._service, self._lines_before = invariants, service, lines_before

    def note_idle_tasks(self) -> None:
        """Remember the tasks of an idle service. Call it before the first request."""
        self._idle_tasks = _task_names()
        self._idle_tasks["probes"] = 1  # a reload may start or stop the active probes

    async def check_all_returned(self, patience_s: float) -> None:
        """Wait at most `patience_s` for open attempts, then check that everything acquired is released."""
        loop = _loop()
        await asyncio.sleep(SETTLE_S)
        # Probes may still run: active ones, or losing ones in the background.
        while (self._invariants.open_attempts() or self._leftover_tasks()) and patience_s > 0:
            await asyncio.sleep(SETTLE_S)
            patience_s -= SETTLE_S
        violated = self._record.violated
        for attempt in self._invariants.open_attempts():
            violated(
                "permits_accounted_for",
                f"#{attempt.number}: the attempt at {attempt.target} of {attempt.began_s:.3f} s never ended",
            )
        for attempt in self._record.attempts():
            if attempt.reported is not None and attempt.closed_s is None:
                violated(
                    "permits_accounted_for",
                    f"#{attempt.number}: the connection to {attempt.target} was never closed",
                )
        snapshots = self._service.fleet.snapshots(loop.time())
        for name, in_flight in {target.provider: target.provider_in_flight for target in snapshots}.items():
            if in_flight:
                violated("permits_accounted_for", f"{in_flight} permits of {name} were not released")
        for target in snapshots:
            if target.in_flight or target.probing:
                violated(
                    "permits_accounted_for",
                    f"{target.name}: {target.in_flight} attempts, {target.probing} probes in flight",
                )
        if self._service.admission.in_flight:
            violated(
                "permits_accounted_for",
                f"{self._service.admission.in_flight} requests are still in flight",
            )
        if self._service.queue.waiting:
            violated("permits_accounted_for", f"{self._service.queue.waiting} requests still wait in a queue")
        if left := self._leftover_tasks():
            violated("permits_accounted_for", f"tasks are left: {', '.join(left[:5])}")

    def check_drain(self, late_s: float) -> None:
        """Check a drain that ended `late_s` after its time (negative: before)."""
        self._record.measured("drain, beyond its time", late_s)
        if late_s > LAST_WORDS_S + LATE_S:
            self._record.violated("drain_in_time", f"it took {late_s:.3f} s longer than it may")

    def _leftover_tasks(self) -> list[str]:
        """Return the names of tasks that an idle service does not have. Jobs may still be at work."""
        left = (_task_names() - self._idle_tasks).elements()
        return [name for name in left if not name.startswith(JOB_TASKS)]

    def check_agreement(self, status: dict[str, Any]) -> None:
        """Check that clients, events, status and ledger agree on every request."""
        self.check_ends(self._record.requests.values())
        check_status(self._record, status)
        LedgerConsistency(self._world, self._record).check(self._ledger, self._lines_before)

    def check_ends(self, requests: Iterable[RequestRecord]) -> None:
        """Check that the client and the events agree on the end of each request."""
        for request in requests:
            if request.client_ending is None:
                self._record.violated("honest_end", f"#{request.plan.number} has no end for its client")
                continue
            self._check_honest_end(request)
            self._check_one_ending(request)
            self._check_one_answer(request)
            self._check_counted_once(request)

    def _check_honest_end(self, request: RequestRecord) -> None:
        """`honest_end`, `ends_by_deadline`: check one request's end as its client saw it."""
        ending, plan = request.client_ending, request.plan
        assert ending is not None, "every client has ended"
        slow_s = LAST_WORDS_S if plan.pause_s else 0.0
        ended_s = request.ended_s if plan.pause_s else request.client_ended_s
        late_s = self._record.ran_s(request.deadline_s, ended_s)
        self._record.measured("end after the deadline", late_s - slow_s)
        if late_s > LATE_S + slow_s:
            self._record.violated(
                "ends_by_deadline", f"#{plan.number} ended {late_s:.3f} s after its deadline"
            )
        stalled = (
            plan.pause_s > 0 and request.ended is not None and request.ended.outcome is Outcome.CANCELLED
        )
        if ending.outcome not in HONEST and not stalled:
            self._record.violated("honest_end", f"#{plan.number} is {ending.outcome}: {ending.reason}")

    def _check_one_ending(self, request: RequestRecord) -> None:
        """`one_agreed_end`: compare the end that the client saw with the end that the service reported."""
        ending, ended, number = request.client_ending, request.ended, request.plan.number
        assert ending is not None, "every client has ended"
        if ended is None:
            self._record.violated("one_agreed_end", f"#{number} never ended")
        elif ending.outcome is ClientOutcome.CANCELLED:
            # When the client left, all may have been sent, with the provider's last bytes still to come.
            late_s = LATE_S if ended.outcome is Outcome.COMPLETE else 0.0
            if (
                request.left_s is not None
                and request.audience is None  # else it may outlive the connection (linger_respected)
                and ended.outcome is not Outcome.CANCELLED
                and self._record.ran_s(request.left_s, request.ended_s) > late_s
            ):
                self._record.violated("one_agreed_end", f"#{number} left before it ended as {ended.outcome}")
        elif ended.outcome is Outcome.CANCELLED:
            if not request.plan.pause_s:
                self._record.violated(
                    "one_agreed_end", f"#{number} is cancelled in the events, {ending.outcome} to its client"
                )
        elif request.plan.again and ended.outcome is Outcome.COMPLETE:
            pass  # it was told how the equal question had ended
        elif request.plan.socket and ended.outcome is Outcome.REFUSED and ending.reason == ended.code:
            pass  # a message has no status to tell a refusal by
        elif ending.outcome not in MATCHING_OUTCOMES[ended.outcome]:
            self._record.violated(
                "one_agreed_end",
                f"#{number} is {ending.outcome} to its client, {ended.outcome} in the events",
            )
        elif ended.code is not None and ended.code != ending.reason:
            self._record.violated(
                "one_agreed_end", f"#{number} received {ending.reason}, the events say {ended.code}"
            )

    def _check_one_answer(self, request: RequestRecord) -> None:
        """`no_spliced_answer`: check the text that a client read; a fallback is judged by its label."""
        if request.ended is not None and request.ended.degraded:
            return
        if request.plan.again and request.client_ending and request.client_ending.outcome is _DEGRADED:
            return  # that of the equal question
        if request.text and judge(request.text, request.plan.prompt) not in (Proof.WHOLE, Proof.CUT):
            self._record.violated("no_spliced_answer", f"#{request.plan.number} read {request.text[:200]!r}")

    def _check_counted_once(self, request: RequestRecord) -> None:
        """`attempts_counted_once`: compare the trail of a request with its attempts, tokens and prices."""
        if request.ended is None:
            return
        made = Counter(
            _identity(attempt.reported) for attempt in request.leader_or_self.attempts if attempt.reported
        )
        trail = [reported for reported in request.ended.attempts if reported.tried and _sent(reported)]
        if Counter(map(_identity, trail)) - made:
            self._record.violated(
                "attempts_counted_once",
                f"the trail of #{request.plan.number} has attempts that were not sent, or has one twice",
            )
        if request.subscribers and request.attempts:
            sharing = (request, *request.subscribers)
            charged = [c.plan.number for c in sharing if c.ended and not c.is_refresh and not c.ended.shared]
            if len(charged) != 1 and (charged or not any(c.is_refresh for c in sharing)):
                self._record.violated(
                    "attempts_counted_once", f"the call of #{request.plan.number} is charged to {charged}"
                )
        if request.ended.shared and any(reported.usage for reported in trail):
            self._record.violated(
                "attempts_counted_once",
                f"#{request.plan.number} reports a cost that is charged to another request",
            )
        for attempt in request.attempts:
            reported = attempt.reported
            if reported is None:
                continue  # reported by check_all_returned
            priced = self._world.provider(attempt.provider).priced and reported.usage is not None
            price = PRICE.of(reported.usage) if priced and reported.usage else None
            if reported.cost_usd != price:
                self._record.violated(
                    "attempts_counted_once",
                    f"#{request.plan.number} at {attempt.target} costs {reported.cost_usd}, not {price}",
                )


def _identity(reported: AttemptRecord) -> tuple[str, str, str, int | None]:
    return reported.target, reported.kind, reported.reason, reported.status


def _sent(reported: AttemptRecord) -> bool:
    return not reported.reason.startswith(UNSUPPORTED)


def _task_names() -> Counter[str]:
    """Count all unfinished tasks by name: an idle service may replace tasks, but not add any."""
    return Counter(task.get_name() for task in _loop().unfinished())


def _loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop
