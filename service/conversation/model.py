"""What is known of a conversation and its turns. A turn is a question and its answer."""

from dataclasses import dataclass, field
from enum import StrEnum

from msgspec import Struct

from dub5.service.grounding.model import GroundingReport
from dub5.service.model import Outcome
from dub5.service.tokens import estimate_tokens

ESTIMATE_MARGIN = 1.1


class CountedBy(StrEnum):
    """Who counted the tokens of a text."""

    PROVIDER = "provider"
    ESTIMATE = "estimate"


class TokenCount(Struct, frozen=True):
    """The tokens of a text, and who counted them."""

    tokens: int
    source: CountedBy = CountedBy.ESTIMATE

    def bound(self, text: str) -> int:
        """Return the tokens that are set aside for the text, which no target counts more than.

        The gateway compares its own estimate with a target's window, so that is the least.
        """
        if self.source is CountedBy.PROVIDER:
            return max(self.tokens, estimate_tokens([text]))
        return round(self.tokens * ESTIMATE_MARGIN + 0.5)


def estimated(text: str) -> TokenCount:
    """Return the tokens of a text, estimated."""
    return TokenCount(estimate_tokens([text]))


class Conversation(Struct, frozen=True):
    """A conversation without its turns. Times are epoch seconds. `kept`: it is in the database."""

    id: str
    title: str
    model: str
    made_at: float
    used_at: float
    document: str | None = None  # the id of what it asks about
    kept: bool = True


class Pruned(Struct, frozen=True):
    """What was left out of the prompt, since it did not fit. `turns`: whole ones."""

    turns: int
    tokens: int


class Turn(Struct, frozen=True):
    """A turn. `prompt_tokens`: the provider's count of the whole prompt.

    `alive`: it has ended, or its worker may end it. `kept`: its end is in the database.
    """

    id: str
    conversation: str
    asked_as: str
    question: str
    question_count: TokenCount
    flags: tuple[str, ...]
    model: str
    asked_at: float
    ended: bool = False
    answer: str | None = None
    answer_count: TokenCount = TokenCount(0)
    prompt_tokens: int | None = None
    outcome: Outcome | None = None
    finish: str | None = None
    target: str | None = None
    degraded: str | None = None
    ended_at: float | None = None
    grounding: GroundingReport | None = None  # of an answer about a document
    alive: bool = True
    kept: bool = True
    worker: str = ""


class TurnEnd(Struct, frozen=True):
    """How a turn ended. `finish`: the provider's finish_reason."""

    outcome: Outcome
    model: str
    answer: str = ""
    answer_count: TokenCount = TokenCount(0)
    question_count: TokenCount | None = None  # where the provider's counts say more than the estimate did
    prompt_tokens: int | None = None
    finish: str | None = None
    target: str | None = None
    degraded: str | None = None
    grounding: GroundingReport | None = None


@dataclass(slots=True)
class NewQuestion:
    """A question as it was asked. `asked_as`: the client's own id; empty: none. `model`: "" for the usual."""

    text: str
    asked_as: str = ""
    model: str = ""
    flags: tuple[str, ...] = ()
    request_id: str = ""
    count: TokenCount = field(default=TokenCount(0))
