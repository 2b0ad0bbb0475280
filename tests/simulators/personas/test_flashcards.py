"""Flashcards of a simulated provider: true quotes of the material, as many as wanted."""

import random

import msgspec
import pytest

from dub5.simulators.answers import Proof, judge
from dub5.simulators.latency import PRESETS
from dub5.simulators.personas.base import ParsedRequest, PersonaContext, Profile
from dub5.simulators.personas.output import Wanted, compose

MARK = "MATERIAL-0123456789abcdef"
TEXT = """# Cells

A cell is the smallest unit of life, and all organisms are made of cells. Robert Hooke saw the first
one in 1665 in a slice of cork. At 37.5 degrees most human cells divide once a day."""
CONTEXT = PersonaContext(Profile("one", PRESETS["zero"]), 1, random.Random(0))


def answered(prompt: str) -> str:
    """Return what a provider answers to a prompt."""
    return compose(ParsedRequest({}, prompt=prompt), CONTEXT, Wanted(), None).text


@pytest.mark.parametrize(("wanted", "count"), [(1, 1), (2, 2), (9, 3)])
def test_cards(wanted: int, count: int) -> None:
    """There is a card for each sentence, at most as many as wanted; each quotes its sentence as it stands."""
    prompt = f"{MARK}\nTitle: Biology\n\n{TEXT}\n{MARK}\n\nWrite at most {wanted} flashcards about this."
    cards = [msgspec.json.decode(line) for line in answered(prompt).splitlines()]
    assert len(cards) == count
    assert all(card["quote"] in TEXT and card["front"] and card["back"] for card in cards)
    assert cards[0]["front"] == "What is a cell?"


@pytest.mark.parametrize(
    "prompt",
    [
        "Hi",
        "MATERIAL- at most 3 flashcards",
        f"{MARK}\n{TEXT}\n{MARK}",
        f"{MARK}\nWrite at most 3 flashcards",
    ],
)
def test_others(prompt: str) -> None:
    """A prompt that holds no material, or wants no cards, has an answer that proves itself."""
    assert judge(answered(prompt), prompt) is Proof.WHOLE
