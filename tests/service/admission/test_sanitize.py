"""Sanitising of a text, as properties: it is done once and for all, and a pasted program survives it."""

import textwrap
import time
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.admission.sanitize import BLOCK_CHARS, MARKS_MAX, clean
from dub5.service.errors import InvalidRequest
from tests.support.examples import examples

# What text is made of when somebody wants to break this: ends of lines, blanks, combining marks, controls.
AWKWARD = st.sampled_from(
    "\r\n\t \x00\x0b\x0c\x1b\x7f\x85\u2028\u3000\xa0e\u0301\u0958\u1e9b\u0323\u200b\ufeffab"
)
TEXTS = st.text(st.one_of(AWKWARD, st.characters(exclude_categories=["Cs"])))
LINES = st.text(st.sampled_from("ab=('\"), \t"), max_size=20).map(lambda line: line.rstrip())
PROGRAM = """\
def mean(numbers):
    total = 0
    for number in numbers:
\tif number  ==  "a  b":          # two spaces that mean something
            total += number

    return total / len(numbers)"""


@examples(200)
@given(TEXTS, st.booleans())
def test_idempotent(text: str, is_part: bool) -> None:
    """A clean text is left alone, so a conversation that is sent again is the same conversation."""
    once = clean(text, is_part=is_part)
    assert clean(once, is_part=is_part) == once


@examples(200)
@given(TEXTS, st.booleans())
def test_no_control_characters(text: str, is_part: bool) -> None:
    """Of the control characters only line feed and tab are left, and the text is in form NFC."""
    done = clean(text, is_part=is_part)
    assert not [char for char in done if unicodedata.category(char) == "Cc" and char not in "\n\t"]
    assert unicodedata.is_normalized("NFC", done)


@examples(200)
@given(TEXTS, st.booleans())
def test_never_longer(text: str, is_part: bool) -> None:
    """Nothing is added: a clean text has at most the characters that the text has in form NFC."""
    assert len(clean(text, is_part=is_part)) <= len(unicodedata.normalize("NFC", text))


@examples(200)
@given(TEXTS)
def test_lines(text: str) -> None:
    """No line ends in a blank, no two blank lines follow each other, and none is at an end of the text."""
    lines = clean(text).split("\n")
    assert [line for line in lines if line != line.rstrip(" \t")] == []
    assert ("", "") not in list(pairwise(lines))
    assert lines == [""] or (lines[0] and lines[-1])


HEAPS = st.text(st.sampled_from("\u0301\u0316\u0344\u0f73\u0bbe\ufe0f"), max_size=4 * MARKS_MAX)


@examples(200)
@given(st.lists(st.one_of(HEAPS, st.sampled_from(["a", "\u1100", "\u1161", "\x00", "\n", "\u2764"]))))
def test_heaps_of_marks(pieces: list[str]) -> None:
    """No letter carries more than thirty marks, and the letters and lines between them stay."""
    done = clean("".join(pieces))
    marks = "".join("m" if unicodedata.category(char)[0] == "M" else " " for char in done)
    assert "m" * (MARKS_MAX + 1) not in marks
    assert clean(done) == done
    assert done.count("\u2764") == pieces.count("\u2764")


def test_a_heap_takes_no_time() -> None:
    """Unicode sorts the marks of a letter, in n * n steps: 20 s for this text, if all were kept."""
    began_s = time.process_time()
    assert len(clean("a" + "\u0301\u0316" * 50_000)) == 1 + MARKS_MAX - 1  # one melts into the letter
    assert time.process_time() - began_s < 5


def test_what_only_looks_like_a_heap() -> None:
    """Long rows of emoji and signs, whose marks are one each, stay."""
    row = "\u2764\ufe0f" * 50 + "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 30 + "\u2550" * 80
    assert clean(row) == row


@examples(100)
@given(st.lists(LINES))
def test_indentation(lines: list[str]) -> None:
    """Each line of a pasted program stays as it is: its indentation, its tabs, its runs of spaces."""
    kept = [line for line in clean("\n".join(lines)).split("\n") if line]
    assert kept == [line for line in lines if line]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_program(end: str) -> None:
    """A program is the same program, from whatever system it was pasted."""
    assert clean(PROGRAM.replace("\n", end)) == PROGRAM
    assert clean(textwrap.indent(PROGRAM, "    ")).startswith("    def mean")


@examples(100)
@given(st.text(st.characters()))
def test_nothing_else_is_raised(text: str) -> None:
    """Whatever a text holds, it is cleaned, or refused as a bad request."""
    try:
        clean(text)
    except InvalidRequest:
        assert any("\ud800" <= char <= "\udfff" for char in text)


@examples(20)
@given(st.lists(TEXTS, min_size=1), st.booleans())
def test_large_texts(texts: list[str], is_part: bool) -> None:
    """A large text is cleaned in blocks, and the blocks show nowhere."""
    filler = "word " * (BLOCK_CHARS // 10)
    large = "".join(f"{filler}\n{text}\n" for text in texts * 3)
    small = "".join(f"word\n{text}\n" for text in texts * 3)
    assert clean(large, is_part=is_part).replace(filler.rstrip(), "word") == clean(small, is_part=is_part)


def test_parts() -> None:
    """Of a part only the inside is tidied: its neighbours begin where it ends."""
    assert (
        clean("say \x00", is_part=True) + clean(" hello\n\n\n\nthere ", is_part=True)
        == "say  hello\n\nthere "
    )


@pytest.mark.parametrize(
    "text, expected",
    [
        ("  two\u3000spaces  ", "  two spaces"),
        ("cafe\u0301", "caf\xe9"),
        ("a\x00b\x1b[31mc\x85d", "ab[31mc\nd"),
        ("\n \n\t\n  first\n\n\n\n\nlast \n\n", "  first\n\nlast"),
        ("\x00\x07", ""),
    ],
)
def test_examples(text: str, expected: str) -> None:
    """What sanitising does, by example."""
    assert clean(text) == expected
