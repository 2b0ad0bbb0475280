"""Sanitising of the texts that callers send: no control characters, one form of each letter, tidy line ends.

Call `clean(text)`. What a pasted program needs stays: indentation, tabs, and spaces inside a line.
"""

import re
import unicodedata
from collections.abc import Iterator

from dub5.service.errors import InvalidRequest
from dub5.service.providers.slices import Steps, finish

BLOCK_CHARS = 64 * 1024  # cleaned in one step
MARKS_MAX = 30  # on one letter, as in Unicode's stream-safe text; sorting n of them takes n * n steps
_SURROGATES = re.compile("[\ud800-\udfff]")
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_SPACES = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_MARKS = re.compile(  # and what else is no word; from the first on, so that each place is looked at once
    rf"(?<![^\w\x00-\x7f])[^\w\x00-\x7f]{{{MARKS_MAX + 1},}}+"
)
_BLANK_LINES = re.compile("\n{3,}")


def clean(text: str, *, is_part: bool = False) -> str:
    """Return the text as `clean_in_steps` does, at once. Raises InvalidRequest."""
    return finish(clean_in_steps(text, is_part=is_part))


def clean_in_steps(text: str, *, is_part: bool = False) -> Steps[str]:
    """Return the text, in steps, without control characters and blanks at line ends; in form NFC.

    `is_part`: other parts of a message stand beside it, so its own beginning and end stay as they are.
    Raises InvalidRequest for half of a surrogate pair, which no encoding can carry.
    """
    if not text.isascii() and _SURROGATES.search(text):
        raise InvalidRequest("A text holds half of a surrogate pair, which is no character.")
    cleaned = []
    for block in _blocks(text):
        cleaned.append(_clean_lines(block))
        yield
    joined = _BLANK_LINES.sub("\n\n", "".join(cleaned))
    return joined if is_part else joined.rstrip(" \t\n").lstrip("\n")


def _blocks(text: str) -> Iterator[str]:
    """Yield the text in blocks of whole lines."""
    start = 0
    while len(text) - start > BLOCK_CHARS and (end := text.find("\n", start + BLOCK_CHARS)) >= 0:
        yield text[start : end + 1]
        start = end + 1
    yield text[start:]


def _clean_lines(text: str) -> str:
    text = _CONTROL.sub("", _LINE_ENDS.sub("\n", text))
    if not text.isascii():
        text = unicodedata.normalize("NFC", _MARKS.sub(_without_a_heap, text))
        text = _SPACES.sub(" ", _MARKS.sub(_without_a_heap, text))  # one mark may have become two
    *lines, last = text.split("\n")
    return "\n".join([*(line.rstrip(" \t") for line in lines), last])


def _without_a_heap(found: re.Match[str]) -> str:
    """Return what was found without the marks after the first `MARKS_MAX` in a row."""
    kept, in_a_row = [], 0
    for char in found[0]:
        in_a_row = in_a_row + 1 if unicodedata.category(char)[0] == "M" else 0
        if in_a_row <= MARKS_MAX:
            kept.append(char)
    return "".join(kept)
