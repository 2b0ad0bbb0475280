"""Conversations that are kept. `Conversations` reads and changes them; turns.py (Turns) asks and answers.

A lost database costs an answer its memory, and `kept`; what can only be read there is refused meanwhile.
"""

from collections import OrderedDict
from collections.abc import Mapping

from msgspec import Struct

from dub5.service import clock
from dub5.service.config.settings import ConversationSettings
from dub5.service.conversation import statements
from dub5.service.conversation.model import Conversation, Turn
from dub5.service.conversation.rows import CONVERSATION_COLUMNS, conversation_of, turn_of
from dub5.service.errors import ConversationNotFound
from dub5.service.ids import AFTER_ALL, Ids
from dub5.service.store.base import BoundStatement, Row
from dub5.service.store.records import Records
from dub5.service.store.store import PendingWrite, Store

REMEMBERED_MAX = 10_000


class Window(Struct, frozen=True):
    """How much a model reads: the smallest window of its targets.

    `fixed_tokens`: of its personality; `document_tokens`: of the document that the personality has.
    """

    tokens: int
    fixed_tokens: int = 0
    document_tokens: int = 0


class _Known(Struct, frozen=True):
    """What this process remembers of a conversation."""

    model: str
    document: str | None


class ConversationPage(Struct, frozen=True):
    """Conversations, the one that was used last first."""

    conversations: list[Conversation]
    has_more: bool


class TurnPage(Struct, frozen=True):
    """A conversation and some of its turns, the oldest first. `has_more`: there are older ones."""

    conversation: Conversation
    turns: list[Turn]
    has_more: bool


class Conversations:
    """The conversations of all owners. `windows`: by model name, the usual model first.

    `previous`: what a reload of the settings replaces.
    """

    def __init__(
        self,
        store: Store,
        settings: ConversationSettings,
        ids: Ids,
        windows: Mapping[str, Window],
        previous: "Conversations | None" = None,
    ) -> None:
        self.store = store
        self.records = Records(store, "Conversations cannot be read or changed now.", patiently=False)
        self.settings = settings
        self.ids = ids
        self.windows = windows
        self.window_max = max((one.tokens for one in windows.values()), default=settings.context_tokens)
        self.usual_model = next(iter(windows), "")
        self._known: OrderedDict[tuple[str, str], _Known] = previous._known if previous else OrderedDict()

    def window(self, model: str) -> Window:
        """Return the window of a model."""
        return self.windows.get(model) or Window(self.settings.context_tokens)

    def model_of(self, owner: str, id_: str) -> str:
        """Return the model of a conversation as far as this process remembers it, or the usual one."""
        known = self._known.get((owner, id_))
        return self.usual_model if known is None else known.model

    def document_of(self, owner: str, id_: str) -> str | None:
        """Return the document of a conversation as far as this process remembers it."""
        known = self._known.get((owner, id_))
        return None if known is None else known.document

    def remember(self, owner: str, id_: str, model: str, document: str | None) -> None:
        """Remember the model and the document of a conversation, for as long as the database is lost."""
        self._known[owner, id_] = _Known(model, document)
        self._known.move_to_end((owner, id_))
        if len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)

    async def create(self, owner: str, title: str, model: str, document: str | None = None) -> Conversation:
        """Begin a conversation. A lost database is told of it later."""
        id_, now, model = self.ids.new(), clock.wall(), model or self.usual_model
        rows = await self.begin(owner, id_, title, model, now, document).kept(self.store.patience_s)
        return Conversation(id_, title, model, now, now, document, rows is not None)

    def begin(
        self, owner: str, id_: str, title: str, model: str, at: float, document: str | None = None
    ) -> PendingWrite:
        """Write a conversation, unless there is one with this id."""
        self.remember(owner, id_, model, document)
        return self.store.write([statements.CREATE.bind(owner, id_, title, model, at, document)], lane=id_)

    async def list_page(self, owner: str, limit: int, before: str | None) -> ConversationPage:
        """Return the conversations of an owner. Raises StorageUnavailable."""
        first, later = statements.LIST, statements.LIST_BEFORE
        rows, has_more = await self.records.page(first, later, owner, limit, before)
        return ConversationPage([conversation_of(row) for row in rows], has_more)

    async def read(self, owner: str, id_: str, limit: int, before: str | None) -> TurnPage:
        """Return a conversation with its turns. Raises ConversationNotFound, StorageUnavailable."""
        bound = statements.READ.bind(owner, id_, clock.wall(), before or AFTER_ALL, limit + 1)
        rows = await self.records.read(bound, id_)
        if not rows:
            raise not_found()
        turns = [row[CONVERSATION_COLUMNS:] for row in rows if row[CONVERSATION_COLUMNS] is not None]
        return TurnPage(
            conversation_of(rows[0]), [turn_of(row, id_) for row in turns[:limit][::-1]], len(turns) > limit
        )

    async def rename(self, owner: str, id_: str, title: str | None, model: str | None) -> Conversation:
        """Change the title or the model. Raises ConversationNotFound, StorageUnavailable."""
        rows = await self._change(statements.RENAME.bind(owner, id_, title, model), id_)
        conversation = conversation_of(rows[0])
        self.remember(owner, id_, conversation.model, conversation.document)
        return conversation

    async def delete(self, owner: str, id_: str) -> None:
        """Delete a conversation and its turns. Raises ConversationNotFound, StorageUnavailable."""
        await self._change(statements.DELETE.bind(owner, id_), id_)
        self._known.pop((owner, id_), None)

    async def _change(self, bound: BoundStatement, lane: str) -> list[Row]:
        """Make a change that has to find a conversation. Raises ConversationNotFound, StorageUnavailable."""
        (rows,) = await self.records.change([bound], lane)
        if not rows:
            raise not_found()
        return rows


def not_found() -> ConversationNotFound:
    """Return the error for a conversation that the owner does not have."""
    return ConversationNotFound("There is no conversation with this id here.")
