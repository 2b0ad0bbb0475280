"""The judge of a turn's reply: what is honest, and what is not."""

from typing import Any

import msgspec
import pytest

from dub5.chaos.run.judge import Stop
from dub5.chaos.simulation.turn_reader import TurnReader
from dub5.simulators.answers import answer_text

QUESTION = "Person 1 asks 2 of world 3"
ANSWER = answer_text("one", QUESTION, 3)
ACCEPTED = {"type": "accepted", "turn": "T", "id": "ask-1", "conversation": "C", "kept": True, "flags": []}
BEGIN = {"type": "begin", "turn": "T", "seq": 0, "route": "chat", "target": "one/m", "trail": ""}


def delta(seq: int, text: str, turn: str = "T") -> dict[str, Any]:
    return {"type": "delta", "turn": turn, "seq": seq, "text": text}


def end(seq: int, outcome: str = "complete") -> dict[str, Any]:
    return {"type": "end", "turn": "T", "seq": seq, "outcome": outcome, "finish": "stop", "kept": True}


def error(seq: int) -> dict[str, Any]:
    return {"type": "error", "turn": "T", "seq": seq, "error": {"code": "stream_cut"}}


def read(*messages: dict[str, Any]) -> TurnReader:
    reader = TurnReader(200, QUESTION, stream=True)
    for message in messages:
        reader.feed(b"event: %s\ndata: %s\n\n" % (message["type"].encode(), msgspec.json.encode(message)))
    return reader


@pytest.mark.parametrize(
    ("messages", "outcome", "reason"),
    [
        ((ACCEPTED, BEGIN, delta(1, ANSWER), end(2)), "complete", ""),
        ((ACCEPTED, BEGIN, delta(1, ANSWER[:20]), delta(2, ANSWER[20:]), end(3)), "complete", ""),
        ((ACCEPTED, BEGIN, delta(1, ANSWER[:20]), error(2)), "cut", "stream_cut"),
        ((error(1),), "failed", "stream_cut"),
        ((ACCEPTED, BEGIN, delta(1, ANSWER[:20]), end(2, "cut")), "cut", ""),
        ((ACCEPTED, BEGIN, end(1, "failed")), "failed", ""),
        (
            (ACCEPTED, {**BEGIN, "degraded": "words"}, delta(1, "No."), end(2, "degraded")),
            "degraded",
            "words",
        ),
        ((ACCEPTED, BEGIN, delta(1, ANSWER[:20]), end(2)), "dishonest", "cut_answer_sold_as_complete"),
        ((ACCEPTED, BEGIN, delta(1, "No."), end(2, "degraded")), "dishonest", "half_labelled_substitute"),
        ((ACCEPTED, BEGIN, delta(1, "Not this."), end(2, "cut")), "dishonest", "foreign_answer_sold_as_cut"),
        ((ACCEPTED, BEGIN, delta(1, ANSWER)), "dishonest", "ends_without_an_end"),
        ((ACCEPTED, BEGIN, delta(2, ANSWER), end(3)), "dishonest", "a_gap_in_its_numbers"),
        ((ACCEPTED, delta(1, ANSWER), end(2)), "dishonest", "delta_out_of_order"),
        ((ACCEPTED, BEGIN, delta(1, ANSWER), end(2), delta(3, "more")), "dishonest", "delta_out_of_order"),
        ((ACCEPTED, BEGIN, delta(1, ANSWER, turn="U"), end(2)), "dishonest", "two_turns"),
        ((ACCEPTED, BEGIN, {"type": "delta"}), "dishonest", "unreadable_message"),
    ],
)
def test_a_stream(messages: tuple[dict[str, Any], ...], outcome: str, reason: str) -> None:
    """A stream is honest if its messages are in order, end, and say of the text what it is."""
    ending = read(*messages).end(Stop.END)
    assert (ending.outcome, ending.reason) == (outcome, reason)


def test_what_a_stream_says_of_the_database() -> None:
    """The reader remembers what was told to be kept, lost or left out."""
    reader = read(ACCEPTED, {**BEGIN, "memory": "lost"}, delta(1, ANSWER), {**end(2), "kept": False})
    assert (reader.accepted_kept, reader.ended_kept, reader.memory_lost) == (True, False, True)
    reader = read(ACCEPTED, {**BEGIN, "pruned": {"turns": 3, "tokens": 90}}, delta(1, ANSWER), end(2))
    assert (reader.ended_kept, reader.memory_lost, reader.pruned_turns) == (True, False, 3)


def turn(**changed: Any) -> dict[str, Any]:
    return {
        "id": "T",
        "conversation": "C",
        "asked_as": "ask-1",
        "question": {"text": QUESTION},
        "answer": {"text": ANSWER},
        "state": "ended",
        "outcome": "complete",
        "kept": True,
        **changed,
    }


@pytest.mark.parametrize(
    ("value", "outcome", "reason"),
    [
        (turn(), "complete", ""),
        (turn(outcome="cut", answer=None), "cut", ""),
        (turn(outcome="degraded", degraded="words", answer={"text": "No."}), "degraded", "words"),
        (turn(answer={"text": ANSWER[:20]}), "dishonest", "cut_answer_sold_as_complete"),
        (turn(answer=None), "dishonest", "cut_answer_sold_as_complete"),
        (turn(state="open"), "dishonest", "another_turn_or_an_open_one"),
        (turn(question={"text": "other"}), "dishonest", "another_turn_or_an_open_one"),
        (turn(outcome="fine"), "dishonest", "unknown_outcome_fine"),
        ({"id": "T"}, "dishonest", "unreadable_turn"),
    ],
)
def test_a_whole_turn(value: dict[str, Any], outcome: str, reason: str) -> None:
    """A turn as JSON is honest if it has ended, has this question, and its text is what its outcome says."""
    reader = TurnReader(200, QUESTION, stream=False)
    reader.feed(msgspec.json.encode(value))
    ending = reader.end(Stop.END)
    assert (ending.outcome, ending.reason) == (outcome, reason)
