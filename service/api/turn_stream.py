"""The stream of a turn: the chunks of an answer, as messages. Only here are they decoded."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import UNSET

from dub5.service.api.turn_answer import TurnAnswer
from dub5.service.api.turn_messages import (
    LOST,
    Accepted,
    Begin,
    DeltaMessage,
    EndMessage,
    TurnMessage,
    sse,
    tokens_of,
)
from dub5.service.cache.replay import ReplayedStream
from dub5.service.conversation.model import Turn
from dub5.service.conversation.open_turn import OpenTurn
from dub5.service.gateway import Answer
from dub5.service.model import Chunk, Chunks, Usage


class Numbered(Protocol):
    """What numbers the messages."""

    seq: int


class TurnStream:
    """The messages of an answer, as chunks that are ready to send. `end` writes the turn's end."""

    def __init__(
        self,
        source: Chunks,
        turn: OpenTurn,
        said: TurnAnswer,
        numbers: Numbered,
        end: Callable[[], Awaitable[Turn]],
    ) -> None:
        self._source = source
        self._turn = turn
        self._said = said
        self._numbers = numbers
        self._end = end
        self._over = False

    @property
    def usage(self) -> Usage | None:
        """The provider's usage, once it has sent it."""
        return self._source.usage

    def begin(self, route: str, answer: Answer, trail: str, chunks: list[Chunk]) -> list[Chunk]:
        """Return the messages of the first chunks, which are the commit point."""
        turn, question = self._turn, self._turn.question
        accepted = Accepted(turn.id, turn.asked_as, turn.conversation, turn.kept, question.flags)
        begin = Begin(
            turn.id,
            0,
            route,
            answer.target,
            trail,
            answer.degraded or UNSET,
            turn.pruned or UNSET,
            LOST if turn.memory_lost else UNSET,
        )
        return [*_chunks([accepted, begin]), *self._deltas(chunks)]

    async def read(self) -> list[Chunk]:
        """Return the next messages; none after the end. Raises what the source raises."""
        if self._over:
            return []
        chunks = await self._source.read()
        if chunks:
            return self._deltas(chunks)
        self._over = True
        return _chunks([_end(await self._end(), self._next())])

    async def aclose(self) -> None:
        """Close the source."""
        await self._source.aclose()

    def _deltas(self, chunks: list[Chunk]) -> list[Chunk]:
        """Return one message for all text that has come; a chunk without bytes if there is none."""
        text = self._said.add_events(chunk.raw for chunk in chunks)
        return _chunks([DeltaMessage(self._turn.id, self._next(), text)]) if text else [Chunk(b"")]

    def _next(self) -> int:
        self._numbers.seq += 1
        return self._numbers.seq


def repeated(turn: Turn, numbers: Numbered) -> ReplayedStream:
    """Return the messages of a turn that ended before."""
    messages: list[TurnMessage] = [
        Accepted(turn.id, turn.asked_as, turn.conversation, turn.kept, turn.flags),
        Begin(turn.id, 0, turn.model, turn.target, "", turn.degraded or UNSET),
    ]
    if turn.answer:
        numbers.seq += 1
        messages.append(DeltaMessage(turn.id, numbers.seq, turn.answer))
    numbers.seq += 1
    return ReplayedStream(_chunks([*messages, _end(turn, numbers.seq)]))


def _end(turn: Turn, seq: int) -> EndMessage:
    assert turn.outcome is not None, "it has ended"
    return EndMessage(turn.id, seq, turn.outcome, turn.finish, tokens_of(turn), turn.kept)


def _chunks(messages: list[TurnMessage]) -> list[Chunk]:
    return [Chunk(sse(message, getattr(message, "seq", 0))) for message in messages]
