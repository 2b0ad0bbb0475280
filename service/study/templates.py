"""Flashcards without a model, from the text itself: for a part that no provider could be asked about.

definitions   "Osmosis is the movement of water."   What is Osmosis?
              "Osmosis: the movement of water"
headings      the first sentence below it           the heading
gaps          any sentence                          the sentence without its rarest word

The same text has the same cards. Each quotes a sentence of it.
"""

import re
from collections import Counter
from collections.abc import Iterator

from dub5.service.study.cards import FRONT_CHARS_MAX, Flashcard, fold
from dub5.service.study.sentences import WORD, Sentence, is_small_word, language_of, plain, sentences, words

GAP = "____"
SUBJECT_WORDS_MAX = 6
SUBJECT_CHARS_MAX = 60
MEANING_WORDS_MIN = 3
GAP_WORDS_MIN = 4  # of a sentence that is worth a gap; a shorter one only where there is no other

# By language: the verbs of a definition, each with the question about its subject.
_VERBS = {
    "en": {"is": "What is {}?", "are": "What are {}?", "means": "What does {} mean?"},
    "de": {
        **dict.fromkeys(("ist",), "Was ist {}?"),
        **dict.fromkeys(("sind",), "Was sind {}?"),
        **dict.fromkeys(("bedeutet", "bezeichnet"), "Was bedeutet {}?"),
    },
    "fr": {
        **dict.fromkeys(("est",), "Qu'est-ce que {}\u00a0?"),
        **dict.fromkeys(("sont",), "Que sont {}\u00a0?"),
        **dict.fromkeys(("signifie", "d\u00e9signe"), "Que signifie {}\u00a0?"),
    },
    "es": {
        **dict.fromkeys(("es",), "\u00bfQu\u00e9 es {}?"),
        **dict.fromkeys(("son",), "\u00bfQu\u00e9 son {}?"),
        **dict.fromkeys(("significa",), "\u00bfQu\u00e9 significa {}?"),
    },
}
_ABOUT = {
    "en": "What does the text say about \u201c{}\u201d?",
    "de": "Was sagt der Text \u00fcber \u201e{}\u201c?",
    "fr": "Que dit le texte sur \u00ab\u00a0{}\u00a0\u00bb\u00a0?",
    "es": "\u00bfQu\u00e9 dice el texto sobre \u00ab{}\u00bb?",
}
# What begins a sentence that speaks of something named before: of it alone nobody can tell.
_POINTERS = frozenset(
    word
    for words_of_language in (
        "it this that these those there here he she they we you i who what which where when how why if one",
        "its their his her my our your such some many most both each all every another other",
        "er sie es das dies dieser diese dieses hier da wir ihr was wer wenn wie man jener jede",
        "sein seine ihre mein meine unser unsere alle viele manche einige beide jeder jedes solche",
        "il elle ils elles ce cela c'est cette ces ceci on nous vous qui que si quand o\u00f9",
        "son sa ses leur leurs mon ma mes notre nos votre vos tous toutes chaque",
        "\u00e9l ella ellos ellas esto eso este esta estos estas ese esa aqu\u00ed all\u00ed cuando donde lo",
        "su sus mi mis nuestro nuestra todos todas cada muchos algunos",
    )
    for word in words_of_language.split()
)
_TERM = re.compile(
    r"(?P<term>[^\W\d_][^:\n]{1,59}?)\s*(?::|\s[\u2013\u2014-])\s+(?P<meaning>\S.*)", re.DOTALL
)
_ARTICLE = re.compile(
    r"(?:The|A|An|Der|Die|Das|Ein|Eine|Le|La|Les|L['\u2019]|Un|Une|Des|El|Los|Las|Una)(?=\s|(?<=['\u2019]))"
)

_ELISION = re.compile("^Qu'est-ce que (?=[aeiouy\u00e0\u00e2\u00e9\u00e8\u00ea\u00ee\u00f4])")


def template_cards(text: str, count: int) -> list[Flashcard]:
    """Return at most `count` cards about a text, in its order; at least one if there is a sentence in it."""
    language, known = language_of(text), sentences(text)
    found: dict[str, tuple[int, Flashcard]] = {}
    taken: set[int] = set()
    for place, card in _candidates(known, language, text):
        if len(found) >= count:
            break
        front = fold(card.front)
        if place not in taken and front not in found and len(card.front) <= FRONT_CHARS_MAX:
            found[front] = (place, card)
            taken.add(place)
    return [card for _, card in sorted(found.values(), key=lambda one: one[0])]


def _candidates(known: list[Sentence], language: str, text: str) -> Iterator[tuple[int, Flashcard]]:
    """Yield cards, the best ones first, each with the place of its sentence."""
    for sentence in known:
        if (card := _definition(sentence.text, language)) is not None:
            yield sentence.place, card
    for sentence in known:
        if sentence.heading and len(words(sentence.text)) >= GAP_WORDS_MIN:
            front = _ABOUT.get(language, "{}\u2026?").format(sentence.heading)
            yield sentence.place, Flashcard(front, plain(sentence.text), sentence.text)
    counts = Counter(words(text))
    short = [one for one in known if len(words(one.text)) < GAP_WORDS_MIN]
    for sentence in [one for one in known if one not in short] + short:
        if (card := _gap(sentence.text, counts)) is not None:
            yield sentence.place, card


def _definition(sentence: str, language: str) -> Flashcard | None:
    """Return the card of a sentence that says what something is."""
    text = plain(sentence)
    for verb, question in _VERBS.get(language, {}).items():
        subject, found, meaning = text.partition(f" {verb} ")
        if found and _is_subject(subject) and len(words(meaning)) >= MEANING_WORDS_MIN:
            front = _ELISION.sub("Qu'est-ce qu'", question.format(_lowered(subject)))
            return Flashcard(front, text, sentence)
    found_term = _TERM.fullmatch(text)
    if (
        found_term
        and _is_subject(found_term["term"])
        and len(words(found_term["meaning"])) >= MEANING_WORDS_MIN
    ):
        question = next(iter(_VERBS.get(language, {"": "{}?"}).values()))
        return Flashcard(question.format(found_term["term"]), found_term["meaning"], sentence)
    return None


def _is_subject(text: str) -> bool:
    """Return whether these words name something by themselves."""
    known = words(text)
    if not 0 < len(known) <= SUBJECT_WORDS_MAX or len(text) > SUBJECT_CHARS_MAX or known[0] in _POINTERS:
        return False
    return text[0].isalnum() and not any(sign in text for sign in ",;()?!")


def _lowered(subject: str) -> str:
    """Return a subject as it stands within a sentence: its article begins small."""
    return subject[0].lower() + subject[1:] if _ARTICLE.match(subject) else subject


def _gap(sentence: str, counts: Counter[str]) -> Flashcard | None:
    """Return the card of a sentence without its rarest word; without its second half if it has one word."""
    text = plain(sentence)
    found = [one[0] for one in WORD.finditer(text)]
    if len(found) < 2:
        half = (len(text) + 1) // 2
        front, back = f"{text[:half].rstrip()} {GAP}", text[half:].strip()
        return Flashcard(front, back, sentence) if back and text[:half].strip() else None
    known = [word for word in found if not is_small_word(word.casefold())] or found
    rarest = min(known, key=lambda word: (counts[word.casefold()], -len(word)))
    front = re.sub(rf"(?<!\w){re.escape(rarest)}(?!\w)", GAP, text)
    return Flashcard(front, rarest, sentence) if front != text else None
