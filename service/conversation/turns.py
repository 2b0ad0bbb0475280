"""Turns: a question is opened, asked with what was said before, and ended. An equal question is asked once.

find -> claim -> open (history is read while the question is written) -> end -> release      resume, stop
"""

import asyncio

import msgspec
from msgspec.structs import replace

from dub5.service import clock
from dub5.service.conversation import statements
from dub5.service.conversation.asked_documents import AskedDocuments
from dub5.service.conversation.conversations import Conversations, Window, not_found
from dub5.service.conversation.history import fit
from dub5.service.conversation.live_turn import Finished, LiveTurn, TurnListener
from dub5.service.conversation.live_turns import LiveTurns
from dub5.service.conversation.model import CountedBy, NewQuestion, Pruned, Turn, TurnEnd
from dub5.service.conversation.open_turn import OpenTurn
from dub5.service.conversation.rows import TURN_COLUMNS, History, RememberedTurn, history_of, turn_of
from dub5.service.errors import ConversationNotFound, InvalidRequest, Overloaded
from dub5.service.events import Events, HistoryPruned, ResumedFrom, TurnResumed
from dub5.service.model import Outcome
from dub5.service.store.base import BoundStatement, Row
from dub5.service.store.store import StoreLost
from dub5.service.timeouts import NEVER

TITLE_CHARS = 60
ANSWER_BYTES_MAX = 1024 * 1024
LOOK_S = 1.0  # how often the database is asked about a turn of another process
WATCHED_S = 5.0  # a turn goes on so long after somebody elsewhere has looked for its end
WAITING_ELSEWHERE_MAX = 1_000  # each asks the database every LOOK_S
ELSEWHERE = "Another process answers the turn: it ends when nobody listens to it any more."

Rows = list[list[Row]] | None


class Turns:
    """The turns of all owners. `previous`: what a reload of the settings replaces."""

    def __init__(
        self, conversations: Conversations, events: Events, live: LiveTurns, documents: AskedDocuments
    ) -> None:
        self.conversations = conversations
        self.documents = documents
        self.live = live
        self._store = conversations.store
        self._events = events
        self._waiting_elsewhere = 0

    def find(self, owner: str, conversation: str, asked_as: str) -> LiveTurn | None:
        """Return the turn of an equal question, as far as this process knows it."""
        return self.live.find((owner, conversation, asked_as))

    def claim(self, owner: str, conversation: str, question: NewQuestion) -> OpenTurn:
        """Return the turn of a question. Call it right after `find`, and `release` at its end."""
        id_ = self.conversations.ids.new()
        live = LiveTurn(id_, (owner, conversation, question.asked_as or id_))
        self.live.add(live)
        return OpenTurn(live, question, clock.wall())

    async def open(self, turn: OpenTurn) -> Turn | None:
        """Write the question and read what was said before. Return the turn that had the same question.

        Waits for the database for at most its patience. Raises ConversationNotFound, DocumentNotFound,
        StorageUnavailable.
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
            return await self._end_elsewhere(turn.owner, equal)
        turn.kept = turn.kept or equal is not None
        where = turn.owner, turn.conversation
        document = self.conversations.document_of(*where) if history is None else history.document
        if document is not None:
            turn.grounding = await self.documents.grounding(turn.owner, document)
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
        except StoreLost:
            return None

    def _remember(self, turn: OpenTurn, history: History | None) -> None:
        """Set the model of a turn, and as much of what was said before as fits."""
        conversations = self.conversations
        if history is None:
            turn.memory_lost = True
            turn.model = turn.question.model or conversations.model_of(turn.owner, turn.conversation)
            return
        conversations.remember(turn.owner, turn.conversation, history.model, history.document)
        turn.model = turn.question.model or history.model
        window = conversations.window(turn.model)
        exchanges = [one.exchange for one in history.turns]
        fitted = fit(
            window.tokens,
            conversations.settings.answer_tokens,
            _fixed_tokens(turn, window),
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
        elif turn.grounding is None:
            _count_before(turn, history.turns, window)

    async def _equal(
        self, turn: OpenTurn, history: History | None, asked: Rows, until_s: float
    ) -> Turn | None:
        """Return the turn that has this question's id, as far as it is known.

        Raises StorageUnavailable: there is another one, which cannot be read.
        """
        if history is not None and history.equal is not None:
            bound = statements.ASKED.bind(turn.owner, turn.conversation, clock.wall(), turn.asked_as)
            rows = await self.conversations.records.read(bound, turn.conversation)
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
        except (StoreLost, TimeoutError):
            return None
        return turn_of(rows[0], turn.conversation) if rows else None

    async def _end_elsewhere(self, owner: str, other: Turn) -> Turn:
        """Wait for the end of a turn that another process answers, and tell that one so.

        It is cut if that process is gone, or if it is this one, which does not answer it any more.
        Raises StorageUnavailable, Overloaded.
        """
        if self._waiting_elsewhere >= WAITING_ELSEWHERE_MAX:
            raise Overloaded("Too many turns of other processes are waited for.", retry_after_s=WATCHED_S)
        self._waiting_elsewhere += 1
        try:
            other = await self._watch(owner, other)
        finally:
            self._waiting_elsewhere -= 1
        if other.ended and other.alive:
            return other
        where = owner, other.conversation
        abandon = statements.ABANDON.bind(*where, other.id, clock.wall(), self._store.worker)
        self._store.write([abandon], lane=other.conversation)
        return replace(other, ended=True, outcome=Outcome.CUT)

    async def _watch(self, owner: str, other: Turn) -> Turn:
        """Return a turn of another process once one of both has ended. Raises StorageUnavailable."""
        where = owner, other.conversation
        while other.alive and other.worker != self._store.worker and not other.ended:
            watch = statements.WATCH.bind(*where, other.id, clock.wall() + WATCHED_S)
            self._store.write([watch], lane=other.conversation)
            await asyncio.sleep(LOOK_S)
            asked = statements.ASKED.bind(*where, clock.wall(), other.asked_as)
            rows = await self.conversations.records.read(asked, other.conversation)
            if not rows:
                raise not_found()
            other = turn_of(rows[0], other.conversation)
        return other

    async def is_watched(self, live: LiveTurn) -> bool:
        """Return whether another process waits for the end of this turn."""
        owner, conversation, _ = live.key
        bound = statements.WATCHED.bind(owner, conversation, live.id, clock.wall())
        try:
            return bool(await self._store.read(bound, lane=conversation))
        except StoreLost:
            return False

    async def resume(self, owner: str, id_: str, after: int = 0) -> TurnListener:
        """Return a listener of a turn, wherever it is: answered here, or elsewhere, or over.

        Waits for the end of one that another process answers. Raises ConversationNotFound,
        StorageUnavailable, InvalidRequest, Overloaded.
        """
        live, source = self.live.get(owner, id_), ResumedFrom.MEMORY
        if live is None:
            turn, source = await self.read(owner, id_), ResumedFrom.DATABASE
            if not (turn.ended and turn.alive):
                turn, source = await self._end_elsewhere(owner, turn), ResumedFrom.OTHER_PROCESS
            live = LiveTurn.of(turn, owner)
        listener = live.listen(after, resumed=True)
        self._events.emit(TurnResumed(id_, source))
        return listener

    async def view(self, owner: str, id_: str) -> Turn:
        """Return a turn as it is now. Raises ConversationNotFound, StorageUnavailable."""
        live = self.live.get(owner, id_)
        if live is not None and isinstance(live.over, Finished):
            return live.over.view
        return await self.read(owner, id_)

    async def read(self, owner: str, id_: str) -> Turn:
        """Return a turn as the database has it. Raises ConversationNotFound, StorageUnavailable."""
        rows = await self.conversations.records.read(statements.TURN.bind(owner, id_, clock.wall()), id_)
        if not rows:
            raise turn_not_found()
        return turn_of(rows[0], str(rows[0][TURN_COLUMNS]))

    async def stop(self, owner: str, id_: str) -> None:
        """End a turn, whoever listens. One that has ended stays as it is.

        Raises ConversationNotFound, StorageUnavailable, InvalidRequest.
        """
        live = self.live.get(owner, id_)
        if live is not None:
            live.stop()
        elif not (await self.read(owner, id_)).ended:
            raise InvalidRequest(ELSEWHERE, param="turn")

    def end(self, turn: OpenTurn, end: TurnEnd) -> None:
        """Write the end of a turn, if it is ours; without its answer, if that is too large."""
        count = end.question_count or turn.question.count
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
            grounding=end.grounding,
            kept=False,
        )
        if turn.unknown:
            return
        answer = None if _is_too_large(turn.view.answer) else turn.view.answer
        turn.end = self._store.write([_end_of(turn.view, turn.owner, answer)], lane=turn.conversation)

    async def end_kept(self, turn: OpenTurn, end: TurnEnd, left_s: float) -> Turn:
        """Write the end of a turn, and wait whether it is kept: for `left_s` at most."""
        self.end(turn, end)
        assert turn.view is not None, "it has just ended"
        turn.view = await self.kept(turn, turn.view, left_s)
        return turn.view

    async def kept(self, turn: OpenTurn, view: Turn, left_s: float = NEVER) -> Turn:
        """Return the view of a turn that has ended, once it is known whether it is kept."""
        if turn.end is None or _is_too_large(view.answer):
            return view
        rows = await turn.end.kept(min(self._store.keep_s, max(0.0, left_s)))
        return replace(view, kept=bool(rows and rows[0]))

    def release(self, turn: OpenTurn) -> None:
        """Let the turn, which is over, be found for a while; or no more, if it is none of ours."""
        if turn.unknown:
            self.live.remove(turn.live)
        else:
            self.live.remember(turn.live, turn.end)


def _is_too_large(answer: str | None) -> bool:
    return (
        answer is not None and len(answer) > ANSWER_BYTES_MAX / 4 and len(answer.encode()) > ANSWER_BYTES_MAX
    )


def turn_not_found() -> ConversationNotFound:
    """Return the error for a turn that the owner does not have."""
    return ConversationNotFound("There is no turn with this id here.")


def _fixed_tokens(turn: OpenTurn, window: Window) -> int:
    """Return the tokens that a prompt has beside the turns: of the personality, and of a document."""
    if turn.grounding is None:
        return window.fixed_tokens + window.document_tokens
    return window.fixed_tokens + turn.grounding.document.tokens


def _count_before(turn: OpenTurn, turns: list[RememberedTurn], window: Window) -> None:
    """Note the tokens of the prompt without the question, where a provider has counted them.

    That needs the last turn's prompt to hold all turns before it, none of which ended meanwhile, and the same
    system prompt, which is its model's.
    """
    if not turns:
        turn.known_tokens = None if window.fixed_tokens or window.document_tokens else 0
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
        None if turn.grounding is None else msgspec.json.encode(turn.grounding).decode(),
        turn.ended_at,
    )
