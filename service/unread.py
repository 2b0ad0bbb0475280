"""Unread responses: a client that has stopped reading loses its connection, too, not only its answer.

The server closes the connection of a response that ends unfinished, but `close` waits until all that was sent
has been read: with such a client for ever. `aborting_unread` wraps the application of one request.
"""

from typing import Any, cast

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def aborting_unread(app: ASGI3Application, cycle: RequestResponseCycle) -> ASGI3Application:
    """Return the application; where its response ends unfinished, the connection is aborted."""

    async def served(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await app(scope, receive, send)
        if cycle.response_started and not cycle.response_complete:
            cast(Any, cycle.transport).abort()

    return served
