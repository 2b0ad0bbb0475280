"""Passages: a document as numbered entries of one statement each, below their headings.

    lines -> blocks (between blank lines) -> headings of sections, headings of entries, entries

Call `cut_into_passages(text)`. An entry is a bullet, a row or a sentence: the less it holds, the less a wrong
statement finds in it. What its headings say (an employer, the years) belongs to it.
"""

import re
from collections.abc import Iterator

from msgspec import Struct

from dub5.service.admission.injection import scan
from dub5.service.documents.model import PAGE_BREAK
from dub5.service.grounding.languages import Language, detect, language_of
from dub5.service.grounding.model import DocumentPassage
from dub5.service.grounding.sentences import split_sentences
from dub5.service.grounding.words import tidy
from dub5.service.providers.slices import Steps

PASSAGES_MAX = 20_000
LINES_IN_A_STEP = 50
LINE_CHARS_MAX = 2_000  # a longer line is cut: no statement is so long
REMEMBERED_MAX = 100
HEADING_CHARS_MAX = 90
SECTION_WORDS_MAX = 5
WRAPPED_CHARS = 55  # a line that is longer may go on in the next one
SHORT_CHARS = 25
TITLE_WORDS_MAX = 5
BULLET = re.compile(
    r"\s*(?:[-*+\u2022\u2023\u25aa\u25cf\u25e6\u2043\u2013\u2014\u00b7]|\(?\d{1,2}[.)])\s+(?=\S)"
)
_MARKDOWN = re.compile(r"\s*(#{1,6})\s+(.*?)\s*#*\s*$")
_RULE = re.compile(r"[\s\-=_*|:+]+")
RANGE = re.compile(
    r"\b((?:19|20)\d\d)\b\s*(?:[-\u2013\u2014]|to|bis|until|à|a|au|hasta)\s*"
    r"(?:[^\W\d_]+\.?\s+|month\d+ )?((?:19|20)\d\d)\b"
)
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_LABEL = re.compile(r"[^\W\d_][\w &-]{0,30}:")
_PAIR = re.compile(r"[^():]{1,60}(?::[^():]{1,60})?\([^()]{1,60}\)\.?")  # "English (fluent)"
_PAIR_ENDS = re.compile(r"(?<=\))\s*[,;]\s+")
_EMPHASIS = re.compile(r"\*\*|__|`")
_ROW_ENDS = re.compile(r"(?<=[\d)])\s*[;,|]\s+(?=[^\W\d_])")


class _Line(Struct):
    text: str
    page: int
    indent: int
    bullet: bool = False
    level: int = 0  # of a heading in Markdown


def cut_into_passages(text: str) -> Steps[tuple[DocumentPassage, ...]]:
    """Return the passages of a text, in steps."""
    language = language_of(detect(text))
    cutter = _Cutter(language)
    blocks = _blocks(text)
    yield
    for block in blocks:
        for start in range(0, len(block), LINES_IN_A_STEP):
            cutter.add(block[start : start + LINES_IN_A_STEP])
            yield
        if len(cutter.passages) >= PASSAGES_MAX:
            break
    return tuple(cutter.passages[:PASSAGES_MAX])


def title_of(passages: tuple[DocumentPassage, ...]) -> str:
    """Return whose document it is, as its first lines say: a name, or nothing."""
    for passage in passages[:1]:
        first = passage.headings[0] if passage.headings else passage.text
        words = first.split()
        if 0 < len(words) <= TITLE_WORDS_MAX and all(word[:1].isupper() for word in words):
            return first if not any(char.isdigit() for char in first) else ""
    return ""


def _blocks(text: str) -> list[list[_Line]]:
    """Return the lines between blank ones, wrapped lines as one."""
    blocks: list[list[_Line]] = [[]]
    for page, part in enumerate(text.split(PAGE_BREAK), 1):
        for raw in _short_lines(part):
            line = _line(raw, page)
            if line is None:
                if blocks[-1]:
                    blocks.append([])
            elif blocks[-1] and _goes_on(blocks[-1][-1], line):
                blocks[-1][-1].text += f" {line.text}"
            else:
                blocks[-1].append(line)
    return [block for block in blocks if block]


def _short_lines(text: str) -> Iterator[str]:
    """Yield the lines, long ones in pieces."""
    for line in text.split("\n"):
        yield from (line[at : at + LINE_CHARS_MAX] for at in range(0, max(1, len(line)), LINE_CHARS_MAX))


def _line(raw: str, page: int) -> _Line | None:
    """Return a line, None for one that says nothing."""
    text = _EMPHASIS.sub("", raw.expandtabs(4)).rstrip()
    if not text.strip() or _RULE.fullmatch(text):
        return None
    indent = len(text) - len(text.lstrip())
    if heading := _MARKDOWN.fullmatch(text):
        return _Line(heading[2], page, indent, level=len(heading[1]))
    if bullet := BULLET.match(text):
        return _Line(text[bullet.end() :].strip(), page, bullet.end(), bullet=True)
    return _Line(" | ".join(cell for cell in map(str.strip, text.split("|")) if cell), page, indent)


def _goes_on(before: _Line, line: _Line) -> bool:
    """Return whether a line is the rest of the one before, which was wrapped."""
    if line.bullet or line.level or before.level or "|" in line.text or _LABEL.match(line.text):
        return False
    if before.bullet and line.indent >= before.indent:
        return len(before.text) < LINE_CHARS_MAX
    ended = before.text.endswith((".", "!", "?", ":", ";"))
    starts_small = line.text[:1].islower()
    if (
        ended
        or len(before.text) > LINE_CHARS_MAX
        or len(before.text) <= (SHORT_CHARS if starts_small else WRAPPED_CHARS)
    ):
        return False
    return starts_small or not _YEAR.search(line.text)


class _Cutter:
    """Passages so far, and the headings that are in force."""

    def __init__(self, language: Language) -> None:
        self.passages: list[DocumentPassage] = []
        self._language = language
        self._title = ""
        self._section: list[tuple[int, str]] = []  # level and text
        self._entry = ""
        self._usable: dict[str, bool] = {}

    def add(self, block: list[_Line]) -> None:
        """Add the lines between two blank ones."""
        first_bullet = next((at for at, line in enumerate(block) if line.bullet), len(block))
        head = block[:first_bullet]
        rest = block[first_bullet:]
        while head and (head[0].level or self._is_section(head[0].text, alone=len(block) == 1)):
            self._open_section(head.pop(0))
        if head and not self.passages and not self._section and self._is_title(head[0].text):
            self._title = head.pop(0).text
            self._add_passage(self._title, head[0].page if head else block[0].page)
        if head:
            self._add_head(head, rest)
        for line in rest:
            self._add_entry(line)

    def _add_head(self, head: list[_Line], rest: list[_Line]) -> None:
        """Add the lines before the bullets of a block: the heading of an entry, or text."""
        count = self._heading_lines(head, has_bullets=bool(rest))
        if count:
            self._entry = " | ".join(line.text for line in head[:count])
            for text in _rows(self._entry):
                self._add_passage(text, head[0].page, is_heading=True)
        elif head[0].indent == 0 and not rest:
            self._entry = ""
        for line in head[count:]:
            self._add_entry(line)

    def _heading_lines(self, head: list[_Line], *, has_bullets: bool) -> int:
        """Return how many lines are the heading of an entry."""
        short = [self._may_be_heading(line.text) for line in head]
        if has_bullets and all(short):
            return len(head)
        dated = next((at for at, line in enumerate(head[:3]) if short[at] and _YEAR.search(line.text)), -1)
        if dated < 0 or not all(short[: dated + 1]):
            return 0
        rest = head[dated + 1 :]
        if not rest and not has_bullets:
            return 1 if len(head) == 1 and RANGE.search(tidy(head[0].text)) else 0
        return (
            0
            if any(_YEAR.search(line.text) and short[at + dated + 1] for at, line in enumerate(rest))
            else dated + 1
        )

    def _may_be_heading(self, text: str) -> bool:
        return len(text) <= HEADING_CHARS_MAX and not text.endswith((".", "!", "?", ";"))

    def _is_section(self, text: str, *, alone: bool) -> bool:
        words = text.rstrip(":").lower().replace("&", " ").split()
        if (
            not words
            or len(words) > SECTION_WORDS_MAX
            or _YEAR.search(text)
            or text.endswith((".", "!", "?"))
        ):
            return False
        known = set(" ".join(self._language.lists.sections.values()).split())
        if len(words) <= 3 and any(word.strip(",") in known for word in words) and ":" not in text[:-1]:
            return alone or text.isupper() or len(words) <= 2
        return bool(self.passages) and text.isupper() and len(text) > 3 and "|" not in text

    def _is_title(self, text: str) -> bool:
        return len(text.split()) <= TITLE_WORDS_MAX and not _YEAR.search(text) and self._may_be_heading(text)

    def _open_section(self, line: _Line) -> None:
        level, text = line.level or 2, line.text.rstrip(":").strip()
        if line.level and not self.passages and not self._section and self._is_title(text):
            self._title = text
            self._add_passage(text, line.page)
            return
        self._entry = ""
        self._section = [(above, name) for above, name in self._section if above < level]
        if line.level and (_YEAR.search(text) or self._section):
            for row in _rows(text):
                self._add_passage(row, line.page, is_heading=True)
        self._section.append((level, text))

    def _add_entry(self, line: _Line) -> None:
        """Add a bullet, a row or a paragraph: each sentence is a passage."""
        row, bar, last = line.text.rpartition(" | ")
        if bar and ";" in last and not line.bullet:  # a row of a table whose last cell lists what was done
            self._entry = row
            self._add_passage(row, line.page, is_heading=True)
            line = _Line(last, line.page, line.indent)
        before = ""
        for sentence in split_sentences(line.text, self._language):
            for row in _rows(sentence.strip()):
                self._add_passage(row, line.page, lead=before if self._needs_lead(row) else "")
            before = sentence.strip()

    def _needs_lead(self, sentence: str) -> bool:
        """Return whether a sentence speaks of what the one before has named."""
        first = sentence.split(maxsplit=1)[0].strip(",").lower() if sentence else ""
        return first in self._language.leads and not RANGE.search(tidy(sentence))

    def _add_passage(self, text: str, page: int, *, lead: str = "", is_heading: bool = False) -> None:
        headings = [name for _, name in self._section]
        if self._entry and not is_heading:
            headings.append(self._entry)
        number = len(self.passages) + 1
        usable = all(map(self._is_usable, (*headings, lead, text)))
        self.passages.append(DocumentPassage(number, text, tuple(headings), lead, page, is_heading, usable))

    def _is_usable(self, text: str) -> bool:
        """Return whether a text gives no instructions to a model. Headings come again and again."""
        if text not in self._usable:
            if len(self._usable) > REMEMBERED_MAX:
                self._usable.clear()
            self._usable[text] = not text or not scan(text)
        return self._usable[text]


def _rows(text: str) -> list[str]:
    """Return the entries of a line that holds several of them, each with its own years."""
    pairs = _PAIR_ENDS.split(text)
    if len(pairs) > 1 and all(_PAIR.fullmatch(pair) for pair in pairs):
        label, colon, _ = pairs[0].partition(":")
        return [pairs[0], *(f"{label}: {pair}" if colon else pair for pair in pairs[1:])]
    if len(RANGE.findall(tidy(text))) < 2:
        parts = [part.strip() for part in text.split(";")]
        return [part for part in parts if part] if len(parts) > 1 and "|" not in text else [text]
    parts = [part.strip() for part in _ROW_ENDS.split(text)]
    joined: list[str] = []
    for part in parts:
        if joined and not RANGE.search(tidy(joined[-1])):
            joined[-1] += f", {part}"
        else:
            joined.append(part)
    return joined
