"""Sessions of requests: found by cookie or ticket; refused where another site may have used the cookie."""

from collections.abc import Mapping

from litestar.types import Scope

from dub5.service.admission.sessions import Session, Sessions, has_cookie, ticket_of
from dub5.service.api.client_address import scope_address
from dub5.service.api.cross_site import cross_site_problem
from dub5.service.config.settings import ServerSettings
from dub5.service.errors import CsrfRefused
from dub5.service.events import Events, SecurityKind, SecurityNoted


class BrowserSessions:
    """Finds the session of a request. Pages of `server.origins` may use the cookie, previews may not."""

    def __init__(self, tokens: Sessions, server: ServerSettings, events: Events) -> None:
        self.tokens = tokens
        self._is_listed = frozenset(server.origins).__contains__
        self._events = events

    def identify(self, scope: Scope, headers: Mapping[str, str]) -> Session | None:
        """Return the session that a ticket or the cookie proves, or None. Raises CsrfRefused."""
        return self.by_ticket(scope, headers) or self.by_cookie(scope, headers)

    def by_ticket(self, scope: Scope, headers: Mapping[str, str]) -> Session | None:
        """Return the session of `Authorization: Ticket <ticket>`, or None."""
        ticket = ticket_of(headers.get("authorization", ""))
        if ticket is None:
            return None
        session = self.tokens.read_ticket(ticket)
        if session is None:
            self._note(SecurityKind.BAD_TICKET, scope)
        return session

    def by_cookie(self, scope: Scope, headers: Mapping[str, str]) -> Session | None:
        """Return the session of the cookie, or None. Raises CsrfRefused."""
        cookies = _cookies(scope)
        if not cookies:
            return None
        https = is_https(scope)
        session = self.tokens.read(cookies, https=https)
        if session is not None:
            self._refuse_cross_site(scope, headers, session)
        elif has_cookie(cookies, https=https):
            self._note(SecurityKind.BAD_SESSION, scope)
        return session

    def refuse_cross_site(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Raise CsrfRefused for a page of another site, which would replace or end a visitor's session."""
        self._refuse_cross_site(scope, headers, None)

    def _refuse_cross_site(self, scope: Scope, headers: Mapping[str, str], session: Session | None) -> None:
        problem = cross_site_problem(headers, self._is_listed, with_cookie=session is not None)
        if problem is not None:
            self._note(SecurityKind.CSRF_REFUSED, scope, session)
            raise CsrfRefused(problem)

    def _note(self, what: SecurityKind, scope: Scope, session: Session | None = None) -> None:
        who = session.label if session else scope_address(scope)
        self._events.emit(SecurityNoted(what, who, scope["path"]))


def _cookies(scope: Scope) -> str:
    """Return all Cookie headers as one: HTTP/2 lets a browser send several, and proxies pass them on."""
    return "; ".join([value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"])


def is_https(scope: Scope) -> bool:
    """Return whether the client has sent the request by https; the edge has put right what proxies hide."""
    return scope["scheme"] in ("https", "wss")
