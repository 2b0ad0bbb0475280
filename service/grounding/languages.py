"""The words of a language that a check of statements knows: closed lists, and the stem of a word.

Four languages: English, German, French, Spanish. Each list is short on purpose. A word that stands in none of
them has to be found in the passage.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from dub5.service.grounding.word_lists import LISTS, WordLists

LANGUAGES = tuple(LISTS)
USUAL = "en"
_WORD = re.compile(r"[^\W\d_]+")
_DETECT_CHARS = 20_000
Stem = Callable[[str], str]


_WHOLE = (
    "conjunctions",
    "pronouns",
    "auxiliaries",
    "negations",
    "yes",
    "no",
    "anaphora",
    "relatives",
    "possessives",
    "passives",
    "agents",
    "measures",
    "present",
    "current",
    "since",
    "until",
    "leads",
    "articles",
    "relations",
)
_STEMMED = ("generic", "questions", "weakeners", "starts", "ends", "catenatives", "received")
_BEFORE_AND_AFTER = frozenset({"before", "after", "between"})


@dataclass(frozen=True, eq=False)
class Language:
    """A language: its lists as sets. `stop`: small words, which need no support."""

    code: str
    lists: WordLists
    stem: Stem
    frames: dict[str, frozenset[str]]
    same: dict[str, str]  # a stem by another one that means the same
    numbers: dict[str, str]
    months: dict[str, str]
    # Stems
    generic: frozenset[str]
    questions: frozenset[str]
    weakeners: frozenset[str]
    starts: frozenset[str]
    ends: frozenset[str]
    catenatives: frozenset[str]
    received: frozenset[str]
    # Whole words, in small letters
    stop: frozenset[str]
    personal: frozenset[str]  # pronouns that are a subject or an object
    prepositions: frozenset[str]
    conjunctions: frozenset[str]
    pronouns: frozenset[str]
    auxiliaries: frozenset[str]
    negations: frozenset[str]
    yes: frozenset[str]
    no: frozenset[str]
    anaphora: frozenset[str]
    relatives: frozenset[str]
    possessives: frozenset[str]
    passives: frozenset[str]
    agents: frozenset[str]
    measures: frozenset[str]
    present: frozenset[str]
    current: frozenset[str]
    since: frozenset[str]
    until: frozenset[str]
    leads: frozenset[str]
    articles: frozenset[str]
    relations: frozenset[str]


@cache
def language_of(code: str) -> Language:
    """Return a language by its code; English for one that is not known."""
    code = code if code in LISTS else USUAL
    lists, stem = LISTS[code], _STEMS[code]
    words: Callable[[str], frozenset[str]] = lambda name: frozenset(getattr(lists, name).split())
    stems: Callable[[str], frozenset[str]] = lambda text: frozenset(map(stem, text.split()))
    same: dict[str, str] = {}
    for group in lists.same:
        first, *others = map(stem, group.split())
        same |= dict.fromkeys(others, first)
    return Language(
        code=code,
        lists=lists,
        stem=stem,
        frames={kind: stems(known) for kind, known in lists.frames.items()},
        same=same,
        numbers={word: str(number) for number, word in enumerate(lists.numbers.split(), 2)},
        months={
            name: f"month{number}"
            for number, names in enumerate(lists.months.split(), 1)
            for name in names.split("/")
        },
        stop=words("articles") | words("pronouns") | words("auxiliaries") | words("joins"),
        personal=words("pronouns") - words("possessives"),
        prepositions=words("since") | words("until") | words("measures") | _BEFORE_AND_AFTER,
        **{name: words(name) for name in _WHOLE},
        **{name: stems(getattr(lists, name)) for name in _STEMMED},
    )


def detect(text: str, usual: str = USUAL) -> str:
    """Return the language that most of the text's small words are of; `usual` if none is ahead."""
    words = [word.lower() for word in _WORD.findall(text[:_DETECT_CHARS])]
    chars = text[:_DETECT_CHARS].lower()
    counts = {
        code: sum(word in _detection_words(code) for word in words)
        + sum(map(chars.count, LISTS[code].letters)) / 2
        for code in LANGUAGES
    }
    best = max(LANGUAGES, key=lambda code: (counts[code], code == usual))
    return best if counts[best] else usual


@cache
def _detection_words(code: str) -> frozenset[str]:
    lists = LISTS[code]
    small = (lists.articles, lists.pronouns, lists.auxiliaries, lists.joins, lists.negations)
    return frozenset(" ".join([*small, lists.questions]).split())


def without_accents(word: str) -> str:
    """Return the word without its accents."""
    if word.isascii():
        return word
    split = unicodedata.normalize("NFD", word)
    return "".join(char for char in split if not unicodedata.combining(char))


def _english(word: str) -> str:
    word = LISTS["en"].irregular.get(word, word)
    if len(word) < 4:
        return word
    if word.endswith(("ies", "ied")) and len(word) > 4:
        return word[:-3] + "y"
    for suffix in ("ing", "ed"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            if word[-1] == word[-2] and word[-1] not in "lszfe":
                word = word[:-1]
            break
    else:
        if word.endswith("s") and not word.endswith(("ss", "us", "is")):
            word = word[:-1]
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def _german(word: str) -> str:
    word = LISTS["de"].irregular.get(word, word).replace("ß", "ss")
    if word.startswith("ge") and word.endswith(("t", "en")) and len(word) >= 7:
        word = word[2:]
    word = _cut(word, _GERMAN_VERB, 4)
    word = _cut(word, ("en", "em", "er", "es", "e", "n", "s"), 4)
    return word[:-2] + "l" if word.endswith("el") and len(word) > 5 else word


def _french(word: str) -> str:
    word = without_accents(LISTS["fr"].irregular.get(word, word))
    word = _cut(word, ("aient", "ees", "ent", "ant", "ait", "er", "ez", "ee", "es", "s", "e"), 4)
    return _cut(word, ("e", "s"), 4)


def _spanish(word: str) -> str:
    word = without_accents(LISTS["es"].irregular.get(word, word))
    suffixes = "iendo ieron ando aron ados idos adas idas ado ido ada ida aba io ia ar er ir es os as o a e s"
    return _cut(word, tuple(suffixes.split()), 4)


def _cut(word: str, suffixes: tuple[str, ...], rest: int) -> str:
    """Return the word without the first suffix that leaves this many letters."""
    for suffix in suffixes:
        if word.endswith(suffix) and len(word) - len(suffix) >= rest:
            return word[: -len(suffix)]
    return word


_GERMAN_VERB = ("ungen", "ung", "etest", "eten", "ete", "test", "ten", "tet", "te", "et", "st", "t")
_STEMS: dict[str, Stem] = {"en": _english, "de": _german, "fr": _french, "es": _spanish}
