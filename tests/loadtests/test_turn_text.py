from typing import Any

import pytest

from dub5.loadtests.turn_text import TurnText, WireMessage

ACCEPTED = WireMessage("accepted", "t", id="q", conversation="c", kept=True)
BEGIN = WireMessage("begin", "t", 0, target="one/m")
END = WireMessage("end", "t", 5, outcome="complete", kept=True)


def delta(seq: int, text: str, turn: str = "t") -> WireMessage:
    return WireMessage("delta", turn, seq, text)


def read(*messages: WireMessage | None) -> TurnText:
    """Return a text that has taken these messages; None: the connection is lost."""
    text = TurnText()
    for message in messages:
        if message is None:
            text.lost()
        else:
            text.take(message)
    return text


def test_a_whole_turn() -> None:
    """A turn is read from its first message to its end; positions are bytes, not characters."""
    seen = read(ACCEPTED, BEGIN, delta(3, "né"), delta(5, "! "), END)
    assert (seen.problem, seen.text, seen.position) == ("", "né! ", 5)
    assert (seen.turn, seen.conversation, seen.target, seen.outcome) == ("t", "c", "one/m", "complete")
    assert seen.is_over and seen.kept and seen.accepted_kept


def test_read_on() -> None:
    """After a loss the answer goes on where it was, at the beginning or in the middle, as often as needed."""
    again = WireMessage("begin", "t", 3)
    seen = read(ACCEPTED, None, BEGIN, delta(3, "né"), None, again, None, again, delta(5, "! "), END)
    assert (seen.problem, seen.text, seen.losses) == ("", "né! ", 3)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ((ACCEPTED, BEGIN, delta(4, "né")), "a gap: delta at 4 instead of 3"),
        ((ACCEPTED, BEGIN, delta(2, "né")), "a repeat: delta at 2 instead of 3"),
        ((BEGIN, delta(3, "né"), None, BEGIN, delta(3, "né")), "a repeat: it goes on at 3 after 3"),
        ((BEGIN, delta(3, "né"), None, BEGIN, END), "the service knows less of a turn that is complete"),
        ((BEGIN, BEGIN), "begin after begin"),
        ((BEGIN, delta(3, "né"), None, WireMessage("begin", "t", 4)), "a gap: begin at 4 instead of 3"),
        ((BEGIN, delta(3, "né"), END), "a gap: end at 5 instead of 3"),
        ((BEGIN, delta(3, "né"), None, delta(5, "! ")), "delta after nothing"),
        ((ACCEPTED, delta(3, "né")), "delta after accepted"),
        ((BEGIN, delta(5, "né! "), END, END), "end after the end"),
        ((BEGIN, delta(5, "other", "u")), "a message of another turn"),
        ((BEGIN, WireMessage("delta", "t", None, "x")), "no position: delta at None instead of 1"),
    ],
)
def test_what_is_wrong(messages: tuple[Any, ...], problem: str) -> None:
    """A gap, a repeat, and a message at a wrong time are each named."""
    assert read(*messages).problem == problem


def test_a_crash() -> None:
    """After a crash nothing may be known of what was read; the turn is cut then, and says so."""
    cut = WireMessage("end", "t", 0, outcome="cut", kept=True)
    seen = read(ACCEPTED, BEGIN, delta(3, "né"), None, BEGIN, cut)
    assert (seen.problem, seen.outcome, seen.text) == ("", "cut", "né")


def test_an_error() -> None:
    """An error ends a turn, before its beginning too, where it needs no position."""
    refused = WireMessage("error", "t", error={"code": "all_targets_down"})
    assert read(ACCEPTED, refused).error == "all_targets_down"
    cut = read(ACCEPTED, BEGIN, delta(1, "x"), WireMessage("error", "t", 1, error={"code": "stream_cut"}))
    assert cut.is_over and (cut.error, cut.problem) == ("stream_cut", "")
