"""People who lose their connection in mid-answer, and read on: in threads, over both carriers."""

import asyncio
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dub5.loadtests.carriers import CARRIERS, LOST, Credentials, Refused, TurnQuestion
from dub5.loadtests.turn_text import TurnText
from dub5.simulators.answers import Proof, judge
from tests.support.conversing import KEY

PAUSE_S = 0.05  # before another try
PATIENCE_S = 60.0
T = TypeVar("T")
_NUMBERS = itertools.count()  # of people: they have one owner, and their questions differ


class Reader:
    """One person with one conversation. `url` may change, as an address behind a balancer does."""

    def __init__(self, url: str, carrier: str, number: int) -> None:
        self.kind = carrier
        self.asked: TurnQuestion | None = None
        self.conversation: str | None = None
        self._number = number
        self._turns = 0
        self.move(url)

    def move(self, url: str) -> None:
        """Use another address from now on."""
        self._carrier = CARRIERS[self.kind](url, Credentials.begin(url, KEY))

    def ask(self, *, lose_after: int | None = None, model: str = "chat") -> TurnText:
        """Ask the next question; read to the end, or up to a number of pieces: then the connection breaks.

        Raises Refused, LOST where the turn was not even accepted.
        """
        id_ = f"q-{self._number}-{self._turns}"
        self.asked = TurnQuestion(id_, f"Question {self._turns} of {self._number}", model, self.conversation)
        self._turns += 1
        read = TurnText()
        try:
            for arrived in self._carrier.ask(self.asked):
                read.take(arrived.message)
                if read.pieces == lose_after:
                    self._carrier.lose()
                    break
        except LOST:
            if not read.turn:
                raise
        self.conversation = read.conversation
        if not read.is_over:
            read.lost()
        return read

    def read_on(self, read: TurnText) -> TurnText:
        """Read a turn to its end, over as many connections as it takes."""
        until_s = time.monotonic() + PATIENCE_S
        while not (read.is_over or read.problem):
            assert time.monotonic() < until_s, f"{self.kind}: no end after {read.losses} connections"
            try:
                for arrived in self._carrier.resume(read.turn, read.position):
                    read.take(arrived.message)
            except (Refused, *LOST):
                time.sleep(PAUSE_S)  # what other processes do has no event
            if not read.is_over:
                read.lost()
        return read

    def check(self, read: TurnText, outcome: str = "complete") -> None:
        """Check the text of a turn: nothing is missing, nothing is there twice."""
        assert self.asked is not None, "the last question is looked at"
        assert (read.problem, read.error, read.outcome) == ("", "", outcome), (self.kind, vars(read))
        proof = judge(read.text, self.asked.text)
        assert proof in ((Proof.WHOLE,) if outcome == "complete" else (Proof.WHOLE, Proof.CUT)), read.text

    def close(self) -> None:
        """End the connection."""
        self._carrier.close()


class Readers:
    """People at one time, over every carrier: `await readers.all(lambda reader: ...)`."""

    def __init__(self, url: str, of_each: int) -> None:
        carriers = [carrier for carrier in CARRIERS for _ in range(of_each)]
        self.people = [Reader(url, carrier, next(_NUMBERS)) for carrier in carriers]
        self._pool = ThreadPoolExecutor(len(self.people))

    async def all(self, work: Callable[[Reader], T]) -> list[T]:
        """Do something as each person at one time; return what they found."""
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(self._pool, work, one) for one in self.people))

    def close(self) -> None:
        """End all connections."""
        for one in self.people:
            one.close()
        self._pool.shutdown()
