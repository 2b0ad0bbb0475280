"""Whole answers to requests that no route sees: over HTTP, or instead of accepting a WebSocket."""

from collections.abc import Collection, Iterable
from typing import Any

import msgspec
from litestar.enums import ScopeType
from litestar.types import Scope, Send

from dub5.service.api.errors import error_body, error_headers
from dub5.service.errors import GatewayError

RESPONSE = "websocket.http.response"  # the extension of ASGI for WebSockets


async def refuse(
    scope: Scope, send: Send, error: GatewayError, id_: str, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Answer with an error. Its own headers come first; of `headers` those that it does not have."""
    body = msgspec.json.encode(error_body(error, id_))
    own = error_headers(error, id_) | {"content-length": str(len(body))}
    lines = [(name.encode(), value.encode()) for name, value in own.items()]
    await respond(scope, send, error.status, joined(lines, headers), body)


async def respond(
    scope: Scope, send: Any, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes
) -> None:
    """Answer. Where a server cannot say it before it accepts a WebSocket, that is closed, which is a 403."""
    kind = "http.response"
    if scope["type"] == ScopeType.WEBSOCKET:
        kind = RESPONSE
        if kind not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close"})
            return
    await send({"type": f"{kind}.start", "status": status, "headers": list(headers)})
    await send({"type": f"{kind}.body", "body": body, "more_body": False})


def joined(
    own: Iterable[tuple[bytes, bytes]], added: Iterable[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    """Return both. What a response says itself has precedence: the page has a policy of its own."""
    headers = list(own)
    return headers + not_yet_in({name.lower() for name, _ in headers}, added)


def not_yet_in(names: Collection[bytes], added: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return what a response with these lower-case names does not say itself; lines of Vary add up."""
    return [header for header in added if header[0] == b"vary" or header[0] not in names]
