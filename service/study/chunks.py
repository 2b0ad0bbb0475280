"""Parts of a text, each small enough for one ask: cut at headings and paragraphs. Call `cut(text)`.

    page break, blank line, heading   a block ends
    a block that is too long          is cut at the end of a sentence, else of a line, else between two words

A word is cut only where it is longer than a whole part. Nothing is lost but white space.
"""

import re
from collections.abc import Iterator

from msgspec import Struct

from dub5.service.documents.model import PAGE_BREAK
from dub5.service.providers.slices import Steps, finish
from dub5.service.tokens import estimate_tokens

TOKENS_MAX = 800  # of a part
HEADED_TOKENS_MIN = 200  # a part with fewer goes on after a heading
CHARS_MAX = 4 * TOKENS_MAX + 400  # no text with more has so few tokens
STEP_LINES = 200  # looked at in one step, or as many pieces of a long line as cost the same
PIECE_LINES = 10
SPACE_CHARS_MAX = 8  # in a row, kept: as an indentation
HEADING_CHARS_MAX = 100

_LINE_ENDS = re.compile("\r\n?|[\x85\u2028\u2029]")
_SPACES = re.compile(rf"[^\S\n]{{{SPACE_CHARS_MAX + 1},}}+")
_MARKED_HEADING = re.compile(r"\s{0,3}#{1,6}\s+\S")
_NUMBERED_HEADING = re.compile(r"\s{0,3}\d{1,3}(\.\d{1,3}){0,4}\.?\s+[^\W\d_].*[^\s.,;:!?]\s*\Z")
_SENTENCE_END = re.compile("[.!?\u2026][\"')\\]\u00bb\u201d\u2019]{0,3}(?=\\s)|[\u3002\uff01\uff1f]")


class TextPart(Struct, frozen=True):
    """A part of a text, and the pages that it comes from, from 1 on."""

    text: str
    page: int
    last_page: int


class _Block(Struct, frozen=True):
    text: str
    page: int
    tokens: int  # at most, with what joins it to the next one
    is_heading: bool = False


def cut(text: str) -> list[TextPart]:
    """Return the parts of a text, in order; none if it holds nothing but white space."""
    return finish(cut_in_steps(text))


def cut_in_steps(text: str) -> Steps[list[TextPart]]:
    """Return the parts of a text, which may be large, in steps."""
    parts: list[TextPart] = []
    open_blocks: list[_Block] = []
    tokens = 0
    cost = 0
    for block in _blocks(_with_one_line_end(text)):
        cost += 1 if block is None else PIECE_LINES
        if cost >= STEP_LINES:
            cost = 0
            yield
        if block is None:
            continue
        begins = block.is_heading and tokens >= HEADED_TOKENS_MIN
        if open_blocks and (begins or tokens + block.tokens > TOKENS_MAX):
            open_blocks = _close(parts, open_blocks, keep_heading=not begins)
            tokens = sum(one.tokens for one in open_blocks)
            if tokens + block.tokens > TOKENS_MAX:  # a heading before a block as long as a part
                open_blocks, tokens = _close(parts, open_blocks, keep_heading=False), 0
        open_blocks.append(block)
        tokens += block.tokens
    if open_blocks:
        _close(parts, open_blocks, keep_heading=False)
    return parts


def is_heading(line: str) -> bool:
    """Return whether a line alone is a heading: of Markdown, numbered, or in capital letters."""
    if len(line) > HEADING_CHARS_MAX:
        return False
    if _MARKED_HEADING.match(line) or _NUMBERED_HEADING.match(line):
        return True
    return line.isupper() and len(line.strip()) > 3 and not line.rstrip().endswith((".", ",", ";", "!", "?"))


def _close(parts: list[TextPart], blocks: list[_Block], *, keep_heading: bool) -> list[_Block]:
    """Make a part of the blocks. Return the headings at their end, which belong to what follows."""
    end = len(blocks)
    while keep_heading and end > 1 and blocks[end - 1].is_heading:
        end -= 1
    made, left = blocks[:end], blocks[end:]
    parts.append(TextPart("\n\n".join(block.text for block in made), made[0].page, made[-1].page))
    return left


def _with_one_line_end(text: str) -> str:
    return text if text.isascii() and "\r" not in text else _LINE_ENDS.sub("\n", text)


def _lines(text: str) -> Iterator[tuple[str, int]]:
    """Yield each line with its page. A page break ends a line."""
    start, page = 0, 1
    while start <= len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        first, *others = text[start:end].split(PAGE_BREAK)
        yield first, page
        for line in others:
            page += 1
            yield line, page
        start = end + 1


def _blocks(text: str) -> Iterator[_Block | None]:
    """Yield the blocks of a text, and None for each line that was looked at."""
    paragraph: list[str] = []
    paragraph_page = 1
    for line, page in _lines(text):
        title = is_heading(line)
        if paragraph and (title or page != paragraph_page or not line.strip()):
            yield from _paragraph(paragraph, paragraph_page)
            paragraph = []
        if title:
            yield from _paragraph([line], page, is_heading=True)
        elif line.strip():
            paragraph.append(line)
            paragraph_page = page
        yield None
    yield from _paragraph(paragraph, paragraph_page)


def _paragraph(lines: list[str], page: int, *, is_heading: bool = False) -> Iterator[_Block]:
    if lines:
        text = _SPACES.sub(" " * SPACE_CHARS_MAX, "\n".join(lines)).strip()
        for piece in _pieces(text):
            yield _Block(piece, page, estimate_tokens([piece]) + 1, is_heading)


def _pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces of fewer than `TOKENS_MAX` tokens, without the white space between them."""
    start = 0
    while start < len(text):
        window = text[start : start + CHARS_MAX]
        if start + len(window) == len(text) and _fits(window):
            yield window
            return
        end = _place_to_cut(window)
        if piece := window[:end].strip():
            yield piece
        start += end
        while start < len(text) and text[start].isspace():
            start += 1


def _fits(text: str) -> bool:
    return estimate_tokens([text]) < TOKENS_MAX


def _place_to_cut(window: str) -> int:
    """Return after how many characters a text that is too long for one piece is best cut."""
    low, high = 1, len(window)
    while low < high:  # the longest beginning that fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _fits(window[:middle]) else (low, middle - 1)
    fitting = window[: low + 1]  # one more, to see whether a word ends there
    ends = [found.end() for found in _SENTENCE_END.finditer(fitting) if found.end() <= low]
    if ends and ends[-1] > low // 2:
        return ends[-1]
    if (end := fitting.rfind("\n", low // 2)) > 0:
        return end
    return next((place for place in range(low, 0, -1) if fitting[place : place + 1].isspace()), low)
