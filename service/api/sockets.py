"""The WebSockets of a process: each handshake is decided, each connection counted, all of them drained.

foreign page, wrong subprotocol     an HTTP error, before the connection is accepted
nobody who is let in, no room       accepted, then `error` and a close: scripts cannot read an HTTP error
else                                accepted, and served by a Socket
"""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from dub5.service import clock
from dub5.service.api.chat import ApiDependencies
from dub5.service.api.client_address import scope_address
from dub5.service.api.errors import no_such_path, report_crashes, request_id
from dub5.service.api.refusal import refuse
from dub5.service.api.socket import Socket
from dub5.service.api.socket_handshake import PATH, VERSION, SocketHandshake, read_handshake
from dub5.service.api.socket_messages import as_text
from dub5.service.api.socket_turn import SocketClient
from dub5.service.api.turn_messages import error_message
from dub5.service.errors import GatewayError, OriginNotAllowed, Overloaded, ShuttingDown, UpgradeRequired
from dub5.service.events import CloseCode, SecurityKind, SecurityNoted, SocketClosed, SocketOpened

RETRY_AFTER_S = (0.5, 5.0)  # drawn for each client: all of them would come back at one time
GOODBYES_S = 2.0  # for the last messages, once the turns of a drain are over
UPGRADE = ((b"upgrade", b"websocket"), (b"connection", b"upgrade"), (b"sec-websocket-version", VERSION))


class Sockets:
    """All open WebSockets."""

    def __init__(self, rng: Random) -> None:
        self.draining = False
        self._rng = rng
        self._open: dict[Socket, None] = {}
        self._empty = asyncio.Event()

    @property
    def count(self) -> int:
        """The number of open ones."""
        return len(self._open)

    def add(self, socket: Socket) -> None:
        """Count a connection."""
        self._open[socket] = None

    def remove(self, socket: Socket) -> None:
        """Count a connection no more."""
        del self._open[socket]
        if not self._open:
            self._empty.set()

    def drain(self) -> None:
        """Tell all clients to go; each connection is closed once none of its turns is open."""
        self.draining = True
        for socket in self._open:
            socket.drain()

    async def wait_until_empty(self) -> None:
        """Wait until all connections are closed, for a while."""
        while self._open:
            self._empty.clear()
            try:
                async with asyncio.timeout(GOODBYES_S):
                    await self._empty.wait()
            except TimeoutError:
                return

    def retry_after_s(self) -> float:
        """Return when a client that is told to go may come back."""
        return round(self._rng.uniform(*RETRY_AFTER_S), 1)


class SocketApp:
    """An application with the WebSocket at PATH before it. `deps` returns the current dependencies."""

    def __init__(
        self,
        app: ASGIApp,
        sockets: Sockets,
        deps: Callable[[], ApiDependencies],
        is_listed: Callable[[str], bool],
    ) -> None:
        self._app = app
        self._sockets = sockets
        self._deps = deps
        self._is_listed = is_listed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.WEBSOCKET:
            await self._connect(scope, receive, send)
        elif scope["type"] == ScopeType.HTTP and scope["path"] == PATH and self._is_plain(scope):
            error = UpgradeRequired("This path is for WebSockets.")
            await refuse(scope, send, error, self._deps().new_id(), UPGRADE)
        else:
            await self._app(scope, receive, send)

    def _is_plain(self, scope: Any) -> bool:
        return self._deps().turns is not None and scope["method"] in ("GET", "HEAD")

    async def _connect(self, scope: Any, receive: Receive, send: Any) -> None:
        await receive()  # websocket.connect, which says nothing
        id_ = self._deps().new_id()
        client = await self._let_in(scope, send, id_)
        if client is not None:
            retry_after_s = self._sockets.retry_after_s
            await self._serve(Socket(self._deps, client, receive, send, retry_after_s), client, id_)

    async def _let_in(self, scope: Any, send: Any, id_: str) -> SocketClient | None:
        """Decide a handshake. Return who is at the other end; None if the connection is over."""
        deps = self._deps()
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        shake = self._read(scope, headers, deps)
        if isinstance(shake, GatewayError):
            if isinstance(shake, OriginNotAllowed):
                noted = SecurityNoted(SecurityKind.ORIGIN_REFUSED, scope_address(scope), scope["path"])
                deps.events.emit(noted)
            await refuse(scope, send, shake, request_id(headers, id_))
            return None
        client: SocketClient | GatewayError
        try:
            client = self._identified(scope, headers | {"authorization": shake.authorization}, deps)
        except GatewayError as error:
            client = error
        try:
            await send({"type": "websocket.accept", "subprotocol": shake.subprotocol})
        except OSError:  # gone by now
            return None
        if isinstance(client, GatewayError):
            code = await _turn_away(send, client, id_, deps.server.client_stall_s)
            deps.events.emit(SocketClosed(id_, code, 0, 0.0))
            return None
        return client

    def _read(
        self, scope: Any, headers: dict[str, str], deps: ApiDependencies
    ) -> SocketHandshake | GatewayError:
        if scope["path"] != PATH or deps.turns is None:
            return no_such_path(scope["path"])
        return read_handshake(headers, scope["subprotocols"], self._is_listed)

    def _identified(self, scope: Any, headers: dict[str, str], deps: ApiDependencies) -> SocketClient:
        """Return who connects, if there is room. Raises GatewayError."""
        assert deps.turns is not None, "there are conversations"
        if self._sockets.draining or deps.admission.draining:
            raise ShuttingDown("This instance is shutting down.", retry_after_s=1.0)
        client = SocketClient(*deps.identify(scope, headers), scope.get("client"))
        client.owner  # noqa: B018  # raises where nobody owns what is asked
        if self._sockets.count >= deps.turns.conversations.settings.sockets_max:
            retry_after_s = self._sockets.retry_after_s()
            raise Overloaded("Too many WebSockets are open on this instance.", retry_after_s=retry_after_s)
        return client

    async def _serve(self, socket: Socket, client: SocketClient, id_: str) -> None:
        began_s, session, events = clock.now(), client.session, self._deps().events
        self._sockets.add(socket)
        events.emit(SocketOpened(id_, client.caller.key, session.label if session else None))
        try:
            await report_crashes(socket.run(), id_, events)
        except GatewayError as error:
            await socket.fail(error_message(error, id_))
        finally:
            self._sockets.remove(socket)
            code = socket.closed or CloseCode.ABNORMAL
            events.emit(SocketClosed(id_, code, socket.turns, clock.now() - began_s))


async def _turn_away(send: Any, error: GatewayError, id_: str, within_s: float) -> CloseCode:
    """Say why a connection is of no use, and close it. Return the code."""
    code = CloseCode.NO_ACCESS if error.status in (401, 403) else CloseCode.TRY_LATER
    if isinstance(error, ShuttingDown):
        code = CloseCode.DRAIN
    try:
        async with asyncio.timeout(within_s):
            await send({"type": "websocket.send", "text": as_text(error_message(error, id_))})
            await send({"type": "websocket.close", "code": int(code)})
    except OSError:  # gone, or it does not read
        pass
    return code
