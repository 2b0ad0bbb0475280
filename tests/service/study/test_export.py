"""Decks as files: what a spreadsheet and Anki read is what the deck holds, and no cell is a formula."""

import csv
import io
import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.study.export import as_anki, as_csv, attachment
from dub5.service.study.model import CardSource, DeckCard

FIELDS = st.text(
    st.one_of(
        st.sampled_from("\t\n\"',;#=+-@ ab\u00fc\u4e2d"), st.characters(exclude_categories=["Cs", "Cc"])
    ),
    min_size=1,
    max_size=30,
)
CARDS = st.lists(
    st.builds(DeckCard, st.integers(1, 9), FIELDS, FIELDS, FIELDS, st.sampled_from(CardSource), st.just(1))
)


@given(CARDS)
def test_csv(cards: list[DeckCard]) -> None:
    """Python's own reader finds every card again; a cell that would be a formula has one apostrophe more."""
    data = as_csv(cards)
    assert data.startswith(b"\xef\xbb\xbf")
    header, *rows = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    assert header == ["Front", "Back", "Quote", "Source"]
    assert len(rows) == len(cards)
    for row, card in zip(rows, cards, strict=True):
        for cell, text in zip(row, (card.front, card.back, card.quote, card.source), strict=True):
            assert cell[0] not in "=+-@\t\r"
            assert cell == (f"'{text}" if text[0] in "=+-@\t\r" else text)


@given(CARDS, FIELDS)
def test_anki(cards: list[DeckCard], title: str) -> None:
    """After four header lines each card is found again, whatever tabs and line ends its fields hold."""
    text = as_anki(cards, title).decode()
    separator, html, deck, columns, left = text.split("\n", 4)
    assert (separator, html) == ("#separator:tab", "#html:false")
    assert deck.startswith("#deck:") and len(deck) > len("#deck:")
    assert columns == "#columns:Front\tBack\tQuote\tSource"
    rows = list(csv.reader(io.StringIO(left, newline=""), delimiter="\t"))
    assert rows == [[card.front, card.back, card.quote, card.source] for card in cards]
    assert all(line.startswith('"') for line in left.split("\n")[:1] if line)


@given(st.text(max_size=300))
def test_any_title(title: str) -> None:
    """The header of a file is one line of ASCII, and names neither a folder nor a hidden file."""
    header = attachment(title, "csv")
    found = re.fullmatch(r"attachment; filename=\"([^\"\\]+)\"; filename\*=UTF-8''([!-~]+)", header)
    assert found and header.isascii() and header.isprintable()
    for name in (found[1], unquote(found[2])):
        assert name.endswith(".csv") and not name.startswith(".")
        assert not re.search(r"[\x00-\x1f/\\]", name)


@pytest.mark.parametrize(
    ("title", "plain", "full"),
    [
        ("Biology", "Biology", "Biology"),
        ("Zellen \u00fcber \u201eA\u201c", "Zellen _ber _A_", "Zellen \u00fcber \u201eA\u201c"),
        ("../../etc/passwd", "etc passwd", "etc passwd"),
        ('a"; filename="evil.exe', "a filename= evil.exe", "a filename= evil.exe"),
        ("...", "flashcards", "flashcards"),
    ],
)
def test_titles(title: str, plain: str, full: str) -> None:
    """A title stays readable, and ends no header."""
    header = attachment(title, "txt")
    assert f'filename="{plain}.txt"' in header
    assert unquote(header.rpartition("''")[2]) == f"{full}.txt"
