"""Check of statements: a sentence is supported if the passage that it cites holds all that it says.

    sentence -> pieces, each with the citations behind it -> claims -> rules, all of which must hold

Call `Checker.check(sentence, question)`. Everything here is pure. The rules are in rules.py. Words of the
question are no support; where a sentence says nothing without the question ("Yes.", "In 2018."), they are
part of the claim.
"""

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum

from msgspec import Struct

from dub5.service.grounding.claims import (
    StatementClaim,
    claim_of,
    is_said_without_words,
    joined,
    says_something,
)
from dub5.service.grounding.fragments import needs_question
from dub5.service.grounding.languages import Language, detect, language_of
from dub5.service.grounding.model import DocumentPassage
from dub5.service.grounding.passages import title_of
from dub5.service.grounding.rules import RULES
from dub5.service.grounding.sentences import SENTENCE_CHARS_MAX
from dub5.service.grounding.support import Support
from dub5.service.grounding.word_rules import is_written_plainly

CITATIONS_MAX = 8  # in one group
CITATION = re.compile(r"(?:\s*\[\s*\d{1,6}(?:\s*[,;]\s*\d{1,6})*\s*\])+")
_NUMBERS = re.compile(r"\d{1,6}")
_CLAUSES = re.compile(r"\s*(?:;|,?\s(?:and|und|et|y|sowie|while)\s)\s*", re.IGNORECASE)
_MARKS = re.compile(r"[*`#>~]+|(?<!\w)_+|_+(?!\w)")
_LIST_MARK = re.compile(r"\A\s*(?:[-*+\u2022\u2013]|\(?\d{1,2}[.)])\s+")
NOT_TOLD = "NOT_TOLD"
_NOT_TOLD_FORMS = re.compile(
    r"not_told|(?:the|this|her|his) (?:resume|document|cv) does not (?:say|tell)(?: (?:that|this|so))?|"
    r"(?:der lebenslauf|das dokument) sagt (?:das nicht|dazu nichts|es nicht)|"
    r"le (?:cv|document) ne le dit pas|el (?:currículum|cv|documento) no lo dice"
)


class StatementFinding(StrEnum):
    """What a sentence is."""

    TOLD = "told"
    WITHHELD = "withheld"
    NOT_TOLD = "not_told"  # it says that the document does not tell
    NOTHING = "nothing"  # it says nothing: "Here is what I found:"


class Checked(Struct, frozen=True):
    """A sentence after the check. `cited`: the passages that support it."""

    finding: StatementFinding
    cited: tuple[int, ...] = ()


class Checker:
    """The check of statements against the passages of one document."""

    def __init__(self, passages: Sequence[DocumentPassage]) -> None:
        self._passages = {passage.number: passage for passage in passages}
        self.language: Language = language_of(detect("\n".join(one.text for one in passages[:200])))
        self._title = title_of(tuple(passages[:1]))
        self._supports: dict[int, Support] = {}
        self._question = ""
        self._asked = claim_of("", self.language)

    def check(self, sentence: str, question: str) -> Checked:
        """Return what a sentence is."""
        if len(sentence) > SENTENCE_CHARS_MAX or not is_written_plainly(sentence):
            return Checked(StatementFinding.WITHHELD)
        text = plain(sentence)
        if _NOT_TOLD_FORMS.fullmatch(text.strip(" .!\"'").lower()):
            return Checked(StatementFinding.NOT_TOLD)
        if is_said_without_words(CITATION.sub("", text), self.language):
            return Checked(StatementFinding.NOTHING)
        pieces = list(_pieces(text))
        cited: dict[int, None] = {}
        if question != self._question:  # all sentences of an answer come one after another
            self._question, self._asked = question, claim_of(question, self.language)
        asked = self._asked
        place: tuple[str, ...] | None = None
        for piece, numbers in pieces:
            found = self._support_of(piece, numbers, asked, place, is_first=place is None)
            if not found:
                return Checked(StatementFinding.WITHHELD)
            cited |= dict.fromkeys(one.passage.number for one in found)
            place = found[-1].place
        return Checked(StatementFinding.TOLD, tuple(cited)) if cited else Checked(StatementFinding.WITHHELD)

    def _support_of(
        self,
        piece: str,
        numbers: Sequence[int],
        asked: StatementClaim,
        place: tuple[str, ...] | None,
        *,
        is_first: bool,
    ) -> list[Support]:
        """Return the passages that support a piece of a sentence: one, or one for each clause of it."""
        supports = [one for one in map(self._support, numbers) if one is not None]
        if len(supports) < len(numbers) or not supports:
            return []  # a passage that does not exist, or none
        claim = claim_of(piece, self.language)
        whole = self._first_that_holds(claim, supports, asked, place, is_first=is_first)
        if whole is not None:
            return [whole]
        if len(supports) == 1:
            return []
        found: list[Support] = []
        for at, clause in enumerate(part for part in _CLAUSES.split(piece) if part.strip()):
            is_start = is_first and at == 0
            if at and not says_something(clause, self.language):
                return []
            one = self._first_that_holds(
                claim_of(clause, self.language), supports, asked, place, is_first=is_start
            )
            if one is None:
                return []
            found.append(one)
            place = one.place
        return found

    def _first_that_holds(
        self,
        claim: StatementClaim,
        supports: Iterable[Support],
        asked: StatementClaim,
        place: tuple[str, ...] | None,
        *,
        is_first: bool,
    ) -> Support | None:
        for one in supports:
            full = joined(claim, asked) if needs_question(claim, one, is_first=is_first) else claim
            if all(rule(full, one) for rule in RULES) and (place is None or one.stays_at(place, full)):
                return one
        return None

    def _support(self, number: int) -> Support | None:
        passage = self._passages.get(number)
        if passage is None or not passage.usable:
            return None
        if number not in self._supports:
            self._supports[number] = Support(passage, self._title, self.language)
        return self._supports[number]


def plain(sentence: str) -> str:
    """Return a sentence without the marks of lists and emphasis."""
    return _MARKS.sub("", _LIST_MARK.sub("", sentence, count=1)).strip()


def _pieces(text: str) -> Iterable[tuple[str, list[int]]]:
    """Yield each piece of a sentence with the numbers that it cites; none for what follows the last one."""
    start = 0
    for found in CITATION.finditer(text):
        numbers = list(dict.fromkeys(map(int, _NUMBERS.findall(found[0]))))
        piece = text[start : found.start()]
        yield piece, numbers if len(numbers) <= CITATIONS_MAX and piece.strip(" ,;.") else []
        start = found.end()
    rest = text[start:]
    if any(char.isalnum() for char in rest) or not start:
        yield rest, []
