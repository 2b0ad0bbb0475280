"""A document that is asked about: its passages, those that a question needs, and the check of answers."""

from collections.abc import Sequence
from functools import cached_property

from dub5.service.grounding.check import Checker
from dub5.service.grounding.model import DocumentPassage
from dub5.service.grounding.passages import cut_into_passages
from dub5.service.grounding.prompt import grounded_prompt
from dub5.service.grounding.ranking import Ranking
from dub5.service.providers.slices import Steps
from dub5.service.tokens import estimate_tokens

WHOLE_TOKENS_MAX = 6_000  # a document up to this is sent as a whole
PICKED_TOKENS_MAX = 3_000
PICKED_MAX = 60
FIRST_PASSAGES = 2  # they name whose document it is
RULES_TOKENS = 300


class GroundingText:
    """The passages of a document."""

    def __init__(self, passages: tuple[DocumentPassage, ...], ranking: Ranking | None) -> None:
        self.passages = passages
        self.checker = Checker(passages)
        self._ranking = ranking

    @cached_property
    def tokens(self) -> int:
        """The tokens of the system message, at most."""
        if self._ranking is not None:
            return PICKED_TOKENS_MAX + RULES_TOKENS
        return estimate_tokens([grounded_prompt(self.passages, "")])

    @property
    def unusable(self) -> int:
        """How many passages give instructions to a model, and are left out."""
        return sum(not one.usable for one in self.passages)

    @property
    def topics(self) -> list[str]:
        """What the document tells about: its headings, and what it says first where it has none."""
        sections = dict.fromkeys(one.headings[0] for one in self.passages if one.headings and one.usable)
        return list(sections) or [one.text for one in self.passages[1:4] if one.usable]

    def prompt(self, question: str) -> str:
        """Return the system message for a question."""
        return grounded_prompt(self._picked(question), question)

    def _picked(self, question: str) -> Sequence[DocumentPassage]:
        if self._ranking is None:
            return self.passages
        picked, room = dict.fromkeys(range(FIRST_PASSAGES)), PICKED_TOKENS_MAX
        for one in self._ranking.best(question, PICKED_MAX):
            room -= estimate_tokens([one.path, one.text]) + 5
            if room < 0:
                break
            picked[one.number - 1] = None
        return [self.passages[at] for at in sorted(picked) if at < len(self.passages)]


def read_document(text: str) -> Steps[GroundingText]:
    """Return a text, ready to be asked about, in steps."""
    passages = yield from cut_into_passages(text)
    ranking = None
    if sum(estimate_tokens([one.text]) for one in passages) > WHOLE_TOKENS_MAX:
        ranking = Ranking(passages, Checker(passages).language)
        yield from ranking.build()
    return GroundingText(passages, ranking)
