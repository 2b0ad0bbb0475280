"""One person's conversation: several turns, each timed, read on where the connection is lost, and judged."""

import time
from collections.abc import Iterator
from random import Random

from msgspec import Struct

from dub5.chaos.run.judge import mislabelled
from dub5.loadtests.carriers import LOST, Arrived, Refused, TurnCarrier, TurnQuestion
from dub5.loadtests.client import JudgeText
from dub5.loadtests.mix import PersonKind
from dub5.loadtests.prompts import question
from dub5.loadtests.sample import Sample, SampleOutcome
from dub5.loadtests.turn_text import TurnText
from dub5.simulators.answers import Proof

RESUMES_MAX = 5  # of one turn
PIECES_MAX = 12  # the piece of an answer after which a person stops it or loses it is drawn up to this
PROVEN = {  # a turn's outcome -> what its text may be, and what the sample is
    "complete": ((Proof.WHOLE,), SampleOutcome.COMPLETE),
    "cancelled": ((Proof.WHOLE, Proof.CUT), SampleOutcome.CANCELLED),
    "cut": ((Proof.WHOLE, Proof.CUT), SampleOutcome.CUT),
}


class TurnPlan(Struct, frozen=True):
    """What a person does in one turn; the number of pieces that they have read by then."""

    stop_at: int | None = None
    lose_at: int | None = None
    away_s: float = 0.0


class PersonTalk:
    """One person who asks one question after another. `began_s`: when the run began, by perf_counter."""

    def __init__(
        self,
        kind: PersonKind,
        carrier: TurnCarrier,
        judge: JudgeText,
        rng: Random,
        route: str,
        began_s: float,
    ) -> None:
        self.turns = rng.randint(*kind.turns)
        self._kind = kind
        self._carrier = carrier
        self._judge = judge
        self._rng = rng
        self._model = kind.model(route, rng)
        self._began_s = began_s
        self._id: str | None = None
        self._name = f"{rng.getrandbits(48):x}"

    def think_s(self) -> float:
        """Draw the time before the next question."""
        mean_s = self._kind.think_s
        return self._rng.expovariate(1 / mean_s) if mean_s else 0.0

    def plan(self) -> TurnPlan:
        """Draw what happens in the next turn."""
        rng, kind, at = self._rng, self._kind, self._rng.randint(1, PIECES_MAX)
        chance = rng.random()
        if chance < kind.stops:
            return TurnPlan(stop_at=at)
        if chance < kind.stops + kind.loses:
            return TurnPlan(lose_at=at, away_s=rng.expovariate(1 / kind.away_s) if kind.away_s else 0.0)
        return TurnPlan()

    def ask(self, number: int, intended_s: float, plan: TurnPlan) -> Sample:
        """Ask the next question, and return the sample of its turn."""
        id_ = f"{self._name}-{number}"
        asked = TurnQuestion(id_, question(self._rng), self._model, self._id)
        turn = TimedTurn(self._carrier, plan)
        outcome, why = turn.read(asked, self._judge)
        self._id = self._id or turn.read_text.conversation or None
        began_s = self._began_s
        return Sample(
            kind=self._kind.name,
            stream=True,
            outcome=outcome,
            why=why,
            intended_s=intended_s,
            started_s=turn.started_s - began_s,
            first_token_s=None if turn.first_token_s is None else turn.first_token_s - began_s,
            ended_s=time.perf_counter() - began_s,
            longest_gap_s=turn.longest_gap_s,
            target=turn.read_text.target,
            cached=False,
            carrier=self._kind.carrier,
            resumed=turn.read_text.losses,
            resume_s=turn.resume_s,
            kept=turn.read_text.kept,
        )

    def close(self) -> None:
        """End the connection."""
        self._carrier.close()


class TimedTurn:
    """One turn under way. Times are those of perf_counter."""

    def __init__(self, carrier: TurnCarrier, plan: TurnPlan) -> None:
        self.read_text = TurnText()
        self.started_s = self._piece_s = time.perf_counter()
        self.first_token_s: float | None = None
        self.longest_gap_s = 0.0
        self.resume_s: float | None = None  # the longest time from a reconnect to the first message
        self._carrier = carrier
        self._plan = plan
        self._resumed_at_s: float | None = None

    def read(self, asked: TurnQuestion, judge: JudgeText) -> tuple[SampleOutcome, str]:
        """Read the turn to its end. Return how it ended, and why. Never raises for what others do."""
        read = self.read_text
        messages = self._carrier.ask(asked)
        while True:
            try:
                self._take(messages)
            except Refused as refused:
                return self._refused(str(refused))
            except LOST as error:
                if not read.turn or read.losses >= RESUMES_MAX:
                    return SampleOutcome.BROKEN, f"{type(error).__name__}: {error}"
                read.lost()
            if read.is_over or read.problem:
                return self._verdict(asked.text, judge)
            time.sleep(self._plan.away_s)
            self._resumed_at_s = time.perf_counter()
            messages = self._carrier.resume(read.turn, read.position)

    def _take(self, messages: Iterator[Arrived]) -> None:
        """Take messages to the end of the turn, or until the plan breaks the connection off."""
        read, plan = self.read_text, self._plan
        for arrived in messages:
            self._note_time(arrived)
            read.take(arrived.message)
            if read.problem or read.is_over:
                return
            if arrived.message.type != "delta":
                continue
            if read.pieces == plan.stop_at:
                self._carrier.stop(read.turn)
            if read.pieces == plan.lose_at:
                self._carrier.lose()
                read.lost()
                return
        read.lost()

    def _note_time(self, arrived: Arrived) -> None:
        if self._resumed_at_s is not None:
            waited_s = arrived.at_s - self._resumed_at_s
            self.resume_s, self._resumed_at_s = max(self.resume_s or 0.0, waited_s), None
        elif self.first_token_s is not None:
            self.longest_gap_s = max(self.longest_gap_s, arrived.at_s - self._piece_s)
        if arrived.message.type == "delta" and self.first_token_s is None:
            self.first_token_s = arrived.at_s
        self._piece_s = arrived.at_s

    def _refused(self, why: str) -> tuple[SampleOutcome, str]:
        if self.read_text.losses:
            return SampleOutcome.DISHONEST, f"a turn that cannot be read on: {why}"
        return SampleOutcome.FAILED, why

    def _verdict(self, prompt: str, judge: JudgeText) -> tuple[SampleOutcome, str]:
        read = self.read_text
        if read.problem:
            return SampleOutcome.DISHONEST, read.problem
        if read.error:
            return (SampleOutcome.CUT if read.text else SampleOutcome.FAILED), read.error
        if read.outcome == "degraded":
            lie = mislabelled([read.degraded], read.text, judge(read.text, prompt))
            return (SampleOutcome.DISHONEST, lie) if lie else (SampleOutcome.DEGRADED, read.degraded or "")
        if read.outcome == "failed" and not read.text:
            return SampleOutcome.FAILED, "failed"
        allowed, outcome = PROVEN.get(read.outcome, ((), SampleOutcome.DISHONEST))
        proof = judge(read.text, prompt)
        if proof not in allowed:
            return SampleOutcome.DISHONEST, f"the text is {proof.value}, the outcome {read.outcome!r}"
        return outcome, ""


def no_session(kind: PersonKind, intended_s: float, ended_s: float, error: Exception) -> Sample:
    """Return the sample of a person who could not begin."""
    outcome = SampleOutcome.FAILED if isinstance(error, Refused) else SampleOutcome.BROKEN
    why = f"no session: {error}"
    times = (intended_s, intended_s, None, ended_s, 0.0)
    return Sample(kind.name, True, outcome, why, *times, "", False, carrier=kind.carrier)
