"""Claims: what a piece of a sentence says, as words that need support."""

import re
from functools import cached_property

from dub5.service.grounding.languages import Language
from dub5.service.grounding.words import Word, read_words, tidy

PLACES = frozenset({"at", "bei", "beim", "chez", "en", "in"})
SPAN = re.compile(
    r"\b((?:19|20)\d\d)\b\s*(?:[-\u2013\u2014]|to|bis|until|till|through|and|und|et|y|à|au|a|al|hasta)\s*"
    r"(?:(?:the|el|le)\s+)?(?:[^\W\d_]+\.?\s+(?:de\s+)?)?((?:19|20)\d\d)\b",
    re.IGNORECASE,
)


class StatementClaim:
    """What a piece of a sentence says. `words`: those that need support, numbers among them."""

    def __init__(self, text: str, language: Language) -> None:
        self.text = tidy(text)
        self.language = language
        self.all = read_words(text, language)
        self.negated = False
        self.has_yes = False
        self._strip_yes_and_no()
        self.negated = self.negated or any(one.raw.lower() in language.negations for one in self.all)
        self.words = [
            one
            for one in self.all
            if one.raw.lower() not in language.negations
            and (one.stem not in language.stop or is_anaphor(one, language))
        ]
        self.joined = False

    def _strip_yes_and_no(self) -> None:
        first = self.all[0].raw.lower() if self.all else ""
        if first in self.language.yes or (first in self.language.no and self._is_cut_off(first)):
            self.has_yes = True
            self.negated = first in self.language.no
            self.all = self.all[1:]

    def _is_cut_off(self, first: str) -> bool:
        return bool(re.match(rf"\W*{first}\s*(?:[,.;:!\u2014\u2013-]|$)", self.text, re.IGNORECASE))

    @cached_property
    def stems(self) -> list[str]:
        """The stems of the words that need support."""
        return [one.stem for one in self.words]

    @cached_property
    def years(self) -> list[str]:
        """The years that it names."""
        return [one.stem for one in self.words if one.is_year]

    @cached_property
    def spans(self) -> set[tuple[str, str]]:
        """The spans of years that it names."""
        return {(first, last) for first, last in SPAN.findall(self.text)}

    @cached_property
    def small(self) -> list[str]:
        """All words in small letters."""
        return [one.raw.lower() for one in self.all]


def claim_of(text: str, language: Language) -> StatementClaim:
    """Return what a text says."""
    return StatementClaim(text, language)


def joined(claim: StatementClaim, asked: StatementClaim) -> StatementClaim:
    """Return a claim together with the question that it answers."""
    both = StatementClaim("", claim.language)
    language = claim.language
    question = [
        one for one in asked.words if one.stem not in language.questions and not is_anaphor(one, language)
    ]
    both.text = claim.text
    both.all = claim.all
    both.negated = claim.negated
    both.words = [one for one in claim.words if not is_anaphor(one, language)] + [
        Word(one.stem, one.raw, -1, one.after) for one in question
    ]
    both.joined = True
    return both


def says_something(clause: str, language: Language) -> bool:
    """Return whether a later clause has a verb, or a place ("at ...") for the verb of the one before."""
    claim = StatementClaim(clause, language)
    if claim.all and claim.all[0].raw.lower() in PLACES:
        return True
    verbs = language.personal | language.auxiliaries
    frames = frozenset().union(*language.frames.values())
    return any(
        one.raw.lower() in verbs or is_verb(one, language) or (one.stem in frames and not one.is_name)
        for one in claim.all
    )


def is_said_without_words(text: str, language: Language) -> bool:
    """Return whether a text says nothing of the document's subject: signs, or "The resume says:"."""
    if not text.rstrip().endswith(":"):
        return not any(char.isalnum() for char in text)
    words = read_words(text, language)
    if not words:
        return not any(char.isalpha() for char in text)
    answers = language.yes | language.no | language.negations
    if any(one.raw.lower() in answers for one in words):
        return False
    return text.rstrip().endswith(":") and all(
        one.stem in language.stop or one.stem in language.generic for one in words
    )


def is_verb(word: Word, language: Language) -> bool:
    """Return whether a word looks like a verb that says something of its own."""
    small = word.raw.lower()
    if language.code == "en":
        return is_past(word, language)
    endings = {"de": ("te", "ten", "t"), "fr": ("é", "ait", "ée"), "es": ("ó", "aba", "ía")}
    return not word.is_name and small.endswith(endings[language.code])


def is_past(word: Word, language: Language) -> bool:
    small = word.raw.lower()
    return small.endswith("ed") or small in language.lists.irregular


def is_anaphor(word: Word, language: Language) -> bool:
    small = word.raw.lower()
    if small not in language.anaphora:
        return False
    return word.after not in (
        "says",
        "states",
        "mentions",
        "shows",
        "said",
        "say",
        "state",
        "mention",
        "so",
        "as",
    )
