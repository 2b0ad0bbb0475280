"""The judge of a reply: how a request ended, as its client can tell. A 200 is complete only if its answer
proves it.

bytes -> ReplyReader.feed ... -> ReplyReader.end(how) -> Ending(outcome, reason)

complete  the whole answer, properly ended          refused   an error that blames the request, or a limit
degraded  a fallback, labelled from end to end      cut       an honest error after the first content
failed    an honest error before the first content  cancelled the client left
dishonest not what it pretends to be, or ends without an error
hung      no end by the deadline

Independent of the service's own code on purpose: each must be able to catch the other's mistakes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from dub5.chaos.run.sse import EventReader
from dub5.simulators.answers import Proof, judge
from dub5.simulators.personas.embeddings import vector

ANSWERED_BY = re.compile(r"([A-Za-z0-9._-]+) answers ")
REFUSALS = frozenset({400, 401, 404, 405, 413, 422})
REFUSED_CODES = frozenset({"rate_limited", "overloaded", "shutting_down"})


class ClientOutcome(StrEnum):
    """The six ends that a request may have, and the two that must never happen."""

    COMPLETE = "complete"
    DEGRADED = "degraded"
    REFUSED = "refused"
    FAILED = "failed"
    CUT = "cut"
    CANCELLED = "cancelled"
    DISHONEST = "dishonest"
    HUNG = "hung"


HONEST = frozenset(ClientOutcome) - {ClientOutcome.DISHONEST, ClientOutcome.HUNG}


class Stop(StrEnum):
    """How the bytes ended."""

    END = "end"  # as HTTP promised
    BROKEN = "broken"  # the connection failed
    TIMEOUT = "timeout"  # the client's patience ran out


@dataclass(frozen=True, slots=True)
class Ending:
    """How one request ended. `reason` is short, and empty for a complete answer."""

    outcome: ClientOutcome
    reason: str = ""


class ReplyReader:
    """Reads one reply. `content_seen` becomes true with the first content."""

    def __init__(self, status: int, prompt: str, *, stream: bool) -> None:
        self.content_seen = False
        self.text = ""
        self._status = status
        self._prompt = prompt
        self._stream = stream and status == 200
        self._events = EventReader()
        self._body = bytearray()
        self._finish: str | None = None
        self._done = False
        self._error: str | None = None  # the code of an error event
        self._dishonesty = ""  # the first thing that an honest stream never does
        self._labels: list[str | None] = []  # of a fallback: its source, on each event with choices or usage

    @property
    def answered_by(self) -> str:
        """Return the provider that the answer names as its own."""
        answering = ANSWERED_BY.match(self.text)
        return answering[1] if answering else ""

    def feed(self, data: bytes) -> None:
        """Read the next bytes of the body."""
        if self._stream:
            for event in self._events.feed(data):
                self._take(event)
        else:
            self._body += data

    def end(self, stop: Stop) -> Ending:
        """Judge the reply after its last bytes."""
        if stop is Stop.TIMEOUT:
            return Ending(ClientOutcome.HUNG, "no_end_in_time")
        if self._status != 200:
            return self._end_of_error(stop)
        return self._end_of_stream(stop) if self._stream else self._end_of_json(stop)

    def _take(self, event: str) -> None:
        if self._done or self._error is not None:
            self._dishonesty = self._dishonesty or "goes_on_after_its_end"
        elif event == "[DONE]":
            self._done = True
        else:
            self._chunk(_decoded(event))

    def _chunk(self, chunk: Any) -> None:
        if not isinstance(chunk, dict):
            self._dishonesty = self._dishonesty or "unreadable_event"
        elif "error" in chunk:
            self._error = _code(chunk)
        else:
            self._labels.append(label_of(chunk.get("degraded")))
            for choice in chunk.get("choices") or ():
                self._choice(choice)

    def _choice(self, choice: dict[str, Any]) -> None:
        content = (choice.get("delta") or {}).get("content") or ""
        if content and self._finish:
            self._dishonesty = self._dishonesty or "content_after_finish"
        if content:
            self.content_seen = True
            self.text += content
        if (finish := choice.get("finish_reason")) is not None:
            if self._finish:
                self._dishonesty = self._dishonesty or "finishes_twice"
            self._finish = finish

    def _end_of_stream(self, stop: Stop) -> Ending:
        if self._dishonesty:
            return Ending(ClientOutcome.DISHONEST, self._dishonesty)
        if self._error is not None:
            return Ending(ClientOutcome.CUT if self.content_seen else ClientOutcome.FAILED, self._error)
        if stop is Stop.BROKEN and not self._done:
            return Ending(ClientOutcome.DISHONEST, "breaks_off_without_a_word")
        if not self._done:
            return Ending(ClientOutcome.DISHONEST, "ends_without_done")
        if self._finish is None:
            return Ending(ClientOutcome.DISHONEST, "done_without_finish")
        return self._proven()

    def _end_of_json(self, stop: Stop) -> Ending:
        if stop is Stop.BROKEN:
            return Ending(ClientOutcome.DISHONEST, "breaks_off_without_a_word")
        body = _decoded(self._body)
        try:
            choice = body["choices"][0]
            self.text = choice["message"]["content"] or ""
            self._finish = choice["finish_reason"]
        except (TypeError, KeyError, IndexError):
            return Ending(ClientOutcome.DISHONEST, "unreadable_answer")
        self.content_seen = bool(self.text)
        self._labels = [label_of(body.get("degraded"))]
        return self._proven() if self._finish else Ending(ClientOutcome.DISHONEST, "answer_without_finish")

    def _proven(self) -> Ending:
        proof = judge(self.text, self._prompt)
        if any(self._labels):
            problem = mislabelled(self._labels, self.text, proof)
            return (
                Ending(ClientOutcome.DISHONEST, problem)
                if problem
                else Ending(ClientOutcome.DEGRADED, self._labels[0] or "")
            )
        if proof is Proof.WHOLE:
            return Ending(ClientOutcome.COMPLETE)
        return Ending(ClientOutcome.DISHONEST, f"{proof.value}_answer_sold_as_whole")

    def _end_of_error(self, stop: Stop) -> Ending:
        if stop is Stop.BROKEN:
            return Ending(ClientOutcome.DISHONEST, "breaks_off_without_a_word")
        code = _code(_decoded(self._body)) or f"http_{self._status}"
        refused = self._status in REFUSALS or code in REFUSED_CODES
        return Ending(ClientOutcome.REFUSED if refused else ClientOutcome.FAILED, code)


class EmbeddingReader(ReplyReader):
    """Reads the embedding of one text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text, stream=False)

    def _end_of_json(self, stop: Stop) -> Ending:
        if stop is Stop.BROKEN:
            return Ending(ClientOutcome.DISHONEST, "breaks_off_without_a_word")
        try:
            got = _decoded(self._body)["data"][0]["embedding"]
            right = vector(self._prompt, len(got))
            same = all(abs(a - b) < 1e-6 for a, b in zip(got, right, strict=True))
        except (TypeError, KeyError, IndexError):
            return Ending(ClientOutcome.DISHONEST, "unreadable_answer")
        same = same and bool(got)
        return Ending(ClientOutcome.COMPLETE) if same else Ending(ClientOutcome.DISHONEST, "another_vector")


LEFT = Ending(ClientOutcome.CANCELLED, "left")
NO_REPLY = Ending(ClientOutcome.DISHONEST, "no_reply")


def label_of(degraded: object) -> str | None:
    """Return the source that a body's `degraded` object names; None if it is no fallback."""
    return str(degraded.get("source")) if isinstance(degraded, dict) else None


def mislabelled(labels: Sequence[str | None], text: str, proof: Proof) -> str:
    """Return what is wrong with a fallback; empty if nothing. First and last event carry the same label. A
    stale answer is complete; any other fallback is not a provider's answer."""
    first_label, last_label = labels[0], labels[-1]
    if not text:
        return "empty_substitute"
    if first_label is None or first_label != last_label:
        return "half_labelled_substitute"
    if (proof is Proof.WHOLE) != (first_label == "stale") or (
        first_label != "stale" and ANSWERED_BY.match(text)
    ):
        return f"{proof.value}_answer_labelled_{first_label}"
    return ""


def _decoded(data: str | bytes | bytearray) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _code(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return str(error or "")
    return str(error.get("code") or error.get("type") or "error")
