"""Cards without a model: from definitions, headings and rare words, in four languages, and never none."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.study.cards import grounded
from dub5.service.study.chunks import cut
from dub5.service.study.sentences import language_of
from dub5.service.study.templates import GAP, template_cards
from tests.support.examples import examples

ENGLISH = """# Photosynthesis

Photosynthesis is the process by which plants turn light into chemical energy. It takes place in
chloroplasts, which hold the green pigment chlorophyll. The **light reactions** are the first stage.

## Where it happens

The thylakoid membrane holds the photosystems. In 1779 Jan Ingenhousz discovered that plants need light.

- Stroma: the fluid around the thylakoids
"""
DEFINED = {
    "en": ("Osmosis means the movement of water. The cell is small.", "What does Osmosis mean?"),
    "de": ("Die Zelle ist die kleinste Einheit des Lebens. Sie ist klein.", "Was ist die Zelle?"),
    "fr": ("Une cellule est l'unit\u00e9 du vivant. Elle est petite.", "Qu'est-ce qu'une cellule\u00a0?"),
    "es": (
        "La c\u00e9lula es la unidad de los seres vivos. Es peque\u00f1a.",
        "\u00bfQu\u00e9 es la c\u00e9lula?",
    ),
}


def test_english() -> None:
    """Definitions and headings are asked about; other sentences lose their rarest word."""
    fronts = {card.front: card.back for card in template_cards(ENGLISH, 20)}
    assert fronts["What is Photosynthesis?"].startswith("Photosynthesis is the process")
    assert fronts["What are the light reactions?"] == "The light reactions are the first stage."
    assert fronts["What is Stroma?"] == "the fluid around the thylakoids"
    assert (
        fronts["What does the text say about \u201cWhere it happens\u201d?"]
        == "The thylakoid membrane holds the photosystems."
    )
    assert fronts[f"In 1779 Jan {GAP} discovered that plants need light."] == "Ingenhousz"


def test_text_of_a_pdf() -> None:
    """A line that ends early and without a stop is a title: it is no part of the sentence below it. What
    "their" means is not asked."""
    text = (
        "Biology, year 11\nMitochondria\nMitochondria are organelles that release energy from glucose by\n"
        "Cellular respiration. Their inner membrane is folded into cristae, which carry enzymes.\n"
        "Osmosis\nOsmosis is the movement of water through a membrane of a cell or an organ."
    )
    cards = template_cards(text, 9)
    assert [card.front for card in cards if card.front.startswith("What")] == [
        "What are Mitochondria?",
        "What is Osmosis?",
    ]
    assert all("year 11" not in card.quote for card in cards)


@pytest.mark.parametrize("language", DEFINED)
def test_languages(language: str) -> None:
    """A definition is asked about in the language of its text."""
    text, front = DEFINED[language]
    assert language_of(text) == language
    assert template_cards(text, 5)[0].front == front


@pytest.mark.parametrize(
    "text",
    ["Hi.", "Hallo", "ab", "Two words", "\u5149\u5408\u4f5c\u7528\u3002", "x" * 3_000, "# T\n\nOne two."],
)
def test_never_none(text: str) -> None:
    """There is a card for any part with a sentence, however little it says."""
    assert len(template_cards(text, 1)) == 1


@examples(100)
@given(st.one_of(st.text(max_size=400), st.text(st.sampled_from("Ab c.\n#*-`:!\u3002 is"), max_size=400)))
def test_any_text(text: str) -> None:
    """Each card of any text quotes the text, and the same text has the same cards."""
    for part in cut(text):
        cards = template_cards(part.text, 8)
        assert cards == template_cards(part.text, 8)
        assert len(cards) <= 8
        for card in cards:
            assert card.front and card.back and len(card.front) <= 500
            assert "".join(card.quote.split()) in "".join(part.text.split())


def test_grounded_themselves() -> None:
    """The cards of a proper text would be believed of a model, too."""
    cards = template_cards(ENGLISH, 20)
    assert grounded(cards, ENGLISH) == cards


def test_linear() -> None:
    """No text of a part holds up the event loop for long."""
    for piece in ("*a*", "`", "A. ", "is ", "- ", "x", "\u4e2d", 'A." ', "a: b "):
        (part, *_) = cut(piece * 4_000)
        began_s = time.process_time()
        template_cards(part.text, 25)
        assert time.process_time() - began_s < 0.2, piece
