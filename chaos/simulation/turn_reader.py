"""The judge of a turn's reply, whole or as messages: how it ended, and what it says of the database.

Independent of the service's own code on purpose, as chaos/run/judge.py is, whose ends it gives.

    JSON    one turn object
    stream  accepted, begin, delta ..., then end or error; all but `accepted` numbered
"""

from typing import Any

import msgspec

from dub5.chaos.run.judge import ClientOutcome, Ending, ReplyReader, Stop, mislabelled
from dub5.simulators.answers import Proof, judge

TEXT_OUTCOMES = {  # a turn's outcome -> what its text may be
    "complete": (Proof.WHOLE,),
    "cut": (Proof.CUT, Proof.WHOLE),
    "cancelled": (Proof.CUT, Proof.WHOLE),
    "failed": (),
    "refused": (),
}


class TurnReader(ReplyReader):
    """Reads one reply. What it says is None or empty until it has said it.

    `accepted_kept`: the question is in the database; `ended_kept`: the end is; `outcome`: of the turn.
    """

    def __init__(self, status: int, question: str, *, stream: bool) -> None:
        super().__init__(status, question, stream=stream)
        self.turn = ""
        self.conversation = ""
        self.asked_as = ""
        self.outcome = ""
        self.accepted_kept: bool | None = None
        self.ended_kept: bool | None = None
        self.memory_lost = False
        self.pruned_turns = 0
        self.degraded: str | None = None
        self._seq = 0
        self._types: list[str] = []

    def _take(self, event: str) -> None:
        try:
            message = msgspec.json.decode(event)
            self._message(message["type"], message)
        except (msgspec.DecodeError, TypeError, KeyError):
            self._dishonesty = self._dishonesty or "unreadable_message"

    def _message(self, kind: str, message: dict[str, Any]) -> None:
        if (self._types[-1] if self._types else "") not in _BEFORE.get(kind, ()):
            self._dishonesty = self._dishonesty or f"{kind}_out_of_order"
        self._types.append(kind)
        if self.turn and message["turn"] != self.turn:
            self._dishonesty = self._dishonesty or "two_turns"
        self.turn = message["turn"]
        if kind == "accepted":
            self.conversation, self.asked_as = message["conversation"], message["id"]
            self.accepted_kept = message["kept"]
            return
        if kind != "begin" and message["seq"] != self._seq + 1:
            self._dishonesty = self._dishonesty or "a_gap_in_its_numbers"
        self._seq = message["seq"]
        if kind == "begin":
            self._about(message)
        elif kind == "delta":
            self.text += message["text"]
            self.content_seen = True
        elif kind == "end":
            self.outcome, self.ended_kept, self._done = message["outcome"], message["kept"], True
        elif kind == "error":
            self._error = str(message["error"]["code"])

    def _about(self, told: dict[str, Any]) -> None:
        self.degraded = told.get("degraded")
        self.memory_lost = told.get("memory") == "lost"
        self.pruned_turns = (told.get("pruned") or {}).get("turns", 0)

    def _end_of_stream(self, stop: Stop) -> Ending:
        if self._dishonesty:
            return Ending(ClientOutcome.DISHONEST, self._dishonesty)
        if self._error is not None:
            return Ending(ClientOutcome.CUT if self.content_seen else ClientOutcome.FAILED, self._error)
        if not self._done:
            return Ending(ClientOutcome.DISHONEST, "ends_without_an_end")
        return self._proven()

    def _end_of_json(self, stop: Stop) -> Ending:
        if stop is Stop.BROKEN:
            return Ending(ClientOutcome.DISHONEST, "breaks_off_without_a_word")
        try:
            turn = msgspec.json.decode(self._body)
            self.text = (turn["answer"] or {"text": ""})["text"]
            self.turn, self.conversation, self.asked_as = turn["id"], turn["conversation"], turn["asked_as"]
            self.outcome, self.ended_kept, self.accepted_kept = turn["outcome"], turn["kept"], turn["kept"]
            self._about(turn)
            whole = turn["state"] == "ended" and turn["question"]["text"] == self._prompt
        except (msgspec.DecodeError, TypeError, KeyError):
            return Ending(ClientOutcome.DISHONEST, "unreadable_turn")
        self.content_seen = bool(self.text)
        return self._proven() if whole else Ending(ClientOutcome.DISHONEST, "another_turn_or_an_open_one")

    def _proven(self) -> Ending:
        """Judge the text by what the turn's own outcome promises."""
        if self.outcome == "degraded":
            problem = mislabelled([self.degraded], self.text, judge(self.text, self._prompt))
            return (
                Ending(ClientOutcome.DISHONEST, problem)
                if problem
                else Ending(ClientOutcome.DEGRADED, self.degraded or "")
            )
        wanted = TEXT_OUTCOMES.get(self.outcome)
        if wanted is None:
            return Ending(ClientOutcome.DISHONEST, f"unknown_outcome_{self.outcome}")
        proof = judge(self.text, self._prompt) if self.text or self.outcome == "complete" else None
        if proof is not None and proof not in wanted:
            return Ending(ClientOutcome.DISHONEST, f"{proof.value}_answer_sold_as_{self.outcome}")
        return Ending(ClientOutcome(self.outcome))


_BEFORE = {
    "accepted": ("",),
    "begin": ("accepted",),
    "delta": ("begin", "delta"),
    "end": ("begin", "delta"),
    "error": ("", "begin", "delta"),  # first, where heartbeats held the stream open
}
