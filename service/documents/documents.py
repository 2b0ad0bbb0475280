"""Documents that are kept, as text. `Documents` reads a file, and keeps, lists, returns and deletes its text.

read the file in a process of its own -> look for a prompt injection -> write, and wait until it is committed

A lost database: nothing is uploaded, and what is there cannot be read meanwhile. No file is half kept.
"""

import re

from msgspec import Struct

from dub5.service import clock
from dub5.service.admission.injection import scan_in_steps
from dub5.service.config.settings import DocumentSettings
from dub5.service.documents import statements
from dub5.service.documents.model import Document, DocumentKind
from dub5.service.documents.readers import Readers
from dub5.service.documents.refusals import ReadRefused, ReadResult
from dub5.service.documents.report import ReadText
from dub5.service.errors import (
    DocumentNotFound,
    DocumentTooLarge,
    Overloaded,
    TooManyDocuments,
    UnreadableDocument,
)
from dub5.service.events import DocumentRead, Events
from dub5.service.ids import Ids
from dub5.service.providers.slices import in_turns
from dub5.service.store.base import Row
from dub5.service.store.records import Records
from dub5.service.store.store import Store
from dub5.service.tokens import estimate_tokens

NAME_CHARS_MAX = 120
KEPT_WITHIN_S = 5.0  # a text of 1 MiB takes a database longer than a question does
USED_AGAIN_S = 3_600.0  # how often a text that is read is noted as used
RETRY_AFTER_S = 5.0
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]+")


class DocumentPage(Struct, frozen=True):
    """Documents, the one that was used last first."""

    documents: list[Document]
    has_more: bool


class Documents:
    """The documents of all owners. `scans`: whether their texts are searched for a prompt injection."""

    def __init__(
        self,
        store: Store,
        settings: DocumentSettings,
        ids: Ids,
        readers: Readers,
        events: Events,
        *,
        scans: bool = True,
    ) -> None:
        self.settings = settings
        self.ids = ids
        self.readers = readers
        self._store = store
        self._records = Records(store, "Documents cannot be kept or read now.")
        self._events = events
        self._scans = scans

    async def add(self, owner: str, name: str, data: bytes) -> Document:
        """Read a file, and keep its text: it is committed when this returns.

        Raises UnreadableDocument, DocumentTooLarge, TooManyDocuments, Overloaded, StorageUnavailable.
        """
        await self._check_room(owner)
        read = await self._read(data, name)
        flags: tuple[str, ...] = ()
        if self._scans:
            flags = await in_turns(scan_in_steps(read.text))
        now = clock.wall()
        document = Document(
            self.ids.new(),
            shown_name(name),
            read.kind,
            len(data),
            read.pages,
            estimate_tokens([read.text]),
            flags,
            now,
            now,
        )
        await self._keep(owner, document, read.text)
        return document

    async def list_page(self, owner: str, limit: int, before: str | None = None) -> DocumentPage:
        """Return the documents of an owner. Raises StorageUnavailable."""
        first, later = statements.LIST, statements.LIST_BEFORE
        rows, has_more = await self._records.page(first, later, owner, limit, before)
        return DocumentPage([_document_of(row) for row in rows], has_more)

    async def read(self, owner: str, id_: str) -> Document:
        """Return a document. Raises DocumentNotFound, StorageUnavailable."""
        rows = await self._records.read(statements.READ.bind(owner, id_), owner)
        if not rows:
            raise document_not_found()
        return _document_of(rows[0])

    async def text(self, owner: str, id_: str) -> tuple[Document, str]:
        """Return a document and its text. Raises DocumentNotFound, StorageUnavailable."""
        rows = await self._records.read(statements.TEXT.bind(owner, id_), owner)
        if not rows:
            raise document_not_found()
        document = _document_of(rows[0])
        self._note_use(owner, document)
        return document, str(rows[0][-1])

    async def use(self, owner: str, id_: str) -> None:
        """Note that a document is used, whose text is known. Raises DocumentNotFound, StorageUnavailable."""
        self._note_use(owner, await self.read(owner, id_))

    def _note_use(self, owner: str, document: Document) -> None:
        now = clock.wall()
        if document.used_at < now - USED_AGAIN_S:
            self._store.write([statements.USE.bind(owner, document.id, now)], lane=owner)

    async def delete(self, owner: str, id_: str) -> None:
        """Delete a document. Raises DocumentNotFound, StorageUnavailable."""
        deletion = statements.DELETE.bind(owner, id_)
        if not (await self._records.change([deletion], owner, KEPT_WITHIN_S))[0]:
            raise document_not_found()

    async def _check_room(self, owner: str) -> None:
        """Raise TooManyDocuments or StorageUnavailable before a file is read that could not be kept."""
        most = self.settings.per_owner_max
        if len(await self._records.read(statements.COUNTED.bind(owner, most), owner)) >= most:
            raise self._too_many()

    async def _read(self, data: bytes, name: str) -> ReadText:
        """Return the text. Raises UnreadableDocument, DocumentTooLarge, Overloaded."""
        began_s, kind, result, why = clock.now(), "", ReadResult.CANCELLED, ""
        try:
            read = await self.readers.read(data, name)
            kind, result = read.kind, ReadResult.READ
            return read
        except ReadRefused as refused:
            result, why = refused.result, refused.why
            raise _error_of(refused) from None
        finally:
            self._events.emit(DocumentRead(kind, result, clock.now() - began_s, len(data), why))

    async def _keep(self, owner: str, document: Document, text: str) -> None:
        """Write a document. Raises TooManyDocuments, StorageUnavailable: then it is not there."""
        lock = statements.LOCK_OWNER.bind(owner, document.made_at)
        create = statements.CREATE.bind(
            owner,
            document.id,
            document.name,
            document.kind,
            document.size,
            document.pages,
            document.tokens,
            ",".join(document.flags),
            text,
            document.made_at,
            self.settings.per_owner_max,
        )
        proof = statements.READ.bind(owner, document.id)
        withdrawal = statements.DELETE.bind(owner, document.id)
        rows = await self._records.make([lock, create, proof], [withdrawal], owner, KEPT_WITHIN_S)
        if not rows[2]:
            raise self._too_many()

    def _too_many(self) -> TooManyDocuments:
        return TooManyDocuments(
            f"There are {self.settings.per_owner_max} documents of yours here already, which is the most."
        )


def shown_name(name: str) -> str:
    """Return what a document is called: without controls, and not too long. It is no path to anything."""
    return " ".join(_CONTROL.sub(" ", name).split())[:NAME_CHARS_MAX].strip() or "document"


def document_not_found() -> DocumentNotFound:
    """Return the error for a document that the owner does not have."""
    return DocumentNotFound("There is no document with this id here.")


def _error_of(refused: ReadRefused) -> UnreadableDocument | DocumentTooLarge | Overloaded:
    if refused.result is ReadResult.OVERLOADED:
        return Overloaded(refused.sentence, retry_after_s=RETRY_AFTER_S)
    if refused.result is ReadResult.TOO_LARGE:
        return DocumentTooLarge(refused.sentence)
    return UnreadableDocument(refused.sentence)


def _document_of(row: Row) -> Document:
    id_, name, kind, size, pages, tokens, flags, made_at, used_at = row[:9]
    return Document(
        str(id_),
        str(name),
        DocumentKind(str(kind)),
        int(size or 0),
        int(pages or 0),
        int(tokens or 0),
        tuple(str(flags).split(",")) if flags else (),
        float(made_at or 0),
        float(used_at or 0),
    )
