"""Words of a text as statements are compared by: stems, numbers in one form, and where a part of it ends.

Call `read_words(text, language)`.
"""

import re
import unicodedata
from functools import lru_cache

from msgspec import Struct

from dub5.service.grounding.languages import Language

_TOKEN = re.compile(r"\d+(?:[.,'\u2019]\d+)*|[^\W\d_][^\W_]*(?:\+\+|#)?|[%€$£@&]|[^\w\s]")
_THOUSANDS = re.compile(r"\d{1,3}(?:([.,'\u2019])\d{3})(?:\1\d{3})*")
_SCALES = {
    **dict.fromkeys(("k", "thousand", "tausend", "mille", "mil"), 10**3),
    **dict.fromkeys(("m", "mn", "mio", "million", "millions", "millionen", "millones", "millón"), 10**6),
    **dict.fromkeys(("bn", "billion", "mrd", "milliarde", "milliarden", "milliards"), 10**9),
}
_SIGNS = {"%": "percent", "€": "euro", "$": "dollar", "£": "pound", "@": "@"}
_SIGN_WORDS = {
    "percent": "percent prozent porcentaje",
    "euro": "euro euros eur",
    "dollar": "dollar dollars usd",
    "pound": "pound pounds gbp",
}
_SIGN_OF = {word: sign for sign, words in _SIGN_WORDS.items() for word in words.split()}
_DEGREES = (
    (re.compile(r"\bM\.\s?Sc\b\.?|\bMaster of Science\b|\bM\.S\.", re.IGNORECASE), "MSc"),
    (re.compile(r"\bB\.\s?Sc\b\.?|\bBachelor of Science\b|\bB\.S\.", re.IGNORECASE), "BSc"),
    (re.compile(r"\bPh\.\s?D\b\.?|\bDoctor of Philosophy\b", re.IGNORECASE), "PhD"),
    (re.compile(r"\bM\.\s?A\b\.", re.IGNORECASE), "MA"),
    (re.compile(r"\bB\.\s?A\b\.", re.IGNORECASE), "BA"),
    (re.compile(r"\bpour\s?cent\b|\bpor ciento\b|\bper cent\b", re.IGNORECASE), "percent"),
    (re.compile(r"\be-mail\b", re.IGNORECASE), "email"),
)
_HAS_FORMS = re.compile(
    r"\b(?:[MB]\.|Ph\.|Master of|Bachelor of|Doctor of|pour|por|per|e-mail)", re.IGNORECASE
)
_BREAKS = ".,;:()[]!?|/\u2013\u2014\u2022\u00b7"
_SHORT_RANGE = re.compile(r"\b((?:19|20)\d\d)\s?[-\u2013\u2014/]\s?(\d\d)\b(?![-\d])")
_MONTH_AS_NUMBER = re.compile(r"\b(0?[1-9]|1[0-2])[/.]((?:19|20)\d\d)\b")
_POSSESSIVE = re.compile(r"(?<=\w)['\u2019]s\b")
_NOT = re.compile(r"n['\u2019]t\b", re.IGNORECASE)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


class Word(Struct, frozen=True):
    """A word. `stem`: what it is compared by. `part`: the number of its part of the text.

    `after`: what it follows: "" for the beginning of a part, else the word before, in small letters.
    """

    stem: str
    raw: str
    part: int
    after: str

    @property
    def is_number(self) -> bool:
        """Whether it is a number, in figures or in words."""
        return bool(NUMBER.fullmatch(self.stem))

    @property
    def is_year(self) -> bool:
        """Whether it is a year."""
        return len(self.stem) == 4 and self.stem.isdigit() and "1900" <= self.stem <= "2100"

    @property
    def is_name(self) -> bool:
        """Whether it is written as a name is."""
        return self.raw[:1].isupper()


def tidy(text: str) -> str:
    """Return the text with degrees, dates and short ranges of years in one form."""
    text = unicodedata.normalize("NFKC", text).replace("\u00ad", "")
    if _HAS_FORMS.search(text):
        for pattern, form in _DEGREES:
            text = pattern.sub(form, text)
    text = _NOT.sub(" not", _POSSESSIVE.sub("", text))
    text = _SHORT_RANGE.sub(lambda found: f"{found[1]}\u2013{found[1][:2]}{found[2]}", text)
    return _MONTH_AS_NUMBER.sub(lambda found: f"month{int(found[1])} {found[2]}", text)


def read_words(text: str, language: Language) -> list[Word]:
    """Return all words of a text, small ones too."""
    found, part, after = list[Word](), 0, ""
    for raw in _TOKEN.findall(tidy(text)):
        if raw in _SIGNS:
            found.append(Word(_SIGNS[raw], raw, part, after))
            after = raw
        elif not (raw[0].isalnum() or raw == "&"):
            if raw in _BREAKS:
                part, after = part + 1, ""
        else:
            small = raw.lower()
            if small in language.conjunctions:
                part, after = part + 1, ""
                found.append(Word(small, raw, part, after))
                continue
            _add(found, Word(_stem(small, language), raw, part, after))
            after = small
    return found


def _add(found: list[Word], word: Word) -> None:
    """Add a word; one that says how large a number is becomes a part of the number."""
    small = word.raw.lower()
    before = found[-1] if found else None
    if small in _SCALES and before is not None and NUMBER.fullmatch(before.stem) and before.part == word.part:
        value = float(before.stem) * _SCALES[small]
        found[-1] = Word(_number(f"{value:.6f}"), before.raw, before.part, before.after)
        return
    found.append(word)


@lru_cache(maxsize=8192)
def _stem(small: str, language: Language) -> str:
    if small[0].isdigit():
        return _number(small)
    if small in language.numbers:
        return language.numbers[small]
    if small in language.months:
        return language.months[small]
    if small in _SIGN_OF:
        return _SIGN_OF[small]
    if small in language.stop or any(char.isdigit() for char in small):
        return small
    stem = language.stem(small)
    return language.same.get(stem, stem)


def _number(text: str) -> str:
    """Return a number in one form: 1,200 and 1.200 and 1200 are the same, and 2,5 is 2.5."""
    if _THOUSANDS.fullmatch(text):
        return re.sub(r"\D", "", text)
    text = text.replace(",", ".").replace("'", "").replace("\u2019", "")
    if text.count(".") == 1:
        text = text.rstrip("0").rstrip(".")
    return text
