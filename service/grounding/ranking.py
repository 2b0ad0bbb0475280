"""Ranking of passages by the words of a question: BM25 (Robertson, Zaragoza 2009).

Call `Ranking(passages, language)`, then `best(question, count)`.
"""

import math
from collections import Counter
from collections.abc import Sequence

from dub5.service.grounding.languages import Language
from dub5.service.grounding.model import DocumentPassage
from dub5.service.grounding.words import read_words
from dub5.service.providers.slices import Steps

K1 = 1.5  # how soon a word that comes again says no more
B = 0.75  # how much a long passage is held back
PASSAGES_IN_A_STEP = 200


class Ranking:
    """The words of passages, counted."""

    def __init__(self, passages: Sequence[DocumentPassage], language: Language) -> None:
        self._passages = passages
        self._language = language
        self._counts: list[Counter[str]] = []
        self._in_passages: Counter[str] = Counter()

    def build(self) -> Steps[None]:
        """Count the words, in steps."""
        for at, passage in enumerate(self._passages):
            counts = Counter(self._stems(f"{passage.path} {passage.lead} {passage.text}"))
            self._counts.append(counts)
            self._in_passages.update(counts.keys())
            if at % PASSAGES_IN_A_STEP == 0:
                yield

    def best(self, question: str, count: int) -> list[DocumentPassage]:
        """Return the passages that have most of the question's words, the best first."""
        total = len(self._counts)
        usual = sum(map(Counter.total, self._counts)) / max(1, total)
        asked = set(self._stems(question))
        weights = {
            stem: math.log(1 + (total - n + 0.5) / (n + 0.5))
            for stem in asked
            if (n := self._in_passages[stem])
        }
        scores = []
        for at, counts in enumerate(self._counts):
            room = K1 * (1 - B + B * counts.total() / max(1.0, usual))
            score = sum(
                weight * n * (K1 + 1) / (n + room) for stem, weight in weights.items() if (n := counts[stem])
            )
            if score:
                scores.append((-score, at))
        return [self._passages[at] for _, at in sorted(scores)[:count]]

    def _stems(self, text: str) -> list[str]:
        return [one.stem for one in read_words(text, self._language) if one.stem not in self._language.stop]
