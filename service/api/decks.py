"""The routes of decks of flashcards. Without `[documents]` in the settings they do not exist.

POST   /v1/decks                  make one from a document; a job makes its cards
GET    /v1/decks                  the owner's, the newest first
GET    /v1/decks/{id}             one with its cards, as far as they are made
POST   /v1/decks/{id}/retry       ask again for the parts that no model has made cards of
DELETE /v1/decks/{id}             delete it
GET    /v1/decks/{id}/cards.csv   its cards for a spreadsheet
GET    /v1/decks/{id}/cards.txt   its cards for Anki
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from litestar import Response, delete, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from msgspec import Meta, Struct

from dub5.service.admission.sanitize import clean
from dub5.service.api.chat import ApiDependencies
from dub5.service.api.client_address import scope_address
from dub5.service.api.conversations import LIST_LIMIT, before_of, limit_of, owner_of_request
from dub5.service.api.jobs import job_object
from dub5.service.api.routes import NO_STORE, HttpRequest, get_or_head, json_response, part_of
from dub5.service.api.schema import read_json
from dub5.service.api.small_body import read_small
from dub5.service.api.turn_body import TITLE_CHARS_MAX, Model, owner_of
from dub5.service.documents.documents import document_not_found
from dub5.service.errors import InvalidRequest
from dub5.service.ids import is_id
from dub5.service.study.decks import Decks, deck_not_found
from dub5.service.study.export import as_anki, as_csv, attachment
from dub5.service.study.model import CARDS_MAX, Deck, DeckPart, deck_cards

PATH = "/v1/decks"
BODY_BYTES_MAX = 16 * 1024
DEPTH_MAX = 8


class DeckBody(Struct, frozen=True, forbid_unknown_fields=True):
    """What a deck is made of. `cards`: how many at most."""

    document: str
    title: str | None = None
    model: Model | None = None
    cards: Annotated[int, Meta(ge=1, le=CARDS_MAX)] = 40


_BODY = msgspec.json.Decoder(DeckBody)


def deck_routes(deps: Callable[[], ApiDependencies]) -> list[HTTPRouteHandler]:
    """Create the handlers. `deps` returns the current dependencies."""

    @post(PATH, status_code=202)
    async def make(request: HttpRequest) -> Response[bytes]:
        """Make a deck."""
        decks, owner, limits = await _counted(deps(), request)
        given = await _body(deps(), request)
        model = given.model or next(iter(deps().gateway.routes))
        deps().gateway.route(model)
        made = await decks.create(owner, given.document, given.title or "", model, given.cards)
        return json_response(deck_object(made), 202, limits)

    @get_or_head(PATH)
    async def list_decks(request: HttpRequest) -> Response[bytes]:
        """List the decks of the caller."""
        decks, owner = _opened(deps(), request)
        page = await decks.list_page(owner, limit_of(request, LIST_LIMIT), before_of(request))
        data = [deck_object(one) for one in page.decks]
        return json_response({"object": "list", "data": data, "has_more": page.has_more})

    @get_or_head(f"{PATH}/{{id:str}}")
    async def read_deck(request: HttpRequest, id: FromPath[str]) -> Response[bytes]:
        """Return a deck with its cards."""
        decks, owner = _opened(deps(), request, id)
        return json_response(deck_object(*await decks.read(owner, id)))

    @post(f"{PATH}/{{id:str}}/retry", status_code=202)
    async def retry(request: HttpRequest, id: FromPath[str]) -> Response[bytes]:
        """Ask again for the parts that no model has made cards of."""
        decks, owner, limits = await _counted(deps(), request, id)
        return json_response(deck_object(await decks.retry(owner, id)), 202, limits)

    @delete(f"{PATH}/{{id:str}}")
    async def remove_deck(request: HttpRequest, id: FromPath[str]) -> Response[None]:
        """Delete a deck."""
        decks, owner = _opened(deps(), request, id)
        await decks.delete(owner, id)
        return Response(None, status_code=204, headers=NO_STORE)

    return [make, list_decks, read_deck, retry, remove_deck, *_export_routes(deps)]


def _export_routes(deps: Callable[[], ApiDependencies]) -> list[HTTPRouteHandler]:
    @get_or_head(f"{PATH}/{{id:str}}/cards.csv")
    async def csv_file(request: HttpRequest, id: FromPath[str]) -> Response[bytes]:
        """Return the cards for a spreadsheet."""
        decks, owner = _opened(deps(), request, id)
        deck, parts = await decks.read(owner, id)
        return _file(as_csv(deck_cards(parts)), deck, "csv", "text/csv")

    @get_or_head(f"{PATH}/{{id:str}}/cards.txt")
    async def anki_file(request: HttpRequest, id: FromPath[str]) -> Response[bytes]:
        """Return the cards for Anki."""
        decks, owner = _opened(deps(), request, id)
        deck, parts = await decks.read(owner, id)
        return _file(as_anki(deck_cards(parts), deck.title), deck, "txt", "text/plain")

    return [csv_file, anki_file]


def deck_object(deck: Deck, parts: Sequence[DeckPart] | None = None) -> dict[str, Any]:
    """Return a deck in the format of the API; with its cards, if its parts are given."""
    cards = {} if parts is None else {"cards": deck_cards(parts)}
    return {
        "id": deck.id,
        "object": "deck",
        "title": deck.title,
        "document": deck.document,
        "model": deck.model,
        "job": None if deck.job is None else job_object(deck.job),
        **cards,
        "parts": deck.parts,
        "template_parts": deck.template_parts,
        "created_at": deck.made_at,
    }


def parse_deck(headers: Mapping[str, str], body: bytes) -> DeckBody:
    """Return what a deck is made of. Raises InvalidRequest, CompressedBody, DocumentNotFound."""
    given, _ = read_json(headers, body, DEPTH_MAX, _BODY)
    if not is_id(given.document):
        raise document_not_found()
    title = " ".join(clean(given.title or "").split())
    if len(title) > TITLE_CHARS_MAX:
        raise InvalidRequest(f"title: must have at most {TITLE_CHARS_MAX} characters.", param="title")
    return msgspec.structs.replace(given, title=title)


async def _body(deps: ApiDependencies, request: HttpRequest) -> DeckBody:
    """Return the body. Raises InvalidRequest, TooLarge, RequestTimeout, CompressedBody, DocumentNotFound."""
    body = await read_small(request, BODY_BYTES_MAX, deps.server.client_stall_s)
    return parse_deck(dict(request.headers), body)


def _opened(deps: ApiDependencies, request: HttpRequest, id_: str | None = None) -> tuple[Decks, str]:
    """Return the decks, and whose they are.

    Raises NotFound without decks, DeckNotFound for what is no id, Unauthorized, SessionRequired, CsrfRefused.
    """
    return part_of(deps.decks, request, id_, deck_not_found), owner_of_request(deps, request)


async def _counted(
    deps: ApiDependencies, request: HttpRequest, id_: str | None = None
) -> tuple[Decks, str, Mapping[str, str]]:
    """Count a request that has a model asked. Return the decks, whose they are, and what tells its limits.

    Raises what `_opened` raises, and RateLimited.
    """
    decks = part_of(deps.decks, request, id_, deck_not_found)
    caller, session = deps.identify(request.scope, dict(request.headers))
    owner = owner_of(caller, session)
    if deps.gate is None:
        return decks, owner, {}
    passage = await deps.gate.admit(scope_address(request.scope), session, caller)
    if passage.refusal is not None:
        raise passage.refusal
    return decks, owner, passage.headers


def _file(data: bytes, deck: Deck, ending: str, media_type: str) -> Response[bytes]:
    headers = NO_STORE | {
        "content-disposition": attachment(deck.title, ending),
        "x-content-type-options": "nosniff",
    }
    return Response(data, headers=headers, media_type=media_type)
