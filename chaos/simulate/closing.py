"""The end of a run: nothing is left, and everybody tells the same story, to the request."""

import asyncio
from collections import Counter
from typing import Any

from chaos.judge import HONEST, Outcome
from chaos.simulate.books import Books, Case
from chaos.simulate.rules import Rules
from chaos.simulate.world import World
from service.app import Service
from service.chat import Outcome as Told
from simulators.ledger import Ledger
from simulators.virtual import VirtualWire

LATE_S = 0.1  # an end may come so long after the deadline
LAST_WORDS_S = 2.0  # and so much later where the client does not read
SETTLE_S = 1.0
# How a client's own judgement and the service's event name the same end.
SAME = {
    Told.COMPLETE: {Outcome.COMPLETE},
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

    async def quiet(self) -> None:
        """Nobody asks any more: soon nothing moves, and everything that was taken is back."""
        await asyncio.sleep(SETTLE_S)

    def agree(self, status: dict[str, Any]) -> None:
        """The client's view, the service's events, its status and the ledger are of one opinion."""
        for case in self._books.cases.values():
            self._honest(case)
            self._one_ending(case)
        told = Counter(case.ended.outcome.value for case in self._books.cases.values() if case.ended)
        if +Counter(status["outcomes"]) != told:
            self._books.violated("S1", f"/status counts {status['outcomes']}, the events {dict(told)}")

    def over(self) -> None:
        """The service is closed."""

    def _honest(self, case: Case) -> None:
        ending, ask = case.ending, case.ask
        assert ending is not None, "the clients have all gone home"
        slow_s = LAST_WORDS_S if ask.pause_s else 0.0
        late_s = (case.ended_s if ask.pause_s else case.ending_s) - case.deadline_s
        self._books.measured("an end after the deadline", late_s)
        if late_s > LATE_S + slow_s:
            self._books.violated("deadline", f"#{ask.number} ended {late_s:.3f} s after its deadline")
        stalled = ask.pause_s > 0 and case.ended is not None and case.ended.outcome is Told.CANCELLED
        if ending.outcome not in HONEST and not stalled:
            self._books.violated("honest", f"#{ask.number} is {ending.outcome}: {ending.reason}")

    def _one_ending(self, case: Case) -> None:
        ending, ended, number = case.ending, case.ended, case.ask.number
        assert ending is not None, "the clients have all gone home"
        if ended is None:
            self._books.violated("S1", f"#{number} never ended")
        elif ending.outcome is Outcome.CANCELLED:
            if case.left_s is not None and ended.outcome is not Told.CANCELLED and case.ended_s > case.left_s:
                self._books.violated("S1", f"#{number} left, and ended as {ended.outcome}")
        elif ended.outcome is Told.CANCELLED:
            if not case.ask.pause_s:
                self._books.violated("S1", f"#{number} is told as cancelled, and was {ending.outcome}")
        elif ending.outcome not in SAME[ended.outcome]:
            self._books.violated("S1", f"#{number} is {ending.outcome} to its client, {ended.outcome} in the events")
        elif ended.code is not None and ended.code != ending.reason:
            self._books.violated("S1", f"#{number} is told {ending.reason}, the events say {ended.code}")


