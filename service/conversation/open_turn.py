"""A turn that is being answered, and the registry of those of this process."""

import asyncio
from dataclasses import dataclass, field

from dub5.service.conversation.history import PastExchange
from dub5.service.conversation.model import NewQuestion, Pruned, Turn

Key = tuple[str, str, str]  # owner, conversation, and what the question was asked as


@dataclass(slots=True)
class OpenTurn:
    """A turn from its question to its end.

    `kept`: the question is in the database; `memory_lost`: it is asked without what was said before.
    `known_tokens`: of the prompt without the question, as the provider of `known_target` counts them (None:
    as any does). `view`: the turn, once it has ended.
    """

    id: str
    owner: str
    conversation: str
    question: NewQuestion
    asked_at: float
    ended: asyncio.Future[Turn | None]
    kept: bool = False
    memory_lost: bool = False
    unknown: bool = False  # the owner has no such conversation, or the question was asked before
    model: str = ""
    history: tuple[PastExchange, ...] = ()
    pruned: Pruned | None = None
    known_tokens: int | None = None
    known_target: str | None = None
    view: Turn | None = None

    @property
    def key(self) -> Key:
        """What an equal question is found by."""
        return self.owner, self.conversation, self.asked_as

    @property
    def sees_all(self) -> bool:
        """Whether the prompt holds all that was said before."""
        return not self.memory_lost and self.pruned is None

    @property
    def asked_as(self) -> str:
        """The client's own id of the question, or the turn's."""
        return self.question.asked_as or self.id


@dataclass(slots=True)
class OpenTurns:
    """The turns of this process that are being answered: no more than requests are admitted."""

    _turns: dict[Key, OpenTurn] = field(default_factory=dict)

    def find(self, key: Key) -> OpenTurn | None:
        """Return the open turn with this key."""
        return self._turns.get(key)

    def add(self, turn: OpenTurn) -> None:
        """Let equal questions find this turn."""
        self._turns[turn.key] = turn

    def remove(self, turn: OpenTurn) -> None:
        """Forget the turn, and tell those who wait for it how it has ended."""
        if self._turns.get(turn.key) is turn:
            del self._turns[turn.key]
        if not turn.ended.done():
            turn.ended.set_result(turn.view)
