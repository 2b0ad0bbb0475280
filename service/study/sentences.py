"""Sentences of a text, its language by its smallest words, and its headings: for cards without a model."""

import re
from collections import Counter
from collections.abc import Iterator

from msgspec import Struct

from dub5.service.study.chunks import is_heading

TITLE_SHARE_MAX = 0.6  # of the longest line
TITLE_CHARS_MIN, TITLE_CHARS_MAX = 24, 60  # with shorter lines nobody can tell
SENTENCE_CHARS_MAX = 300  # of a longer one its beginning is taken
WORD = re.compile(r"[^\W_]+(?:['\u2019.,-][^\W_]+)*")
_END = re.compile(
    "(?:(?<=[.!?\u2026])|(?<=[.!?\u2026][\"')\\]\u00bb\u201d\u2019]))\\s+(?=[\"'(\\[\u00ab\u201c\u2018\u00bf\u00a1]?[^\\W_a-z])"
    "|(?<=[\u3002\uff01\uff1f])\\s*"
)
_NOISE = re.compile(r"\s*(?:#{1,6}\s+|[-*+\u2022]\s+|>\s?)")
_EMPHASIS = re.compile(r"(\*{1,3}|`+)(?=\S)([^*`\n]{1,200}?)(?<=\S)\1")
_SMALL_WORDS = {
    "en": "the of and to is in that it are was for with as which this by from be an or not",
    "de": "der die das und ist in den von zu mit sich des auf f\u00fcr im dem nicht ein eine sind als auch",
    "fr": "le la les de des et est une un du dans que qui pour par sur au avec sont ne pas ce cette aux",
    "es": "el la los las de y es en que un una por con para se del al son como su lo m\u00e1s no",
}
_LANGUAGES = {language: frozenset(words.split()) for language, words in _SMALL_WORDS.items()}


class Sentence(Struct, frozen=True):
    """A sentence as it stands in its text, without marks of Markdown around it. `place`: its number there.

    `heading`: the one above it, where this is the first sentence below.
    """

    text: str
    place: int
    heading: str = ""


def sentences(text: str) -> list[Sentence]:
    """Return the sentences of a text in order; headings are none."""
    found: list[Sentence] = []
    heading = ""
    for is_title, block in _blocks(text):
        if is_title:
            heading = plain(block).strip(" :#")
            continue
        for raw in _END.split(block):
            sentence = _bounded(_without_noise(raw))
            if sentence:
                found.append(Sentence(sentence, len(found), heading))
                heading = ""
    return found


def plain(text: str) -> str:
    """Return a text on one line, without the marks of Markdown."""
    return " ".join(_EMPHASIS.sub(r"\2", _without_noise(text)).split())


def words(text: str) -> list[str]:
    """Return the words of a text, folded."""
    return [found[0].casefold() for found in WORD.finditer(text)]


def language_of(text: str) -> str:
    """Return en, de, fr or es, by the small words of the text; nothing if it has none of them."""
    counts = Counter(words(text))
    scores = {name: sum(counts[word] for word in known) for name, known in _LANGUAGES.items()}
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] else ""


def is_small_word(word: str) -> bool:
    """Return whether a folded word is one of those that every text has."""
    return any(word in known for known in _LANGUAGES.values())


def _blocks(text: str) -> Iterator[tuple[bool, str]]:
    """Yield headings, paragraphs and items of lists, each with whether it is a heading."""
    lines: list[str] = []
    known = [*text.split("\n"), ""]
    title_chars_max = int(TITLE_SHARE_MAX * max(map(len, known)))
    for line, after in zip(known, [*known[1:], ""], strict=True):
        title = bool(line.strip()) and (
            is_heading(line) or (_ends(lines) and _is_title(line, after, title_chars_max))
        )
        if lines and (title or not line.strip() or _NOISE.match(line)):
            yield False, "\n".join(lines)
            lines = []
        if title:
            yield True, line
        elif line.strip():
            lines.append(line)


def _ends(lines: list[str]) -> bool:
    """Return whether a sentence is over with these lines."""
    return not lines or lines[-1].rstrip()[-1] in ".!?\u2026"


def _is_title(line: str, after: str, chars_max: int) -> bool:
    """Return whether a line is a title, as in the text of a PDF: it ends early, and without a stop.

    A line that goes on in the next one ends where that has no room.
    """
    line, after = line.strip(), after.strip()
    if len(line) > min(chars_max, TITLE_CHARS_MAX) or chars_max < TITLE_CHARS_MIN or _NOISE.match(line):
        return False
    begins = bool(after) and (after[0].isupper() or after[0].isdigit())
    return begins and line[0].isalnum() and line[-1].isalnum()


def _without_noise(text: str) -> str:
    text = text.strip()
    found = _NOISE.match(text)
    return text[found.end() :].strip() if found else text


def _bounded(sentence: str) -> str:
    """Return the sentence, or as many of its first words as there is room for."""
    if len(sentence) <= SENTENCE_CHARS_MAX:
        return sentence
    beginning = sentence[:SENTENCE_CHARS_MAX]
    if sentence[SENTENCE_CHARS_MAX].isspace():
        return beginning.rstrip()
    words_before = beginning.rsplit(None, 1)
    return words_before[0] if len(words_before) > 1 else beginning
