"""One WebSocket: the client asks and reads turns, several at one time. Protocol dub5.v1.

    the task of the connection   reads messages, one after another; it alone closes
    a task for each open turn    reads its listener, and sends what is new: a slow client has no queue, since
                                 all that was said meanwhile is one `delta`

The connection may end at any time: turns go on, and are read on with `resume` over another one. A client that
does not read for `server.client_stall_s` is left; one that says nothing for IDLE_S, and has no open turn, is
told to go.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from litestar.types import Receive, Send
from msgspec import Struct
from msgspec.structs import replace

from dub5.service import clock
from dub5.service.api.chat import ApiDependencies
from dub5.service.api.errors import ClientGone, no_such_path, report_crashes
from dub5.service.api.socket_handshake import PATH
from dub5.service.api.socket_messages import (
    MESSAGE_BYTES_MAX,
    Ask,
    Bye,
    Ping,
    Pong,
    Ready,
    Resume,
    StopTurn,
    as_text,
    read_message,
)
from dub5.service.api.socket_turn import SocketClient, SocketExchange
from dub5.service.api.turn_messages import PROTOCOL, Accepted, error_message, messages_of
from dub5.service.api.turns import read_by
from dub5.service.conversation.live_turn import Begun, TurnListener
from dub5.service.conversation.live_turns import REMEMBER_S
from dub5.service.conversation.turns import Turns, turn_not_found
from dub5.service.errors import (
    GatewayError,
    InvalidRequest,
    ShuttingDown,
    TooLarge,
    TooManyTurns,
    Unauthorized,
)
from dub5.service.events import CloseCode
from dub5.service.ids import is_id
from dub5.service.timeouts import NEVER

ReadTurn = Callable[[], Awaitable[None]]

IDLE_S = 600.0
TURNS_MAX = 4
BAD_MESSAGES_MAX = 10  # in a row


class Socket:
    """One connection that was accepted. `run` it in the task of the connection.

    `retry_after_s`: when a client that is told to go may come back.
    """

    __slots__ = (
        "_bad",
        "_bye",
        "_client",
        "_deps",
        "_following",
        "_idle_at_s",
        "_is_waiting",
        "_open",
        "_receive",
        "_retry_after_s",
        "_send",
        "_stalled",
        "_task",
        "_timer",
        "closed",
        "turns",
    )

    def __init__(
        self,
        deps: Callable[[], ApiDependencies],
        client: SocketClient,
        receive: Receive,
        send: Send,
        retry_after_s: Callable[[], float],
    ) -> None:
        self.closed: int | None = None  # the code
        self.turns = 0  # that were asked or read on
        self._deps = deps
        self._client = client
        self._receive: Any = receive
        self._send: Any = send
        self._retry_after_s = retry_after_s
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle_at_s = clock.now() + IDLE_S
        self._is_waiting = False  # for a message: the only wait that is disturbed
        self._bye: str | None = None  # why the client is to go; "" once it was told
        self._stalled = False
        self._bad = 0  # messages in a row
        self._open: dict[asyncio.Task[None], None] = {}
        self._following: dict[str, TurnListener] = {}  # by turn

    async def run(self) -> None:
        """Serve the connection to its end."""
        self._task = asyncio.current_task()
        self._on_timer()
        try:
            await self._greet()
            while self.closed is None:
                await self._step()
        except ClientGone:
            self.closed = self.closed or CloseCode.ABNORMAL
        finally:
            self._task = None
            if self._timer is not None:
                self._timer.cancel()
            for task in self._open:
                task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    def drain(self) -> None:
        """Tell the client to go; close the connection once none of its turns is open."""
        if self._bye is None:
            self._bye = "drain"
            self._wake()

    async def send(self, message: Struct) -> None:
        """Send a message. Raises ClientGone where it makes no progress for `client_stall_s`."""
        if self._stalled or self.closed is not None:
            raise ClientGone
        await self._within_stall({"type": "websocket.send", "text": as_text(message)})

    async def close(self, code: CloseCode) -> None:
        """Close the connection. Raises ClientGone."""
        self.closed = code
        await self._within_stall({"type": "websocket.close", "code": int(code)})

    async def fail(self, message: Struct) -> None:
        """Close the connection after a defect of ours, which the message tells."""
        with suppress(ClientGone):
            await self.send(message)
            await self.close(CloseCode.INTERNAL)

    async def _within_stall(self, message: Any) -> None:
        try:
            async with asyncio.timeout(self._deps().server.client_stall_s):
                await self._send(message)
        except TimeoutError:
            self._stalled = True
            self._wake()
            raise ClientGone from None
        except OSError:  # what ASGI raises after the end
            raise ClientGone from None

    async def _greet(self) -> None:
        options, session = self._turns().conversations.settings, self._client.session
        label = session.label if session else None
        ready = Ready(PROTOCOL, label, options.linger_s, REMEMBER_S, options.question_chars_max, TURNS_MAX)
        await self.send(ready)

    async def _step(self) -> None:
        """Do what is due, else take a message. Raises ClientGone."""
        if self._stalled:
            raise ClientGone
        if self._bye:
            why, self._bye = self._bye, ""
            await self.send(Bye(why, self._retry_after_s()))
        elif self._bye is not None and not self._open:
            await self.close(CloseCode.DRAIN)
        elif self._idle_at_s <= clock.now() and not self._open:
            await self.send(Bye("idle", self._retry_after_s()))
            await self.close(CloseCode.IDLE)
        elif (message := await self._next()) is not None:
            await self._take(message)

    async def _next(self) -> Any:
        """Return the next message; None if something else is due."""
        self._is_waiting = True
        try:
            return await self._receive()
        except asyncio.CancelledError:
            if self._is_waiting or self._task is None or self._task.uncancel():
                raise  # the server ends
            return None
        finally:
            self._is_waiting = False

    def _wake(self) -> None:
        """Let the task of the connection look what is due."""
        if self._is_waiting and self._task is not None:
            self._is_waiting = False
            self._task.cancel()

    def _on_timer(self) -> None:
        now_s = clock.now()
        if self._open:
            self._idle_at_s = now_s + IDLE_S
        if self._idle_at_s <= now_s:
            self._wake()
        else:
            self._timer = asyncio.get_running_loop().call_at(self._idle_at_s, self._on_timer)

    async def _take(self, message: Any) -> None:
        self._idle_at_s = clock.now() + IDLE_S
        if message["type"] == "websocket.disconnect":
            self.closed = message.get("code") or CloseCode.NO_STATUS
            return
        text = message.get("text")
        if text is None:
            await self._refuse(InvalidRequest("Messages are text."), CloseCode.NOT_TEXT)
        elif len(text) > MESSAGE_BYTES_MAX or len(text.encode()) > MESSAGE_BYTES_MAX:
            error = TooLarge(f"The message is larger than {MESSAGE_BYTES_MAX:,} bytes.")
            await self._refuse(error, CloseCode.TOO_LARGE)
        else:
            await self._read(text)

    async def _read(self, text: str) -> None:
        try:
            message = read_message(text)
        except InvalidRequest as error:
            self._bad += 1
            await self._refuse(error, CloseCode.BAD_MESSAGES if self._bad > BAD_MESSAGES_MAX else None)
            return
        self._bad = 0
        if isinstance(message, Ping):
            await self.send(Pong())
        elif isinstance(message, StopTurn):
            await self._stop(message)
        else:
            await self._begin(message)

    async def _refuse(
        self, error: GatewayError, code: CloseCode | None = None, named: Mapping[str, Any] = {}
    ) -> None:
        await self.send(error_message(error, self._deps().new_id(), **named))
        if isinstance(error, Unauthorized):
            code = CloseCode.NO_ACCESS
        if code is not None:
            await self.close(code)

    async def _stop(self, message: StopTurn) -> None:
        """End a turn; those who read it are told how it ended."""
        try:
            client = self._renewed()
            if not is_id(message.turn):
                raise turn_not_found()
            await self._turns().stop(client.owner, message.turn)
        except GatewayError as error:  # without the turn: it may still be read here
            await self._refuse(error)

    async def _begin(self, message: Ask | Resume) -> None:
        """Begin to read a turn, or say why not."""
        named = {"id_": message.id} if isinstance(message, Ask) else {"turn": message.turn}
        try:
            read, id_ = self._reader_of(message)
        except GatewayError as error:
            await self._refuse(error, named=named)
        else:
            self.turns += 1
            task = asyncio.create_task(self._follow(read, id_, named), name=f"socket {id_}")
            self._open[task] = None
            task.add_done_callback(self._on_followed)

    def _renewed(self) -> SocketClient:
        """Return the client, if its API key is still valid. Raises Unauthorized."""
        return replace(self._client, caller=self._deps().callers.renew(self._client.caller))

    def _reader_of(self, message: Ask | Resume) -> tuple[ReadTurn, str]:
        """Return what reads a turn, and the id of its errors.

        Raises ShuttingDown, TooManyTurns, Unauthorized, NotFound, ConversationNotFound.
        """
        deps, turns, client = self._deps(), self._turns(), self._renewed()
        if self._bye is not None:
            raise ShuttingDown("This connection will be closed.", retry_after_s=1.0)
        if len(self._open) >= TURNS_MAX:
            raise TooManyTurns(f"{TURNS_MAX} turns are open on this connection.")
        if isinstance(message, Ask):
            exchange = SocketExchange(deps, turns, client, message)
            return partial(self._ask, turns, exchange), exchange.id
        if not is_id(message.turn):
            raise turn_not_found()
        return partial(self._resume, turns, client.owner, message), deps.new_id()

    async def _follow(self, read: ReadTurn, id_: str, named: Mapping[str, Any]) -> None:
        """Read a turn to its end, or to that of the connection."""
        try:
            await report_crashes(read(), id_, self._deps().events)
        except GatewayError as error:
            with suppress(ClientGone):
                await self.send(error_message(error, id_, **named))
        except ClientGone:
            pass

    def _on_followed(self, task: asyncio.Task[None]) -> None:
        del self._open[task]
        self._idle_at_s = clock.now() + IDLE_S
        if self._bye is not None:
            self._wake()

    async def _ask(self, turns: Turns, exchange: SocketExchange) -> None:
        found = exchange.listener
        turns.live.run(exchange.answer(), f"turn {exchange.id}")
        try:
            await asyncio.wait({found})
            if not found.cancelled():
                await self._read_turn(found.result(), exchange.begin_by_s, exchange.remaining)
        finally:
            exchange.leave()

    async def _resume(self, turns: Turns, owner: str, message: Resume) -> None:
        await self._read_turn(await turns.resume(owner, message.turn, message.after))

    async def _read_turn(
        self, listener: TurnListener, begin_by_s: float = NEVER, remaining: int | None = None
    ) -> None:
        """Send all that a listener hears; where the turn is read here already, this one takes over."""
        turn = listener.live.id
        before, self._following[turn] = self._following.get(turn), listener
        if before is not None:
            before.leave()
        try:
            while steps := await read_by(listener, begin_by_s):
                for message, _ in messages_of(listener, steps):
                    if self._following.get(turn) is not listener:
                        return
                    if isinstance(message, Accepted) and remaining is not None:
                        message = replace(message, remaining=remaining)  # noqa: PLW2901  # the same message
                    await self.send(message)
                if any(isinstance(step, Begun) for step in steps):
                    begin_by_s = NEVER
        finally:
            listener.leave()
            if self._following.get(turn) is listener:
                del self._following[turn]

    def _turns(self) -> Turns:
        """Return the turns. Raises NotFound where a reload has turned them off."""
        turns = self._deps().turns
        if turns is None:
            raise no_such_path(PATH)
        return turns
