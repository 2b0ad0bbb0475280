"""The end of a run: nothing is left, and everybody tells the same story, to the request."""

import asyncio
from collections import Counter
from typing import Any

from dub5.chaos.run.judge import HONEST, Outcome
from dub5.chaos.simulation.invariants.consistency import WithLedger, with_status
from dub5.chaos.simulation.invariants.online import Rules
from dub5.chaos.simulation.invariants.record import Books, Case
from dub5.chaos.simulation.world.build import PRICE
from dub5.chaos.simulation.world.model import World
from dub5.service.app import Service
from dub5.service.failover.final_error import UNSUPPORTED
from dub5.service.model import Attempt
from dub5.service.model import Outcome as Told
from dub5.simulators.answers import Proof, judge
from dub5.simulators.ledger import Ledger
from dub5.simulators.virtual import VirtualLoop, VirtualWire

LATE_S = 0.1  # an end may come so long after the deadline
LAST_WORDS_S = 2.0  # and so much later where the client does not read
SETTLE_S = 1.0
# How a client's own judgement and the service's event name the same end.
SAME = {
    Told.COMPLETE: {Outcome.COMPLETE},
    Told.DEGRADED: {Outcome.DEGRADED},
    Told.REFUSED: {Outcome.REFUSED},
    Told.FAILED: {Outcome.FAILED, Outcome.REFUSED},
    Told.CUT: {Outcome.CUT},
}


class Closing:
    """Looks through the house when everybody has gone."""

    def __init__(
        self, world: World, books: Books, rules: Rules, service: Service, wire: VirtualWire, ledger: Ledger
    ) -> None:
        self._world = world
        self._books = books
        self._rules = rules
        self._service = service
        self._wire = wire
        self._ledger = ledger
        self._resting: Counter[str] = Counter()

    def at_rest(self) -> None:
        """Nobody has asked yet: these are the tasks of a service that has nothing to do."""
        self._resting = _names()
        self._resting["probes"] = 1  # other settings may begin, or end them

    async def quiet(self, quiet_s: float) -> None:
        """Nobody asks any more: when every clock has run out, everything that was taken is back (S6)."""
        loop = _loop()
        await asyncio.sleep(SETTLE_S)
        while (
            self._rules.left_open() or self._left()
        ) and quiet_s > 0:  # probes: heard out, or the service's own
            await asyncio.sleep(SETTLE_S)
            quiet_s -= SETTLE_S
        tell = self._books.violated
        for trial in self._rules.left_open():
            tell("S6", f"#{trial.number}: the try at {trial.target} of {trial.began_s:.3f} s never ended")
        for trial in self._books.trials():
            if trial.attempt is not None and trial.closed_s is None:
                tell("S6", f"#{trial.number}: the connection to {trial.target} was never closed")
        for name, provider in self._service.fleet._providers.items():
            if provider.limiter.in_flight:
                tell("S6", f"{provider.limiter.in_flight} permits of {name} have not come back")
        for state in self._service.fleet.states(loop.time()):
            if state.in_flight or state.probing:
                tell(
                    "S6",
                    f"{state.name}: {state.in_flight} in flight, {state.probing} probes out, and nobody asks",
                )
        if self._service.admission.in_flight:
            tell("S6", f"{self._service.admission.in_flight} requests are still in the house")
        if self._service.queue.waiting:
            tell("S6", f"{self._service.queue.waiting} requests still stand in line")
        if left := self._left():
            tell("S6", f"tasks are left: {', '.join(left[:5])}")

    def _left(self) -> list[str]:
        """The names of tasks that a service with nothing to do has not."""
        return list((_names() - self._resting).elements())

    def agree(self, status: dict[str, Any]) -> None:
        """The client's view, the service's events, its status and the ledger are of one opinion."""
        for case in self._books.cases.values():
            if case.ending is None:
                self._books.violated("honest", f"#{case.ask.number} never heard how it ended")
                continue
            self._honest(case)
            self._one_ending(case)
            self._one_answer(case)
            self._counted_once(case)
        with_status(self._books, status)
        WithLedger(self._world, self._books).check(self._ledger)

    def _honest(self, case: Case) -> None:
        """An end in time, and one that does not lie."""
        ending, ask = case.ending, case.ask
        assert ending is not None, "the clients have all gone home"
        slow_s = LAST_WORDS_S if ask.pause_s else 0.0
        late_s = (case.ended_s if ask.pause_s else case.ending_s) - case.deadline_s
        self._books.measured("end after the deadline", late_s - slow_s)
        if late_s > LATE_S + slow_s:
            self._books.violated("deadline", f"#{ask.number} ended {late_s:.3f} s after its deadline")
        stalled = ask.pause_s > 0 and case.ended is not None and case.ended.outcome is Told.CANCELLED
        if ending.outcome not in HONEST and not stalled:
            self._books.violated("honest", f"#{ask.number} is {ending.outcome}: {ending.reason}")

    def _one_ending(self, case: Case) -> None:
        """S1: one end, and the same to everybody."""
        ending, ended, number = case.ending, case.ended, case.ask.number
        assert ending is not None, "the clients have all gone home"
        if ended is None:
            self._books.violated("S1", f"#{number} never ended")
        elif ending.outcome is Outcome.CANCELLED:
            # All may have been sent when the client left, and the provider's last bytes still be on their way.
            known_s = (
                0.0
                if case.left_s is None
                else case.left_s + (LATE_S if ended.outcome is Told.COMPLETE else 0.0)
            )
            if case.left_s is not None and ended.outcome is not Told.CANCELLED and case.ended_s > known_s:
                self._books.violated("S1", f"#{number} left, and ended as {ended.outcome}")
        elif ended.outcome is Told.CANCELLED:
            if not case.ask.pause_s:
                self._books.violated("S1", f"#{number} is told as cancelled, and was {ending.outcome}")
        elif ending.outcome not in SAME[ended.outcome]:
            self._books.violated(
                "S1", f"#{number} is {ending.outcome} to its client, {ended.outcome} in the events"
            )
        elif ended.code is not None and ended.code != ending.reason:
            self._books.violated("S1", f"#{number} is told {ending.reason}, the events say {ended.code}")

    def _one_answer(self, case: Case) -> None:
        """S2: what a client read is the beginning of one answer, whole or not; of a substitute its label judges."""
        if case.ended is not None and case.ended.degraded:
            return
        if case.text and judge(case.text, case.ask.prompt) not in (Proof.WHOLE, Proof.CUT):
            self._books.violated("S2", f"#{case.ask.number} read {case.text[:200]!r}")

    def _counted_once(self, case: Case) -> None:
        """S11: each try is in the trail once, with its own tokens and their price; what is shared costs one of them."""
        if case.ended is None:
            return
        made = Counter(_told(trial.attempt) for trial in case.lead.trials if trial.attempt)
        trail = [attempt for attempt in case.ended.attempts if attempt.tried and _sent(attempt)]
        if Counter(map(_told, trail)) - made:
            self._books.violated(
                "S11", f"the trail of #{case.ask.number} tells of tries that were not made, or twice"
            )
        if case.sharers and case.trials:
            everybody = (case, *case.sharers)
            paying = [c.ask.number for c in everybody if c.ended and not c.refreshes and not c.ended.shared]
            if len(paying) != 1 and (paying or not any(c.refreshes for c in everybody)):
                self._books.violated("S11", f"the call of #{case.ask.number} is paid by {paying}")
        if case.ended.shared and any(attempt.usage for attempt in trail):
            self._books.violated("S11", f"#{case.ask.number} tells what its call cost, and another one pays")
        for trial in case.trials:
            attempt = trial.attempt
            if attempt is None:
                continue  # told above
            priced = self._world.provider(trial.provider).priced and attempt.usage is not None
            price = PRICE.of(attempt.usage) if priced and attempt.usage else None
            if attempt.cost_usd != price:
                self._books.violated(
                    "S11", f"#{case.ask.number} at {trial.target} costs {attempt.cost_usd}, not {price}"
                )


def _told(attempt: Attempt) -> tuple[str, str, str, int | None]:
    return attempt.target, attempt.kind, attempt.reason, attempt.status


def _sent(attempt: Attempt) -> bool:
    return not attempt.reason.startswith(UNSUPPORTED)


def _names() -> Counter[str]:
    """Of all tasks: those of a service at rest may be others after a while, but not more."""
    return Counter(task.get_name() for task in _loop().unfinished())


def _loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop
