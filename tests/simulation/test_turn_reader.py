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
SIZE = len(ANSWER)
WORDS = "Nö."  # four bytes
LONG = len(WORDS.encode())


def delta(seq: int, text: str, turn: str = "T") -> dict[str, Any]:
    return {"type": "delta", "turn": turn, "seq": seq, "text": text}


def end(seq: int, outcome: str = "complete") -> dict[str, Any]:
    return {"type": "end", "turn": "T", "seq": seq, "outcome": outcome, "finish": "stop", "kept": True}


def error(seq: int | None) -> dict[str, Any]:
    named = {} if seq is None else {"turn": "T", "seq": seq}
    return {"type": "error", **named, "error": {"code": "stream_cut"}}


def read(*messages: dict[str, Any], before: str | None = None) -> TurnReader:
    reader = TurnReader(200, QUESTION, stream=True, before=before)
    for message in messages:
        reader.feed(b"event: %s\ndata: %s\n\n" % (message["type"].encode(), msgspec.json.encode(message)))
    return reader


@pytest.mark.parametrize(
    ("messages", "outcome", "reason"),
    [
        ((ACCEPTED, BEGIN, delta(SIZE, ANSWER), end(SIZE)), "complete", ""),
        ((ACCEPTED, BEGIN, delta(20, ANSWER[:20]), delta(SIZE, ANSWER[20:]), end(SIZE)), "complete", ""),
        ((ACCEPTED, BEGIN, delta(20, ANSWER[:20]), error(20)), "cut", "stream_cut"),
        ((error(0),), "failed", "stream_cut"),
        ((error(None),), "failed", "stream_cut"),
        ((ACCEPTED, error(0)), "failed", "stream_cut"),
        ((ACCEPTED, BEGIN, delta(20, ANSWER[:20]), end(20, "cut")), "cut", ""),
        ((ACCEPTED, BEGIN, end(0, "failed")), "failed", ""),
        (
            (ACCEPTED, {**BEGIN, "degraded": "words"}, delta(LONG, WORDS), end(LONG, "degraded")),
            "degraded",
            "words",
        ),
        (
            (ACCEPTED, {**BEGIN, "degraded": "words"}, delta(LONG - 1, WORDS), end(LONG - 1, "degraded")),
            "dishonest",
            "a_gap_in_its_numbers",
        ),
        ((ACCEPTED, BEGIN, delta(20, ANSWER[:20]), end(20)), "dishonest", "cut_answer_sold_as_complete"),
        ((ACCEPTED, BEGIN, delta(3, "No."), end(3, "degraded")), "dishonest", "half_labelled_substitute"),
        ((ACCEPTED, BEGIN, delta(9, "Not this."), end(9, "cut")), "dishonest", "foreign_answer_sold_as_cut"),
        ((ACCEPTED, BEGIN, delta(SIZE, ANSWER)), "dishonest", "ends_without_an_end"),
        ((ACCEPTED, BEGIN, delta(1, ANSWER), end(2)), "dishonest", "a_gap_in_its_numbers"),
        ((ACCEPTED, BEGIN, delta(SIZE, ANSWER), end(SIZE + 1)), "dishonest", "a_gap_in_its_numbers"),
        ((ACCEPTED, {**BEGIN, "seq": 1}, end(1, "cut")), "dishonest", "a_gap_in_its_numbers"),
        ((ACCEPTED, delta(SIZE, ANSWER), end(SIZE)), "dishonest", "delta_out_of_order"),
        ((BEGIN, delta(SIZE, ANSWER), end(SIZE)), "dishonest", "begin_out_of_order"),
        (
            (ACCEPTED, BEGIN, delta(SIZE, ANSWER), end(SIZE), delta(SIZE + 4, "more")),
            "dishonest",
            "delta_out_of_order",
        ),
        ((ACCEPTED, BEGIN, delta(SIZE, ANSWER, turn="U"), end(SIZE)), "dishonest", "two_turns"),
        ((ACCEPTED, BEGIN, {"type": "delta"}), "dishonest", "unreadable_message"),
    ],
)
def test_a_stream(messages: tuple[dict[str, Any], ...], outcome: str, reason: str) -> None:
    """A stream is honest if its messages are in order, end, and say of the text what it is."""
    ending = read(*messages).end(Stop.END)
    assert (ending.outcome, ending.reason) == (outcome, reason)


@pytest.mark.parametrize(
    ("messages", "outcome", "reason"),
    [
        (({**BEGIN, "seq": 20}, delta(SIZE, ANSWER[20:]), end(SIZE)), "complete", ""),
        (({**BEGIN, "seq": 20}, end(20, "cancelled")), "cancelled", ""),
        ((error(None),), "failed", "stream_cut"),
        (({**BEGIN, "seq": 20}, delta(SIZE - 1, ANSWER[21:]), end(SIZE - 1)), "dishonest", ""),
        (({**BEGIN, "seq": 19}, delta(SIZE, ANSWER[19:]), end(SIZE)), "dishonest", "goes_on_before_its_end"),
        (({**BEGIN, "seq": 21}, delta(SIZE, ANSWER[21:]), end(SIZE)), "dishonest", "a_gap_in_its_numbers"),
        ((BEGIN, end(0, "cut")), "cut", ""),
        ((BEGIN, end(0, "cancelled")), "dishonest", "less_than_was_read"),
        ((ACCEPTED, {**BEGIN, "seq": 20}, end(20, "cut")), "dishonest", "accepted_out_of_order"),
    ],
)
def test_a_turn_that_is_read_on(messages: tuple[dict[str, Any], ...], outcome: str, reason: str) -> None:
    """One goes on where its client was; of a process that died, less may be left, and nothing more comes."""
    reader = read(*messages, before=ANSWER[:20])
    ending = reader.end(Stop.END)
    assert ending.outcome == outcome
    assert ending.reason == reason or not reason
    assert reader.text.startswith(ANSWER[:20])


def test_what_a_stream_says_of_the_database() -> None:
    """The reader remembers what was told to be kept, lost or left out."""
    reader = read(ACCEPTED, {**BEGIN, "memory": "lost"}, delta(SIZE, ANSWER), {**end(SIZE), "kept": False})
    assert (reader.accepted_kept, reader.ended_kept, reader.memory_lost) == (True, False, True)
    reader = read(ACCEPTED, {**BEGIN, "pruned": {"turns": 3, "tokens": 90}}, delta(SIZE, ANSWER), end(SIZE))
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
