"""Decks of flashcards. `Decks` makes them from documents, and lists, returns, retries and deletes them.

document -> parts (chunks.py) -> a deck, its parts and a job in one transaction -> DeckKind, step by step

A deck keeps the texts of its parts, so that it outlives its document, and can ask again for what has failed.
"""

from collections.abc import Sequence
from pathlib import PurePosixPath
from random import Random

import msgspec
from msgspec import Struct

from dub5.service import clock
from dub5.service.admission.places import NoPlace, Places
from dub5.service.documents.documents import Documents
from dub5.service.documents.statements import LOCK_OWNER
from dub5.service.errors import (
    DeckNotFound,
    Overloaded,
    TooManyDecks,
    UnreadableDocument,
)
from dub5.service.ids import Ids
from dub5.service.jobs.jobs import Jobs
from dub5.service.jobs.model import Job
from dub5.service.jobs.rows import job_of
from dub5.service.providers.slices import in_turns
from dub5.service.store.base import BoundStatement, Row
from dub5.service.store.records import Records
from dub5.service.store.store import Store
from dub5.service.study import statements
from dub5.service.study.cards import Flashcard, spread
from dub5.service.study.chunks import TextPart, cut_in_steps
from dub5.service.study.deck_kind import KIND
from dub5.service.study.model import CardSource, Deck, DeckPart
from dub5.service.tokens import estimate_tokens

PER_OWNER_MAX = 100
KEPT_WITHIN_S = 5.0  # 200 parts take a database longer than a question does
USED_AGAIN_S = 3_600.0  # how often a deck that is read is noted as used
RETRY_AFTER_S = 5.0
MADE_AT_ONCE = 2  # each holds a whole text, and the texts of its parts
WAITING_MAX, WAIT_S = 100, 10.0
DECK_COLUMNS = 8


class DeckPage(Struct, frozen=True):
    """Decks, the newest first."""

    decks: list[Deck]
    has_more: bool


class Decks:
    """The decks of all owners. `before`: those of the settings before, which may still be making some."""

    def __init__(
        self, store: Store, documents: Documents, jobs: Jobs, rng: Random, before: "Decks | None" = None
    ) -> None:
        self._ids: Ids = before._ids if before else Ids(rng)
        self._places: Places = before._places if before else Places(MADE_AT_ONCE, WAITING_MAX, WAIT_S)
        self._store = store
        self._records = Records(store, "Decks cannot be made, read or changed now.")
        self._documents = documents
        self._jobs = jobs

    async def create(self, owner: str, document: str, title: str, model: str, wanted: int) -> Deck:
        """Make a deck of at most `wanted` cards from a document. It is committed; its cards come later.

        Raises DocumentNotFound, UnreadableDocument, TooManyDecks, StorageUnavailable, Overloaded.
        """
        try:
            async with self._places.take():
                return await self._create(owner, document, title, model, wanted)
        except NoPlace:
            raise Overloaded(
                "Many decks are being made at this moment.", retry_after_s=RETRY_AFTER_S
            ) from None

    async def _create(self, owner: str, document: str, title: str, model: str, wanted: int) -> Deck:
        counted = statements.COUNTED.bind(owner, PER_OWNER_MAX)
        if len(await self._records.read(counted, owner)) >= PER_OWNER_MAX:
            raise _too_many()
        source, text = await self._documents.text(owner, document)
        chosen = await _parts(text, wanted)
        id_, now = self._ids.new(), clock.wall()
        job = self._jobs.new(owner, KIND, id_, len(chosen))
        deck = Deck(id_, title or _title_of(source.name), document, model, now, now, len(chosen), 0, job)
        await self._keep(owner, deck, job, chosen)
        self._jobs.wake()
        return deck

    async def list_page(self, owner: str, limit: int, before: str | None = None) -> DeckPage:
        """Return the decks of an owner. Raises StorageUnavailable."""
        first, later = statements.LIST, statements.LIST_BEFORE
        rows, has_more = await self._records.page(first, later, owner, limit, before)
        return DeckPage([_deck_of(row) for row in rows], has_more)

    async def read(self, owner: str, id_: str) -> tuple[Deck, list[DeckPart]]:
        """Return a deck and its parts. Raises DeckNotFound, StorageUnavailable."""
        deck, now = await self._deck(owner, id_), clock.wall()
        rows = await self._records.read(statements.PARTS.bind(owner, id_), id_)
        if deck.used_at < now - USED_AGAIN_S:
            self._store.write([statements.USE.bind(owner, id_, now)], lane=id_)
        return deck, [_part_of(row) for row in rows]

    async def retry(self, owner: str, id_: str) -> Deck:
        """Ask again for the parts without a model's cards, unless that is being done, or there are none.

        Raises DeckNotFound, StorageUnavailable.
        """
        deck, parts = await self.read(owner, id_)
        left = sum(part.source is not CardSource.MODEL for part in parts)
        rows = await self._records.read(statements.JOB_OF.bind(owner, id_), id_)
        if not left or not rows or (deck.job is not None and not deck.job.ended):
            return deck
        job = self._jobs.new(owner, KIND, id_, left)
        take_over = statements.TAKE_OVER.bind(owner, id_, job.id, rows[0][0])
        await self._records.change([take_over, self._jobs.creation(job)], id_, KEPT_WITHIN_S)
        self._jobs.wake()
        return await self._deck(owner, id_)

    async def delete(self, owner: str, id_: str) -> None:
        """Delete a deck with its cards, and its jobs. Raises DeckNotFound, StorageUnavailable."""
        if not (await self._records.change(self._deletion(owner, id_), id_, KEPT_WITHIN_S))[0]:
            raise deck_not_found()

    async def _keep(self, owner: str, deck: Deck, job: Job, parts: "Sequence[ChosenPart]") -> None:
        """Write a deck, its parts and its job. Raises TooManyDecks, StorageUnavailable."""
        made = creation(owner, deck, job.id, parts)
        bounds = [*made, self._jobs.creation(job), statements.JOB_OF.bind(owner, deck.id)]
        withdrawal = self._deletion(owner, deck.id)
        rows = await self._records.make(bounds, withdrawal, deck.id, KEPT_WITHIN_S)
        if not rows[-1]:
            self._store.write(withdrawal, lane=deck.id)
            raise _too_many()

    def _deletion(self, owner: str, id_: str) -> list[BoundStatement]:
        return [statements.DELETE.bind(owner, id_), self._jobs.deletion(owner, id_)]

    async def _deck(self, owner: str, id_: str) -> Deck:
        rows = await self._records.read(statements.READ.bind(owner, id_), id_)
        if not rows:
            raise deck_not_found()
        return _deck_of(rows[0])


class ChosenPart(Struct, frozen=True):
    """A part of a document, and how many cards it is asked for."""

    part: TextPart
    wanted: int


def creation(owner: str, deck: Deck, job: str, parts: Sequence[ChosenPart]) -> list[BoundStatement]:
    """Return what keeps a deck and its parts; JOB_OF in the same transaction says whether it did."""
    values = (deck.id, deck.document, deck.title, deck.model, job, deck.made_at, PER_OWNER_MAX)
    add = [
        statements.ADD_PART.bind(owner, deck.id, number, one.part.page, one.wanted, one.part.text)
        for number, one in enumerate(parts, 1)
    ]
    lock = LOCK_OWNER.bind(owner, deck.made_at)  # decks are counted one after the other, as documents are
    return [lock, statements.CREATE.bind(owner, *values), *add]


async def _parts(text: str, wanted: int) -> list[ChosenPart]:
    """Return the parts that are asked, in order. Raises UnreadableDocument."""
    parts = await in_turns(cut_in_steps(text))
    if not parts:
        raise UnreadableDocument("The document holds no text to make cards from.", param="document")
    chosen = spread(wanted, [estimate_tokens([part.text]) for part in parts])
    return [ChosenPart(parts[number], count) for number, count in chosen.items()]


def deck_not_found() -> DeckNotFound:
    """Return the error for a deck that the owner does not have."""
    return DeckNotFound("There is no deck with this id here.")


def _title_of(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).stem.strip() or name


def _too_many() -> TooManyDecks:
    return TooManyDecks(f"There are {PER_OWNER_MAX} decks of yours here already, which is the most.")


def _deck_of(row: Row) -> Deck:
    id_, title, document, model, made_at, used_at, parts, template_parts = row[:DECK_COLUMNS]
    job = row[DECK_COLUMNS:]
    return Deck(
        str(id_),
        str(title),
        str(document),
        str(model),
        float(made_at or 0),
        float(used_at or 0),
        int(parts or 0),
        int(template_parts or 0),
        None if job[0] is None else job_of(job),
    )


def _part_of(row: Row) -> DeckPart:
    number, page, cards, source = row
    return DeckPart(
        int(number or 0),
        int(page or 0),
        [] if cards is None else msgspec.json.decode(str(cards), type=list[Flashcard]),
        None if source is None else CardSource(str(source)),
    )
