"""The end of a run: nothing is left, and everybody tells the same story, to the request."""

import asyncio
from collections import Counter
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
from dub5.simulators.virtual import VirtualLoop, VirtualWire

LATE_S = 0.1  # an end may come so long after the deadline
LAST_WORDS_S = 2.0  # and so much later where the client does not read
SETTLE_S = 1.0
# How a client's own judgement and the service's event name the same end.
MATCHING_OUTCOMES = {
    Outcome.COMPLETE: {ClientOutcome.COMPLETE},
    Outcome.DEGRADED: {ClientOutcome.DEGRADED},
    Outcome.REFUSED: {ClientOutcome.REFUSED},
    Outcome.FAILED: {ClientOutcome.FAILED, ClientOutcome.REFUSED},
    Outcome.CUT: {ClientOutcome.CUT},
}


class ShutdownInvariants:
    """Looks through the house when everybody has gone."""

    def __init__(
        self,
        world: World,
        record: RunRecord,
        invariants: OnlineInvariants,
        service: Service,
        wire: VirtualWire,
        ledger: Ledger,
    ) -> None:
        self._world = world
        self._record = record
        self._invariants = invariants
        self._service = service
        self._wire = wire
        self._ledger = ledger
        self._idle_tasks: Counter[str] = Counter()

    def note_idle_tasks(self) -> None:
        """Nobody has asked yet: these are the tasks of a service that has nothing to do."""
        self._idle_tasks = _task_names()
        self._idle_tasks["probes"] = 1  # other settings may begin, or end them

    async def check_all_returned(self, patience_s: float) -> None:
        """Nobody asks any more: when every clock has run out, everything that was taken is back."""
        loop = _loop()
        await asyncio.sleep(SETTLE_S)
        while (
            self._invariants.open_attempts() or self._leftover_tasks()
        ) and patience_s > 0:  # probes: heard out, or the service's own
            await asyncio.sleep(SETTLE_S)
            patience_s -= SETTLE_S
        violated = self._record.violated
        for attempt in self._invariants.open_attempts():
            violated(
                "permits_accounted_for",
                f"#{attempt.number}: the try at {attempt.target} of {attempt.began_s:.3f} s never ended",
            )
        for attempt in self._record.attempts():
            if attempt.reported is not None and attempt.closed_s is None:
                violated(
                    "permits_accounted_for",
                    f"#{attempt.number}: the connection to {attempt.target} was never closed",
                )
        for name, provider in self._service.fleet._providers.items():
            if provider.limiter.in_flight:
                violated(
                    "permits_accounted_for",
                    f"{provider.limiter.in_flight} permits of {name} have not come back",
                )
        for state in self._service.fleet.snapshots(loop.time()):
            if state.in_flight or state.probing:
                violated(
                    "permits_accounted_for",
                    f"{state.name}: {state.in_flight} in flight, {state.probing} probes out, and nobody asks",
                )
        if self._service.admission.in_flight:
            violated(
                "permits_accounted_for",
                f"{self._service.admission.in_flight} requests are still in the house",
            )
        if self._service.queue.waiting:
            violated("permits_accounted_for", f"{self._service.queue.waiting} requests still stand in line")
        if left := self._leftover_tasks():
            violated("permits_accounted_for", f"tasks are left: {', '.join(left[:5])}")

    def _leftover_tasks(self) -> list[str]:
        """The names of tasks that a service with nothing to do has not."""
        return list((_task_names() - self._idle_tasks).elements())

    def check_agreement(self, status: dict[str, Any]) -> None:
        """The client's view, the service's events, its status and the ledger are of one opinion."""
        for request in self._record.requests.values():
            if request.client_ending is None:
                self._record.violated("honest_end", f"#{request.plan.number} never heard how it ended")
                continue
            self._check_honest_end(request)
            self._check_one_ending(request)
            self._check_one_answer(request)
            self._check_counted_once(request)
        check_status(self._record, status)
        LedgerConsistency(self._world, self._record).check(self._ledger)

    def _check_honest_end(self, request: RequestRecord) -> None:
        """An end in time, and one that does not lie."""
        ending, plan = request.client_ending, request.plan
        assert ending is not None, "the clients have all gone home"
        slow_s = LAST_WORDS_S if plan.pause_s else 0.0
        late_s = (request.ended_s if plan.pause_s else request.client_ended_s) - request.deadline_s
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
        """`one_agreed_end`: one end, and the same to everybody."""
        ending, ended, number = request.client_ending, request.ended, request.plan.number
        assert ending is not None, "the clients have all gone home"
        if ended is None:
            self._record.violated("one_agreed_end", f"#{number} never ended")
        elif ending.outcome is ClientOutcome.CANCELLED:
            # All may have been sent when the client left, and the provider's last bytes still be on their way.
            known_s = (
                0.0
                if request.left_s is None
                else request.left_s + (LATE_S if ended.outcome is Outcome.COMPLETE else 0.0)
            )
            if (
                request.left_s is not None
                and ended.outcome is not Outcome.CANCELLED
                and request.ended_s > known_s
            ):
                self._record.violated("one_agreed_end", f"#{number} left, and ended as {ended.outcome}")
        elif ended.outcome is Outcome.CANCELLED:
            if not request.plan.pause_s:
                self._record.violated(
                    "one_agreed_end", f"#{number} is told as cancelled, and was {ending.outcome}"
                )
        elif ending.outcome not in MATCHING_OUTCOMES[ended.outcome]:
            self._record.violated(
                "one_agreed_end",
                f"#{number} is {ending.outcome} to its client, {ended.outcome} in the events",
            )
        elif ended.code is not None and ended.code != ending.reason:
            self._record.violated(
                "one_agreed_end", f"#{number} is told {ending.reason}, the events say {ended.code}"
            )

    def _check_one_answer(self, request: RequestRecord) -> None:
        """`no_spliced_answer`: what a client read is the beginning of one answer; of a fallback its label judges."""
        if request.ended is not None and request.ended.degraded:
            return
        if request.text and judge(request.text, request.plan.prompt) not in (Proof.WHOLE, Proof.CUT):
            self._record.violated("no_spliced_answer", f"#{request.plan.number} read {request.text[:200]!r}")

    def _check_counted_once(self, request: RequestRecord) -> None:
        """`attempts_counted_once`: each try is in the trail once, with its tokens and price; of sharers one pays."""
        if request.ended is None:
            return
        made = Counter(
            _identity(attempt.reported) for attempt in request.leader_or_self.attempts if attempt.reported
        )
        trail = [reported for reported in request.ended.attempts if reported.tried and _sent(reported)]
        if Counter(map(_identity, trail)) - made:
            self._record.violated(
                "attempts_counted_once",
                f"the trail of #{request.plan.number} tells of tries that were not made, or twice",
            )
        if request.subscribers and request.attempts:
            everybody = (request, *request.subscribers)
            paying = [c.plan.number for c in everybody if c.ended and not c.is_refresh and not c.ended.shared]
            if len(paying) != 1 and (paying or not any(c.is_refresh for c in everybody)):
                self._record.violated(
                    "attempts_counted_once", f"the call of #{request.plan.number} is paid by {paying}"
                )
        if request.ended.shared and any(reported.usage for reported in trail):
            self._record.violated(
                "attempts_counted_once",
                f"#{request.plan.number} tells what its call cost, and another one pays",
            )
        for attempt in request.attempts:
            reported = attempt.reported
            if reported is None:
                continue  # told above
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
    """Of all tasks: those of a service at rest may be others after a while, but not more."""
    return Counter(task.get_name() for task in _loop().unfinished())


def _loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop
