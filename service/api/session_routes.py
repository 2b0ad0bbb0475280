"""The routes of sessions. Without `[session]` in the settings they do not exist.

POST   /v1/session          201 and a cookie for a new session; 200 for one that is known already
POST   /v1/session/ticket   201 and a ticket of the session, which begins if there is none
DELETE /v1/session          204; the cookie is gone
"""

from collections.abc import Callable, Mapping

from litestar import Response, delete, post
from litestar.handlers import HTTPRouteHandler

from dub5.service.admission.sessions import clear_cookie
from dub5.service.api.browser_sessions import BrowserSessions, is_https
from dub5.service.api.chat import ApiDependencies
from dub5.service.api.errors import no_such_path
from dub5.service.api.routes import NO_STORE, HttpRequest, json_response
from dub5.service.model import Caller

PATH = "/v1/session"


def session_routes(deps: Callable[[], ApiDependencies]) -> list[HTTPRouteHandler]:
    """Create the handlers. `deps` returns the current dependencies."""

    @post(PATH)
    async def begin(request: HttpRequest) -> Response[bytes]:
        """Begin a session, or return the one that the cookie proves; its cookie is renewed once a day."""
        sessions, headers, _ = _opened(deps(), request)
        sessions.refuse_cross_site(request.scope, headers)
        tokens, known = sessions.tokens, sessions.by_cookie(request.scope, headers)
        session = known or tokens.start()
        if known is not None and not tokens.wants_renewal(known):
            return json_response(
                {"session": known.label, "expires_in_s": tokens.cookie_s - max(0, known.age_s)}, 200
            )
        cookie = {"set-cookie": tokens.set_cookie(session, https=is_https(request.scope))}
        body = {"session": session.label, "expires_in_s": tokens.cookie_s}
        return json_response(body, 200 if known else 201, cookie)

    @post(f"{PATH}/ticket")
    async def ticket(request: HttpRequest) -> Response[bytes]:
        """Write a ticket: a proof of the session that is no cookie."""
        sessions, headers, caller = _opened(deps(), request)
        tokens = sessions.tokens
        session = sessions.identify(request.scope, headers) or tokens.start()
        body = {"session": session.label, "ticket": tokens.write_ticket(session, caller)}
        return json_response({**body, "expires_in_s": tokens.ticket_s}, 201)

    @delete(PATH)
    async def end(request: HttpRequest) -> Response[None]:
        """Clear the cookie."""
        sessions, headers, _ = _opened(deps(), request)
        sessions.refuse_cross_site(request.scope, headers)
        sessions.by_cookie(request.scope, headers)
        cookie = clear_cookie(https=is_https(request.scope))
        return Response(None, status_code=204, headers={**NO_STORE, "set-cookie": cookie})

    return [begin, ticket, end]


def _opened(deps: ApiDependencies, request: HttpRequest) -> tuple[BrowserSessions, Mapping[str, str], Caller]:
    """Return the sessions, the headers, and who asks. Raises NotFound without sessions, Unauthorized."""
    headers = dict(request.headers)
    if deps.sessions is None:
        raise no_such_path(request.scope["path"])
    caller = deps.callers.identify(headers.get("authorization", ""), request.scope)
    return deps.sessions, headers, caller
