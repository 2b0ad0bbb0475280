"""The judge of a turn's reply, whole or as messages: how it ended, and what it says of the database.

Independent of the service's own code on purpose, as chaos/run/judge.py is, whose ends it gives.

    JSON      one turn object
    messages  accepted, begin, delta ..., then end or error, as server-sent events or over a WebSocket

All but `accepted` say the position in the answer, in bytes. A turn that is read on begins with `begin`, at
the position up to which it has been read; its text is all that its client has read of it.
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
    `before`: what its client has read of the turn, which it reads on; None: it asks. `last`: the type of the
    last message. `start`: where it begins to read, in bytes.
    """

    def __init__(self, status: int, question: str, *, stream: bool, before: str | None = None) -> None:
        super().__init__(status, question, stream=stream)
        self.text = before or ""
        self.start: int | None = None
        self.last = ""
        self.turn = ""
        self.conversation = ""
        self.asked_as = ""
        self.outcome = ""
        self.accepted_kept: bool | None = None
        self.ended_kept: bool | None = None
        self.memory_lost = False
        self.pruned_turns = 0
        self.degraded: str | None = None
        self.target: str | None = None
        self.remaining: int | None = None  # the questions that a rate limit leaves
        self._kept_less = False
        self._is_read_on = before is not None
        self._seq = len(self.text.encode())

    @property
    def is_over(self) -> bool:
        """Whether the last message was there."""
        return self._done or self._error is not None

    def take(self, message: dict[str, Any]) -> None:
        """Read one message."""
        try:
            self._message(message["type"], message)
        except (TypeError, KeyError):
            self._is_dishonest("unreadable_message")

    def _take(self, event: str) -> None:
        try:
            self.take(msgspec.json.decode(event))
        except msgspec.DecodeError:
            self._is_dishonest("unreadable_message")

    def _is_dishonest(self, why: str) -> None:
        self._dishonesty = self._dishonesty or why

    def _message(self, kind: str, message: dict[str, Any]) -> None:
        before = "accepted" if self._is_read_on and not self.last else self.last
        if before not in _BEFORE.get(kind, ()):
            self._is_dishonest(f"{kind}_out_of_order")
        self.last = kind
        if kind == "error":
            self._error = str(message["error"]["code"])
        if kind == "error" and "turn" not in message:  # it never was a turn
            return
        if self.turn and message["turn"] != self.turn:
            self._is_dishonest("two_turns")
        self.turn = message["turn"]
        if kind == "accepted":
            self.conversation, self.asked_as = message["conversation"], message["id"]
            self.accepted_kept, self.remaining = message["kept"], message.get("remaining")
        elif kind == "begin":
            self._begin(message)
        else:
            self._piece(kind, message)

    def _begin(self, message: dict[str, Any]) -> None:
        """Check where it begins: of what a dead process had said, less may be kept."""
        self._about(message)
        self.start = message["seq"]
        if self.start > self._seq:
            self._is_dishonest("a_gap_in_its_numbers")
        self._kept_less = self.start < self._seq
        self._seq = self.start

    def _piece(self, kind: str, message: dict[str, Any]) -> None:
        text = message["text"] if kind == "delta" else ""
        seq = self._seq + len(text.encode())
        said = message.get("seq", seq) if kind == "error" else message["seq"]  # a refusal has none
        if said != seq:
            self._is_dishonest("a_gap_in_its_numbers")
        self._seq = seq
        if text and self._kept_less:
            self._is_dishonest("goes_on_before_its_end")
        self.text += text
        self.content_seen = self.content_seen or bool(text)
        if kind == "end":
            self.outcome, self.ended_kept, self._done = message["outcome"], message["kept"], True
            if self._kept_less and self.outcome != "cut":
                self._is_dishonest("less_than_was_read")

    def _about(self, told: dict[str, Any]) -> None:
        self.degraded, self.target = told.get("degraded"), told.get("target")
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
    "error": ("", "accepted", "begin", "delta"),  # first, where heartbeats held the stream open
}
