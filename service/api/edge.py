"""The edge: the outermost ASGI application, where the settings ask for one. edge_rules.py decides.

What it hands on has the scheme and the address of the client itself, as far as proxies can be believed.
"""

from collections.abc import Callable, Mapping
from urllib.parse import quote

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send, WebSocketScope

from dub5.service.api.client_address import UNKNOWN, address_key
from dub5.service.api.edge_rules import EdgeDecision, EdgeRules, RequestHead
from dub5.service.api.errors import request_id
from dub5.service.api.refusal import joined, refuse, respond
from dub5.service.config.settings import Settings
from dub5.service.events import Events, SecurityNoted


def with_edge(
    app: ASGIApp, settings: Callable[[], Settings], events: Events, new_id: Callable[[], str]
) -> ASGIApp:
    """Return the application behind its edge, or the application itself if there is nothing to decide."""
    rules = edge_rules(settings)
    return app if rules is None else EdgeApp(app, rules, events, new_id)


def edge_rules(settings: Callable[[], Settings]) -> EdgeRules | None:
    """Return the rules; None if there is nothing to decide.

    `settings` returns those in use: a reload turns sessions on and off, and changes nothing else here.
    """
    server = settings().server
    return EdgeRules(server, lambda: settings().session is not None) if EdgeRules.are_set(server) else None


class EdgeApp:
    """The application behind the rules for hosts, https, origins and security headers."""

    def __init__(self, app: ASGIApp, rules: EdgeRules, events: Events, new_id: Callable[[], str]) -> None:
        self._app = app
        self._rules = rules
        self._events = events
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in (ScopeType.HTTP, ScopeType.WEBSOCKET):
            await self._app(scope, receive, send)
            return
        decision = self._rules.decide(_head(scope))
        if decision.status is not None:
            await self._answer(scope, decision, decision.status, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                message["headers"] = joined(message.get("headers", ()), decision.headers)
            await send(message)

        sent = decision.sent
        scope = scope.copy()
        scope["scheme"] = sent.scheme
        scope["client"] = (sent.peer, 0) if sent.peer else None
        await self._app(scope, receive, send_with_headers)

    async def _answer(self, scope: Scope, decision: EdgeDecision, status: int, send: Send) -> None:
        if decision.noted is not None:
            who = address_key(decision.sent.peer or UNKNOWN)
            self._events.emit(SecurityNoted(decision.noted, who, decision.sent.path))
        if decision.error is not None:
            id_ = request_id(_given_id(decision.sent), self._new_id())
            await refuse(scope, send, decision.error, id_, decision.headers)
            return
        own = [(b"content-length", b"0")] if status != 204 else []
        await respond(scope, send, status, joined(own, decision.headers), b"")


def _given_id(head: RequestHead) -> Mapping[str, str]:
    """Return the caller's own id of the request, as a header."""
    lines = [value for name, value in head.headers if name.lower() == b"x-request-id"]
    return {"x-request-id": lines[-1].decode("latin-1")} if lines else {}


def _head(scope: HTTPScope | WebSocketScope) -> RequestHead:
    raw = scope.get("raw_path") or quote(scope["path"]).encode()
    query = scope["query_string"]
    client = scope.get("client")
    return RequestHead(
        method=str(scope.get("method", "GET")),
        path=scope["path"],
        target=(raw + b"?" + query if query else raw).decode("latin-1"),
        scheme=scope["scheme"],
        peer=client[0] if client else None,
        headers=list(scope["headers"]),
    )
