"""A service with documents, in virtual time: files are read in this process, as no other can be started."""

import asyncio
from collections.abc import Mapping
from typing import Any

from dub5.service.config.settings import DocumentSettings
from dub5.service.documents.extract import extract
from dub5.service.documents.report import ReadText
from dub5.simulators.virtual import AppResponse
from tests.support.conversation_world import ConversationWorld

DOCUMENTS = "/v1/documents"
READ_S = 1.0
FILE = {"content-type": "application/octet-stream"}


async def read_here(data: bytes, name: str = "") -> ReadText:
    """Return the text of a file after READ_S. Raises ReadRefused."""
    await asyncio.sleep(READ_S)
    return extract(data, name)


class DocumentWorld(ConversationWorld):
    """A service whose pages have documents, too: `async with DocumentWorld() as world`."""

    def __init__(
        self, documents: DocumentSettings | None = None, read_file: Any = read_here, **more: Any
    ) -> None:
        tables = {"documents": documents or DocumentSettings()}
        options, given = more.pop("options", {}), more.pop("service_options", {})
        super().__init__(options=tables | options, service_options=given | {"read_file": read_file}, **more)

    async def upload(
        self, data: bytes, name: str = "notes.txt", who: str = "me", headers: Mapping[str, str] = {}
    ) -> AppResponse:
        """Upload a file as the page of a visitor does."""
        return await self.client.request(
            "POST", f"{DOCUMENTS}?name={name}", headers=self.signed(who, {**FILE, **headers}), body=data
        )

    async def document(self, data: bytes = b"Hello.", name: str = "notes.txt", who: str = "me") -> Any:
        """Upload a file and return the document."""
        made = await self.upload(data, name, who)
        assert made.status == 201, made.body
        return made.json()

    async def documents(
        self, method: str = "GET", path: str = "", *, who: str = "me", **more: Any
    ) -> AppResponse:
        """Send another request to the routes of documents."""
        headers = self.signed(who, more.pop("headers", {}))
        return await self.client.request(method, f"{DOCUMENTS}{path}", headers=headers, **more)
