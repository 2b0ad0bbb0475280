"""The parts of a text, as properties: nothing is lost, none is too long, and a long text takes no longer."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.study.chunks import TOKENS_MAX, cut
from dub5.service.tokens import estimate_tokens
from tests.support.examples import examples

AWKWARD = st.sampled_from(
    ["\n", "\n\n", "\f", " ", "\t", "\r\n", ". ", "# ", "\u3002", "\u2028", "a", "1.1 B"]
)
PIECES = st.one_of(
    AWKWARD,
    st.text(max_size=8),
    st.builds(lambda text, n: text * n, st.text(min_size=1, max_size=3), st.integers(1, 6_000)),
)
TEXTS = st.lists(PIECES, max_size=30).map("".join)


@examples(150)
@given(TEXTS)
def test_nothing_is_lost(text: str) -> None:
    """All that is not white space is in the parts, in its order, and no part is empty."""
    parts = cut(text)
    assert "".join("".join(part.text.split()) for part in parts) == "".join(text.split())
    assert all(part.text.strip() for part in parts)


@examples(150)
@given(TEXTS)
def test_bounds(text: str) -> None:
    """No part has more than 800 tokens, whatever the text is made of."""
    assert all(estimate_tokens([part.text]) <= TOKENS_MAX for part in cut(text))


@examples(100)
@given(st.lists(st.sampled_from(["word", "a", "longer-word", "\u00fcber"]), min_size=1, max_size=3_000))
def test_no_word_is_cut(words: list[str]) -> None:
    """One long line is cut between its words alone."""
    assert [word for part in cut(" ".join(words)) for word in part.text.split()] == words


def test_sentences() -> None:
    """A paragraph that is too long for one part is cut where a sentence ends."""
    parts = cut("The cell divides into two daughters. " * 400)
    assert len(parts) > 2
    assert all(part.text.endswith("daughters.") for part in parts)


def test_headings_begin_parts() -> None:
    """A part of some length ends before a heading, and no part ends with one."""
    section = "Plants turn light into chemical energy. " * 40
    parts = cut("\n".join(f"## Section {i}\n\n{section}\n" for i in range(6)))
    assert [part.text.split("\n")[0] for part in parts] == [f"## Section {i}" for i in range(6)]
    long = cut(f"{'Water is a molecule. ' * 150}\n\n# Next\n\n{'Light is a wave. ' * 150}")
    assert [part.text.startswith("# Next") for part in long] == [False, True]


def test_pages() -> None:
    """Of each part the pages that it comes from are known."""
    page = "Plants turn light into chemical energy. " * 50  # half of a part, and a little more
    parts = cut(f"{page}\f{page}\fA last word.\f")
    assert [(part.page, part.last_page) for part in parts] == [(1, 1), (2, 3)]


def test_no_text() -> None:
    """White space has no parts."""
    assert cut(" \n\f\t\n " * 1_000) == []


@pytest.mark.parametrize("piece", ["abc, ", "x", "\u4e2d\u3002"])
def test_one_long_line(piece: str) -> None:
    """One line of 1 MiB is cut like any other text."""
    text = piece * (1024 * 1024 // len(piece))
    parts = cut(text)
    assert "".join("".join(part.text.split()) for part in parts) == "".join(text.split())
    assert all(estimate_tokens([part.text]) <= TOKENS_MAX for part in parts)


@pytest.mark.parametrize("piece", ["abc, ", "x", "a\n\n", "# x\n", "1.1 A\n", " \n", "\"')", "a\f"])
def test_linear(piece: str) -> None:
    """Eight times the text takes about eight times as long, whatever it is made of."""
    took_s = []
    for size in (16 * 1024, 128 * 1024):
        text = piece * (size // len(piece))
        began_s = time.process_time()
        cut(text)
        took_s.append(time.process_time() - began_s)
    assert took_s[1] < 20 * took_s[0] + 0.1
