"""A turn that is being asked and answered: all that is known of it, before its end is written."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dub5.service.conversation.history import PastExchange
from dub5.service.conversation.live_turn import Key, LiveTurn
from dub5.service.conversation.model import NewQuestion, Pruned, Turn
from dub5.service.store.store import PendingWrite

if TYPE_CHECKING:  # loaded by name, where a document is asked about
    from dub5.service.grounding.grounding import Grounding


@dataclass(slots=True)
class OpenTurn:
    """A turn from its question to its end.

    `kept`: the question is in the database; `memory_lost`: it is asked without what was said before.
    `grounding`: the document of its conversation. `known_tokens`: of the prompt without the question, as the
    provider of `known_target` counts them (None: as any does). `view`: the turn, once it has ended; `end`:
    the write of that.
    """

    live: LiveTurn
    question: NewQuestion
    asked_at: float
    kept: bool = False
    memory_lost: bool = False
    unknown: bool = False  # the owner has no such conversation, or the question was asked before
    model: str = ""
    history: tuple[PastExchange, ...] = ()
    pruned: Pruned | None = None
    grounding: "Grounding | None" = None
    known_tokens: int | None = None
    known_target: str | None = None
    view: Turn | None = None
    end: PendingWrite | None = None

    @property
    def id(self) -> str:
        """The turn's own id."""
        return self.live.id

    @property
    def key(self) -> Key:
        """What an equal question is found by."""
        return self.live.key

    @property
    def owner(self) -> str:
        """Whose turn it is."""
        return self.live.key[0]

    @property
    def conversation(self) -> str:
        """The id of its conversation."""
        return self.live.key[1]

    @property
    def asked_as(self) -> str:
        """The client's own id of the question, or the turn's."""
        return self.live.key[2]

    @property
    def sees_all(self) -> bool:
        """Whether the prompt holds all that was said before."""
        return not self.memory_lost and self.pruned is None
