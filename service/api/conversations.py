"""The routes of conversations. Without `[conversation]` in the settings they do not exist.

POST   /v1/conversations              begin one
GET    /v1/conversations              the owner's, the one used last first
GET    /v1/conversations/{id}         one with its turns
PATCH  /v1/conversations/{id}         another title or model
DELETE /v1/conversations/{id}         delete it with its turns
POST   /v1/conversations/{id}/turns   ask (turns.py)
"""

from collections.abc import Callable

from litestar import Response, delete, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp

from dub5.service.api.chat import ApiDependencies
from dub5.service.api.routes import NO_STORE, HttpRequest, get_or_head, json_response, part_of
from dub5.service.api.small_body import read_small
from dub5.service.api.turn_body import BODY_BYTES_MAX, ConversationBody, owner_of, parse_conversation
from dub5.service.api.turn_messages import conversation_object, list_object
from dub5.service.api.turn_stream import TurnPost
from dub5.service.conversation.conversations import Conversations, not_found
from dub5.service.conversation.turns import Turns
from dub5.service.errors import InvalidRequest
from dub5.service.ids import is_id

PATH = "/v1/conversations"
LIST_LIMIT = 20
TURNS_LIMIT = 100
LIMIT_MAX = 100


def conversation_routes(deps: Callable[[], ApiDependencies]) -> list[HTTPRouteHandler]:
    """Create the handlers. `deps` returns the current dependencies."""

    @post(PATH)
    async def begin(request: HttpRequest) -> Response[bytes]:
        """Begin a conversation."""
        conversations, owner = _opened(deps(), request)
        given = await _body(deps(), request)
        if given.document is not None:
            await turns_of(deps(), request, None).documents.check(owner, given.document)
        made = await conversations.create(owner, given.title or "", given.model or "", given.document)
        return json_response(conversation_object(made), 201)

    @get_or_head(PATH)
    async def list_(request: HttpRequest) -> Response[bytes]:
        """List the conversations of the caller."""
        conversations, owner = _opened(deps(), request)
        limit, before = limit_of(request, LIST_LIMIT), before_of(request)
        return json_response(list_object(await conversations.list_page(owner, limit, before)))

    @get_or_head(f"{PATH}/{{id:str}}")
    async def read(request: HttpRequest, id: FromPath[str]) -> Response[bytes]:
        """Return a conversation with its turns."""
        conversations, owner = _opened(deps(), request, id)
        page = await conversations.read(owner, id, limit_of(request, TURNS_LIMIT), before_of(request))
        return json_response(conversation_object(page.conversation, page))

    @patch(f"{PATH}/{{id:str}}")
    async def rename(request: HttpRequest, id: FromPath[str]) -> Response[bytes]:
        """Change the title or the model."""
        conversations, owner = _opened(deps(), request, id)
        given = await _body(deps(), request)
        if given.document is not None:
            raise InvalidRequest(
                "document: cannot be changed; begin a conversation with the other one.", param="document"
            )
        return json_response(
            conversation_object(await conversations.rename(owner, id, given.title, given.model))
        )

    @delete(f"{PATH}/{{id:str}}")
    async def remove(request: HttpRequest, id: FromPath[str]) -> Response[None]:
        """Delete a conversation."""
        conversations, owner = _opened(deps(), request, id)
        await conversations.delete(owner, id)
        return Response(None, status_code=204, headers=NO_STORE)

    @post(f"{PATH}/{{id:str}}/turns", status_code=200)
    async def ask(request: HttpRequest, id: FromPath[str]) -> ASGIApp:
        """Ask a question."""
        return TurnPost(deps(), turns_of(deps(), request, id), id)

    return [begin, list_, read, rename, remove, ask]


def _opened(deps: ApiDependencies, request: HttpRequest, id_: str | None = None) -> tuple[Conversations, str]:
    """Return the conversations, and whose they are.

    Raises NotFound without conversations, ConversationNotFound for what is no id, Unauthorized,
    SessionRequired, CsrfRefused.
    """
    turns = turns_of(deps, request, id_)
    return turns.conversations, owner_of_request(deps, request)


def owner_of_request(deps: ApiDependencies, request: HttpRequest) -> str:
    """Return whose conversations a request is about. Raises Unauthorized, SessionRequired, CsrfRefused."""
    return owner_of(*deps.identify(request.scope, dict(request.headers)))


def turns_of(deps: ApiDependencies, request: HttpRequest, id_: str | None) -> Turns:
    """Return the turns. Raises NotFound without conversations, ConversationNotFound for what is no id."""
    return part_of(deps.turns, request, id_, not_found)


async def _body(deps: ApiDependencies, request: HttpRequest) -> ConversationBody:
    """Return what the body says of a conversation.

    Raises InvalidRequest, TooLarge, RequestTimeout, ModelNotFound.
    """
    body = await read_small(request, BODY_BYTES_MAX, deps.server.client_stall_s)
    given = parse_conversation(dict(request.headers), body)
    if given.model is not None:
        deps.gateway.route(given.model)
    return given


def limit_of(request: HttpRequest, usual: int) -> int:
    """Return the parameter `limit`. Raises InvalidRequest."""
    given = request.query_params.get("limit", str(usual))
    if not (given.isascii() and given.isdigit() and len(given) <= 3 and 1 <= int(given) <= LIMIT_MAX):
        raise InvalidRequest(f"limit: must be a whole number from 1 to {LIMIT_MAX}.", param="limit")
    return int(given)


def before_of(request: HttpRequest) -> str | None:
    """Return the parameter `before`. Raises InvalidRequest."""
    given: str | None = request.query_params.get("before")
    if given is not None and not is_id(given):
        raise InvalidRequest("before: must be an id of this list.", param="before")
    return given
