"""One Litestar application for all services of a test process: to build one takes most of a short test.

`Service._build_app` builds it once, from stand-ins. Each leads to a part of the service that was asked.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from typing import Any
from unittest import mock

from litestar import Litestar
from litestar.events import SimpleEventEmitter
from litestar.types import Receive, Scope, Send

from dub5.service.app import Service

ASKED: ContextVar[Service] = ContextVar("ASKED")


class _Part:
    """A stand-in for an object of the service that was asked."""

    def __init__(self, find: Callable[[Service], Any]) -> None:
        self._find = find

    def __getattr__(self, name: str) -> Any:
        return getattr(self._find(ASKED.get()), name)

    def __call__(self, *arguments: Any) -> Any:
        return self._find(ASKED.get())(*arguments)


class _Process:
    """A stand-in for the objects of the process."""

    new_id = _Part(lambda service: service._process.new_id)


class _AskedService:
    """A stand-in for the service that was asked."""

    metrics = _Part(lambda service: service.metrics)
    admin = _Part(lambda service: service.admin)
    events = _Part(lambda service: service.events)
    _process = _Process()

    def __getattr__(self, name: str) -> Any:
        return getattr(ASKED.get(), name)


class _SharedApp:
    """The application of one service: its routes are shared, its start and its end are its own."""

    def __init__(self, shared: Litestar, service: Service) -> None:
        self._service = service
        self._app = copy(shared)
        self._app.event_emitter = SimpleEventEmitter([])
        self._app.asgi_router = copy(shared.asgi_router)
        self._app.asgi_router.app = self._app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ASKED.set(self._service)
        await self._app(scope, receive, send)


@contextmanager
def shared_app() -> Iterator[None]:
    """Let each service that is created meanwhile use one application."""
    shared = Service._build_app(_AskedService())  # type: ignore[arg-type]
    with mock.patch.object(Service, "_build_app", lambda service: _SharedApp(shared, service)):
        yield
