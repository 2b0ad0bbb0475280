"""Answers about a document, as a careful model gives them: for a request that holds numbered passages.

=== passages 5d2c91aa0b1c2d3e ===     the passages with most words of the question, as they stand,
(Experience)                          each with its number; NOT_TOLD if none of them has any
[4] Led a team of 5 engineers.
=== passages 5d2c91aa0b1c2d3e ===
"""

import re
from collections.abc import Iterator

NOT_TOLD = "NOT_TOLD"
TOLD_MAX = 3  # passages
STEM_CHARS = 5  # `study` and `studied` are one word, and so are `engineer` and `engineers`
_MATERIAL = re.compile(r"^(=== passages [0-9a-f]{16} ===)\n(.*)\n\1", re.DOTALL | re.MULTILINE)
_NUMBERED = re.compile(r"\[(\d{1,6})\] (.+)")
_WORD = re.compile(r"[^\W_]{3,}")
_SMALL = frozenset(
    word
    for line in (
        "about and any are can did does for from had has have her him his how into its many much now out say",
        "she tell that the their them they this was were what when where which who whose why with you your",
    )
    for word in line.split()
)
_SECTIONS = {  # the heading under which a resume tells of it
    "stud": "educa",
    "degre": "educa",
    "schoo": "educa",
    "unive": "educa",
    "gradu": "educa",
    "work": "exper",
    "job": "exper",
    "jobs": "exper",
    "emplo": "exper",
}
SECTIONS = frozenset(_SECTIONS.values())


def told_of_passages(text: str, question: str) -> str | None:
    """Return an answer with its citations; None for a request without passages. `text`: of all messages."""
    if "=== passages " not in text:
        return None
    material = _MATERIAL.search(text)
    if material is None:
        return None
    passages = [(number, told, _stems(told), _stems(above)) for number, told, above in _passages(material[2])]
    wanted = [
        word for word in _stems(question) if not _is_everywhere(word, [own for _, _, own, _ in passages])
    ]
    scores = [sum(_weight(word, own, above) for word in wanted) for _, _, own, above in passages]
    most = max(scores, default=0)
    best = [one for one, score in zip(passages, scores, strict=True) if score == most > 0]
    return " ".join(f"{told.rstrip(' .')} [{number}]." for number, told, *_ in best[:TOLD_MAX]) or NOT_TOLD


def _passages(material: str) -> Iterator[tuple[str, str, str]]:
    """Yield the number and the text of each passage, and the headings above it."""
    above = ""
    for line in material.split("\n"):
        if found := _NUMBERED.fullmatch(line):
            yield found[1], found[2], above
        elif line.startswith("(") and line.endswith(")"):
            above = line[1:-1]


def _stems(text: str) -> set[str]:
    found = {word[:STEM_CHARS] for word in map(str.casefold, _WORD.findall(text)) if word not in _SMALL}
    stems = {word[:4] if word in ("study", "studi") else word for word in found}
    return stems | {_SECTIONS[stem] for stem in stems if stem in _SECTIONS}


def _weight(word: str, own: set[str], above: set[str]) -> int:
    """Return what a word of the question says for a passage: most if it names its section."""
    if word in above:
        return 3 if word in SECTIONS else 1
    return 2 if word in own else 0


def _is_everywhere(word: str, passages: list[set[str]]) -> bool:
    """Return whether a word tells nothing: more than half of several passages have it."""
    return len(passages) > 2 and 2 * sum(word in had for had in passages) > len(passages)
