"""The routes of documents. Without `[documents]` in the settings they do not exist.

POST   /v1/documents?name=biology.pdf   upload one: the bytes of the file are the body
GET    /v1/documents                    the owner's, the one used last first
GET    /v1/documents/{id}               one
DELETE /v1/documents/{id}               delete it
"""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

import msgspec
from litestar import Response, delete, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp, Scope

from dub5.service.api.chat import ApiDependencies, Exchange
from dub5.service.api.conversations import LIST_LIMIT, before_of, limit_of, owner_of_request
from dub5.service.api.peer import Peer
from dub5.service.api.routes import NO_STORE, HttpRequest, get_or_head, json_response, part_of
from dub5.service.api.turn_body import owner_of
from dub5.service.api.unreadable import compressed
from dub5.service.documents.documents import Documents, document_not_found
from dub5.service.documents.model import Document
from dub5.service.documents.refusals import ReadResult
from dub5.service.errors import DocumentTooLarge, GatewayError, InvalidRequest, TooLarge
from dub5.service.events import DocumentRead
from dub5.service.model import Caller

PATH = "/v1/documents"
WHERE = "documents"  # in security events
NAME_BYTES_MAX = 4_096


def document_routes(deps: Callable[[], ApiDependencies]) -> list[HTTPRouteHandler]:
    """Create the handlers. `deps` returns the current dependencies."""

    @post(PATH, status_code=201)
    async def upload(request: HttpRequest) -> ASGIApp:
        """Upload a document."""
        return UploadExchange(deps(), documents_of(deps(), request))

    @get_or_head(PATH)
    async def list_documents(request: HttpRequest) -> Response[bytes]:
        """List the documents of the caller."""
        documents, owner = documents_of(deps(), request), owner_of_request(deps(), request)
        page = await documents.list_page(owner, limit_of(request, LIST_LIMIT), before_of(request))
        data = [document_object(one) for one in page.documents]
        return json_response({"object": "list", "data": data, "has_more": page.has_more})

    @get_or_head(f"{PATH}/{{id:str}}")
    async def read_document(request: HttpRequest, id: FromPath[str]) -> Response[bytes]:
        """Return a document, without its text."""
        documents, owner = documents_of(deps(), request, id), owner_of_request(deps(), request)
        return json_response(document_object(await documents.read(owner, id)))

    @delete(f"{PATH}/{{id:str}}")
    async def delete_document(request: HttpRequest, id: FromPath[str]) -> Response[None]:
        """Delete a document."""
        documents, owner = documents_of(deps(), request, id), owner_of_request(deps(), request)
        await documents.delete(owner, id)
        return Response(None, status_code=204, headers=NO_STORE)

    return [upload, list_documents, read_document, delete_document]


def documents_of(deps: ApiDependencies, request: HttpRequest, id_: str | None = None) -> Documents:
    """Return the documents. Raises NotFound without any, DocumentNotFound for what is no id."""
    return part_of(deps.documents, request, id_, document_not_found)


def document_object(document: Document) -> dict[str, Any]:
    """Return a document in the format of the API."""
    return {
        "id": document.id,
        "object": "document",
        "name": document.name,
        "kind": document.kind,
        "bytes": document.size,
        "pages": document.pages,
        "tokens": document.tokens,
        "flags": document.flags,
        "created_at": document.made_at,
        "used_at": document.used_at,
    }


class UploadExchange(Exchange):
    """One upload, as an ASGI application: it is bounded, counted and cut as a chat request is."""

    operation = "upload"

    def __init__(self, deps: ApiDependencies, documents: Documents) -> None:
        super().__init__(deps)
        self._documents = documents
        self._owner = self._name = ""

    def _admit(self) -> GatewayError | None:
        return self.deps.admission.acquire(self)

    def _identify(self, scope: Scope, headers: Mapping[str, str]) -> Caller:
        """Return the caller, once it is clear that the file may be sent.

        Raises Unauthorized, RateLimited, CsrfRefused, SessionRequired; for its head InvalidRequest,
        CompressedBody, DocumentTooLarge.
        """
        caller = super()._identify(scope, headers)
        self._owner = owner_of(caller, self._session)
        self._name = _name(scope)
        if (encoding := headers.get("content-encoding", "").strip().lower()) not in ("", "identity"):
            raise compressed(encoding[:40])
        if headers.get("content-type", "").strip().lower().startswith("multipart/"):
            raise InvalidRequest(
                "The body must be the bytes of the file, not a form that holds it:"
                " curl --data-binary @biology.pdf, and in a page fetch(url, {body: file}).",
                param="content-type",
            )
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > self._documents.settings.bytes_max:
            raise self._too_large(int(length[:20]))
        return caller

    async def _read_body(self, peer: Peer) -> bytes:
        """Return the file. Raises DocumentTooLarge, Overloaded, RequestTimeout, ClientGone."""
        try:
            return await self._read_bounded(peer, self._documents.settings.bytes_max)
        except TooLarge:
            raise self._too_large(0) from None

    def _too_large(self, size: int) -> DocumentTooLarge:
        bytes_max = self._documents.settings.bytes_max
        self.deps.events.emit(DocumentRead("", ReadResult.TOO_LARGE, 0.0, size or bytes_max + 1))
        return DocumentTooLarge(
            f"The file is larger than {_size(bytes_max)}: leave out its pictures, or upload it in parts."
        )

    async def _handle(self, headers: Mapping[str, str], caller: Caller, body: bytes) -> None:
        document = await self._documents.add(self._owner, self._name, body)
        if document.flags:
            self._note_flags(WHERE)
        answer = msgspec.json.encode(document_object(document))
        fixed = {"content-type": "application/json", "content-length": str(len(answer)), **NO_STORE}
        await self._response.send_json(201, {**fixed, "x-request-id": self.id}, answer)

    def _how_far(self) -> str:
        return "the document was not kept"

    def _emit_request_ended(self, outcome: object) -> None:
        """Emit nothing: no model was asked, and `DocumentRead` says what became of the file."""


def _name(scope: Scope) -> str:
    """Return the parameter `name`. Raises InvalidRequest."""
    query = scope["query_string"]
    if len(query) > NAME_BYTES_MAX:
        raise InvalidRequest("name: is too long.", param="name")
    return parse_qs(query.decode("latin-1"), errors="replace").get("name", [""])[-1]


def _size(size: int) -> str:
    return f"{size // 2**20} MiB ({size:,} bytes)" if size % 2**20 == 0 else f"{size:,} bytes"
