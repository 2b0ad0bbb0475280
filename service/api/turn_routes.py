"""The routes of turns that were asked before. Without `[conversation]` in the settings they do not exist.

GET  /v1/turns/{turn}          the turn, as far as it is answered
GET  /v1/turns/{turn}/events   its messages from a position on (turn_stream.py)
POST /v1/turns/{turn}/stop     end it
"""

from collections.abc import Callable

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp

from dub5.service.api.chat import ApiDependencies
from dub5.service.api.conversations import owner_of_request, turns_of
from dub5.service.api.routes import NO_STORE, HttpRequest, get_or_head, json_response
from dub5.service.api.turn_messages import turn_object
from dub5.service.api.turn_stream import TurnEvents
from dub5.service.api.turns import parse_position

PATH = "/v1/turns/{turn:str}"


def turn_routes(deps: Callable[[], ApiDependencies]) -> list[HTTPRouteHandler]:
    """Create the handlers. `deps` returns the current dependencies."""

    @get_or_head(PATH)
    async def read(request: HttpRequest, turn: FromPath[str]) -> Response[bytes]:
        """Return a turn."""
        turns, owner = turns_of(deps(), request, turn), owner_of_request(deps(), request)
        return json_response(turn_object(await turns.view(owner, turn)))

    @get(f"{PATH}/events")
    async def events(request: HttpRequest, turn: FromPath[str]) -> ASGIApp:
        """Send the messages of a turn."""
        turns, owner = turns_of(deps(), request, turn), owner_of_request(deps(), request)
        after = request.headers.get("last-event-id") or request.query_params.get("after")
        return TurnEvents(deps(), turns, owner, turn, parse_position(after or "0"))

    @post(f"{PATH}/stop")
    async def stop(request: HttpRequest, turn: FromPath[str]) -> Response[None]:
        """End a turn."""
        turns, owner = turns_of(deps(), request, turn), owner_of_request(deps(), request)
        await turns.stop(owner, turn)
        return Response(None, status_code=204, headers=NO_STORE)

    return [read, events, stop]
