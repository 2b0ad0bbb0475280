"""Sentences of a text that grows: where one ends, with the citations behind it.

`SentenceSplitter` is given text as it comes; `split_sentences` cuts a whole text. An abbreviation, an initial
and a decimal point end no sentence; a line end does. Splitting too seldom is harmless for a check: more has
to be found at once.
"""

import re

from dub5.service.grounding.languages import Language

WORD_CHARS_MAX = 40  # that are looked at before a point
CITATION_CHARS_MAX = 200  # that are waited for behind one
SENTENCE_CHARS_MAX = 4_000  # a longer one is no sentence
_END = re.compile(r"[.!?\u2026]+[\"'\u201d\u2019\u00bb)*_]*(?:\s*\[[\d,;\s\u2013-]+\])*[.]?|\n")
_CITED = re.compile(r"[ \t]*\[[\d,;\s\u2013-]*\]?")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_LAST_WORD = re.compile(r"[\s(\[\"'\u201c*_]")


class SentenceSplitter:
    """The sentences of a text, as it comes."""

    def __init__(self, language: Language) -> None:
        self._language = language
        self._abbreviations = frozenset(language.lists.abbreviations.split())
        self._rest = ""
        self._looked_at = 0  # of the rest: no sentence ends before
        self.too_long = False  # what comes is the rest of a sentence that was too long

    def feed(self, text: str) -> list[str]:
        """Add text. Return the sentences that are whole now, with the blanks before them."""
        self._rest += text
        found = []
        while (end := self._end()) is not None:
            found.append(self._rest[:end])
            self._rest, self._looked_at = self._rest[end:], 0
        if len(self._rest) > SENTENCE_CHARS_MAX:
            found.append(self._rest)
            self._rest, self._looked_at = "", 0
        return found

    def end(self) -> str:
        """Return the rest, which is no whole sentence unless the text ends here."""
        rest, self._rest = self._rest, ""
        return rest

    def _end(self) -> int | None:
        """Return where the first sentence of the rest ends; None if that is not known yet."""
        rest = self._rest
        for match in _END.finditer(rest, self._looked_at):
            start, end = match.span()
            self._looked_at = start
            if match[0] == "\n":
                if rest[:start].strip():
                    return start
            elif not self._is_inside(rest, start, end):
                after = rest[end : end + CITATION_CHARS_MAX]
                if not after.strip(" \t") or _CITED.fullmatch(after):
                    return None  # a citation may follow
                is_cited = "]" in rest[max(0, start - 1) : end]
                if after[0].isspace() and (is_cited or not after.lstrip()[:1].islower()):
                    return end
            self._looked_at = end
        self._looked_at = max(self._looked_at, len(rest) - 1)
        return None

    def _is_inside(self, text: str, start: int, end: int) -> bool:
        """Return whether a point belongs to a word: an abbreviation, an initial, a number."""
        if text[start] != "." or text[start : start + 2] == "..":
            return False
        line = text[max(0, start - WORD_CHARS_MAX) : start].rpartition("\n")[2]
        found = _LAST_WORD.split(line)[-1] if line and not line[-1].isspace() else ""
        word = found.lower()
        if word in self._abbreviations or _INITIALS.fullmatch(word):
            return "]" not in text[start:end]
        if word.isdigit() and len(word) <= 2:
            return self._language.code == "de" or not line[: -len(word)].strip(" *-(")
        return False


def split_sentences(text: str, language: Language) -> list[str]:
    """Return the sentences of a whole text."""
    splitter = SentenceSplitter(language)
    found = splitter.feed(text)
    rest = splitter.end()
    return [*found, rest] if rest.strip() else found
