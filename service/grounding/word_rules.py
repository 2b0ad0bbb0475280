"""Rules about words: none is added, and none is left out that limits the others."""

import re

from dub5.service.grounding.claims import StatementClaim
from dub5.service.grounding.period_rules import bounds_a_period, is_within
from dub5.service.grounding.support import Support
from dub5.service.grounding.words import Word

_ALLOWED = re.compile(
    r"[\w\s.,;:!?'\"()\[\]/&%€$£@+#=<>|*~\u00ab\u00bb\u2013\u2014\u2018\u2019\u201a\u201c\u201d\u201e\u2022\u2026\u00b7-]*"
)


def is_written_plainly(text: str) -> bool:
    """Return whether a text is written in letters, figures and plain signs: others are not checked."""
    return bool(_ALLOWED.fullmatch(text))


def keeps_negation(claim: StatementClaim, support: Support) -> bool:
    """Return whether both say "not", or none does."""
    return claim.negated == support.negated


def adds_no_word(claim: StatementClaim, support: Support) -> bool:
    """Return whether each word stands in the passage, or in its headings, or needs no support."""
    known = support.own | support.above
    return all(
        one.stem in known
        or (not one.is_number and one.stem in support.frames)
        or bounds_a_period(one, claim, support)
        or (one.is_year and is_within(one.stem, claim, support))
        for one in claim.words
    )


def keeps_weakeners(claim: StatementClaim, support: Support) -> bool:
    """Return whether "basic", "helped to" and their like are not left out before what they weaken."""
    weak, said = support.language.weakeners, set(claim.stems)
    for at, word in enumerate(support.words):
        if word.stem not in weak or word.stem in said:
            continue
        beside = [support.words[i] for i in (at - 1, at + 1, at + 2) if 0 <= i < len(support.words)]
        beside = [one for one in beside if one.part == word.part or _is_in_brackets(support, word)]
        if any(one.stem in said for one in beside):
            return False
    return True


def _is_in_brackets(support: Support, word: Word) -> bool:
    return bool(re.search(rf"[(:\u2013-]\s*(?:\w+\s)?{re.escape(word.raw)}\b", support.text))
