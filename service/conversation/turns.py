"""Turns: a question is opened, asked with what was said before, and ended. An equal question is asked once.

wait_for_equal -> claim -> open (history is read while the question is written) -> end -> release
"""

import asyncio

from msgspec.structs import replace

from dub5.service import clock
from dub5.service.conversation import statements
from dub5.service.conversation.conversations import UNREADABLE, Conversations, Window, not_found
from dub5.service.conversation.history import fit
from dub5.service.conversation.model import CountedBy, NewQuestion, Pruned, Turn, TurnEnd
from dub5.service.conversation.open_turn import OpenTurn, OpenTurns
from dub5.service.conversation.rows import History, RememberedTurn, history_of, turn_of
from dub5.service.events import Events, HistoryPruned
from dub5.service.model import Outcome
from dub5.service.store.base import BoundStatement, Row
from dub5.service.store.store import PendingWrite

TITLE_CHARS = 60
ANSWER_BYTES_MAX = 1024 * 1024
LOOK_S = 1.0  # how often the database is asked about a turn of another process

Rows = list[list[Row]] | None


class Turns:
    """The turns of all owners. `previous`: what a reload of the settings replaces."""

    def __init__(self, conversations: Conversations, events: Events, previous: "Turns | None" = None) -> None:
        self.conversations = conversations
        self._store = conversations.store
        self._events = events
        self._open: OpenTurns = previous._open if previous else OpenTurns()

    async def wait_for_equal(self, owner: str, conversation: str, asked_as: str) -> Turn | None:
        """Wait while this process answers an equal question. Return its end; None if there was none."""
        while (other := self._open.find((owner, conversation, asked_as))) is not None:
            ended = await asyncio.shield(other.ended)
            if ended is not None:
                return ended
        return None

    def claim(self, owner: str, conversation: str, question: NewQuestion) -> OpenTurn:
        """Return the turn of a question. Call it right after `wait_for_equal`, and `release` at its end."""
        future = asyncio.get_running_loop().create_future()
        turn = OpenTurn(self.conversations.ids.new(), owner, conversation, question, clock.wall(), future)
        self._open.add(turn)
        return turn

    async def open(self, turn: OpenTurn) -> Turn | None:
        """Write the question and read what was said before. Return the turn that had the same question.

        Waits for the database for at most its patience. Raises ConversationNotFound.
        """
        until_s = clock.now() + self._store.patience_s
        asking = asyncio.create_task(self._ask(turn), name=f"ask {turn.id}")  # begins while the read waits
        try:
            rows = await self._history(turn)
            asked = await asking
        except BaseException:
            asking.cancel()
            raise
        if rows is not None and not rows:
            turn.unknown = True
            raise not_found()
        history = history_of(rows) if rows else None
        turn.kept = bool(asked and asked[1])
        equal = None if turn.kept else await self._equal(turn, history, asked, until_s)
        if equal is not None and equal.id != turn.id:
            turn.unknown = True
            return await self._end_elsewhere(turn, equal)
        turn.kept = turn.kept or equal is not None
        self._remember(turn, history)
        return None

    async def _ask(self, turn: OpenTurn) -> Rows:
        question, text = turn.question, turn.question.text
        use = statements.USE.bind(
            turn.owner, turn.conversation, " ".join(text.split())[:TITLE_CHARS], turn.asked_at
        )
        ask = statements.ASK.bind(
            turn.owner,
            turn.conversation,
            turn.id,
            turn.asked_as,
            text,
            question.count.tokens,
            question.count.source,
            ",".join(question.flags),
            question.model,
            question.request_id,
            self._store.worker,
            turn.asked_at,
        )
        return await self._store.write([use, ask], lane=turn.conversation).kept(self._store.patience_s)

    async def _history(self, turn: OpenTurn) -> list[Row] | None:
        """Return the rows of the conversation, None if the database is lost."""
        bound = statements.HISTORY.bind(
            turn.owner, turn.conversation, turn.asked_as, turn.id, self.conversations.window_max
        )
        try:
            return await self._store.read(bound, lane=turn.conversation)
        except UNREADABLE:
            return None

    def _remember(self, turn: OpenTurn, history: History | None) -> None:
        """Set the model of a turn, and as much of what was said before as fits."""
        conversations = self.conversations
        if history is None:
            turn.memory_lost = True
            turn.model = turn.question.model or conversations.model_of(turn.owner, turn.conversation)
            return
        conversations.remember_model(turn.owner, turn.conversation, history.model)
        turn.model = turn.question.model or history.model
        window = conversations.window(turn.model)
        exchanges = [one.exchange for one in history.turns]
        fitted = fit(
            window.tokens,
            conversations.settings.answer_tokens,
            window.fixed_tokens,
            exchanges,
            turn.question.count.bound(turn.question.text),
        )
        turn.history = fitted.exchanges
        dropped = fitted.dropped_turns + history.turns_count - len(exchanges)
        tokens = fitted.dropped_tokens + history.tokens - sum(one.tokens for one in exchanges)
        if dropped or tokens:
            turn.pruned = Pruned(dropped, tokens)
            event = HistoryPruned(turn.question.request_id, turn.model, dropped, tokens)
            self._events.emit(event)
        else:
            _count_before(turn, history.turns, window)

    async def _equal(
        self, turn: OpenTurn, history: History | None, asked: Rows, until_s: float
    ) -> Turn | None:
        """Return the turn that has this question's id, as far as it is known.

        Raises StorageUnavailable: there is another one, which cannot be read.
        """
        if history is not None and history.equal is not None:
            bound = statements.ASKED.bind(turn.owner, turn.conversation, clock.wall(), turn.asked_as)
            rows = await self.conversations.read_rows(bound, turn.conversation)
            return turn_of(rows[0], turn.conversation) if rows else None
        return None if asked is None else await self._asked(turn, until_s)  # the question is there already

    async def _asked(self, turn: OpenTurn, until_s: float) -> Turn | None:
        """Return the turn that has this question's id.

        None: there is none, the database is lost, or it has not said so in time.
        """
        bound = statements.ASKED.bind(turn.owner, turn.conversation, clock.wall(), turn.asked_as)
        try:
            async with asyncio.timeout_at(until_s):
                rows = await self._store.read(bound, lane=turn.conversation)
        except (*UNREADABLE, TimeoutError):
            return None
        return turn_of(rows[0], turn.conversation) if rows else None

    async def _end_elsewhere(self, turn: OpenTurn, other: Turn) -> Turn:
        """Wait for the end of a turn that another process answers. Raises StorageUnavailable.

        It is cut if that process is gone, or if it is this one, which does not answer it any more.
        """
        while other.alive and other.worker != self._store.worker:
            if other.ended:
                return other
            await asyncio.sleep(LOOK_S)
            bound = statements.ASKED.bind(turn.owner, turn.conversation, clock.wall(), turn.asked_as)
            rows = await self.conversations.read_rows(bound, turn.conversation)
            if not rows:
                raise not_found()
            other = turn_of(rows[0], turn.conversation)
        if other.ended and other.alive:
            return other
        abandon = statements.ABANDON.bind(
            turn.owner, turn.conversation, other.id, clock.wall(), self._store.worker
        )
        self._store.write([abandon], lane=turn.conversation)
        return replace(other, ended=True, outcome=Outcome.CUT)

    def end(self, turn: OpenTurn, end: TurnEnd) -> PendingWrite | None:
        """Write the end of a turn. None: nobody keeps it: it is none of ours, or too large."""
        count = end.question_count or turn.question.count
        too_large = len(end.answer.encode("utf-8", "replace")) > ANSWER_BYTES_MAX
        now = max(clock.wall(), turn.asked_at)
        turn.view = Turn(
            id=turn.id,
            conversation=turn.conversation,
            asked_as=turn.asked_as,
            question=turn.question.text,
            question_count=count,
            flags=turn.question.flags,
            model=end.model,
            asked_at=turn.asked_at,
            ended=True,
            answer=end.answer or None,
            answer_count=end.answer_count,
            prompt_tokens=end.prompt_tokens if turn.sees_all else None,
            outcome=end.outcome,
            finish=end.finish,
            target=end.target,
            degraded=end.degraded,
            ended_at=now,
            kept=False,
        )
        if turn.unknown:
            return None
        answer = None if too_large else turn.view.answer
        pending = self._store.write([_end_of(turn.view, turn.owner, answer)], lane=turn.conversation)
        return None if too_large else pending

    async def end_kept(self, turn: OpenTurn, end: TurnEnd, left_s: float) -> Turn:
        """Write the end of a turn, and wait whether it is kept: for `left_s` at most."""
        pending = self.end(turn, end)
        assert turn.view is not None, "it has just ended"
        rows = None if pending is None else await pending.kept(min(self._store.keep_s, max(0.0, left_s)))
        turn.view = replace(turn.view, kept=bool(rows and rows[0]))
        return turn.view

    def release(self, turn: OpenTurn) -> None:
        """Tell those who wait for the same question how it has ended."""
        self._open.remove(turn)


def _count_before(turn: OpenTurn, turns: list[RememberedTurn], window: Window) -> None:
    """Note the tokens of the prompt without the question, where a provider has counted them.

    That needs the last turn's prompt to hold all turns before it, none of which ended meanwhile, and the same
    system prompt, which is its model's.
    """
    if not turns:
        turn.known_tokens = None if window.fixed_tokens else 0
        return
    last, answered = turns[-1], turns[-1].exchange.answer_count
    in_turn = all(one.ended_at <= last.asked_at for one in turns[:-1])
    if not in_turn or last.model != turn.model:
        return
    if last.prompt_tokens and answered.source is CountedBy.PROVIDER:
        turn.known_tokens = last.prompt_tokens + answered.tokens
        turn.known_target = last.target


def _end_of(turn: Turn, owner: str, answer: str | None) -> BoundStatement:
    answered, asked = turn.answer_count, turn.question_count
    return statements.END.bind(
        owner,
        turn.conversation,
        turn.id,
        turn.outcome,
        turn.model,
        answer,
        answered.tokens if answer else 0,  # what is not kept is not remembered
        answered.source,
        asked.tokens,
        asked.source,
        turn.prompt_tokens,
        turn.finish,
        turn.target,
        turn.degraded,
        turn.ended_at,
    )
