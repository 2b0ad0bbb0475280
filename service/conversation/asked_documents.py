"""The documents that conversations ask about, ready to be asked about; the last few are remembered.

A document that was deleted is not asked about any more: its conversations can be read, and are told so.
While the database is lost, those that are remembered are asked about all the same.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING

from dub5.service.documents.documents import Documents, document_not_found
from dub5.service.errors import DocumentNotFound, StorageUnavailable
from dub5.service.ids import is_id
from dub5.service.optional_parts import load_part
from dub5.service.providers.slices import in_turns

if TYPE_CHECKING:  # loaded by name, where a document is asked about
    from dub5.service.grounding.grounding import Grounding

REMEMBERED_MAX = 8  # each with its text


class AskedDocuments:
    """The documents of conversations. `previous`: what a reload of the settings replaces."""

    def __init__(self, documents: Documents | None, previous: "AskedDocuments | None" = None) -> None:
        self._documents = documents
        self._known: OrderedDict[tuple[str, str], Grounding] = previous._known if previous else OrderedDict()

    async def check(self, owner: str, id_: str) -> None:
        """Do nothing if the owner has this document. Raises DocumentNotFound, StorageUnavailable."""
        if self._documents is None:
            raise DocumentNotFound("Documents are not turned on here.", param="document")
        if not is_id(id_):
            raise document_not_found()
        await self._documents.read(owner, id_)

    async def grounding(self, owner: str, id_: str) -> "Grounding":
        """Return the document of a conversation. Raises DocumentNotFound, StorageUnavailable."""
        key = owner, id_
        try:
            if self._documents is None:
                raise DocumentNotFound("Documents are not turned on here any more.")
            if (known := self._known.get(key)) is None:
                _, text = await self._documents.text(owner, id_)
            else:
                await self._documents.use(owner, id_)  # it may be deleted; its text does not change
        except DocumentNotFound:
            self._known.pop(key, None)
            raise DocumentNotFound(
                "The document of this conversation was deleted: begin a conversation with another one."
            ) from None
        except StorageUnavailable:
            if key not in self._known:
                raise
            return self._known[key]
        asked: Grounding
        if known is None:
            asked = await in_turns(load_part("grounding").of(text))
        else:
            asked = known
        self._known[key] = asked
        self._known.move_to_end(key)
        if len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)
        return asked
