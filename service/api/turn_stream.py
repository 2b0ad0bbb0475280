"""Turns over HTTP: a listener's steps as JSON, or as server-sent events. The turn itself ends with neither.

TurnPost     asks, and sends the turn as one object or as a stream
TurnEvents   sends the stream of a turn that was asked before
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec
from litestar.types import Receive, Scope, Send
from msgspec import Raw

from dub5.service.api.chat import ApiDependencies
from dub5.service.api.connected import while_connected
from dub5.service.api.errors import ClientGone
from dub5.service.api.peer import AsgiPeer, Peer, RequestHeaders
from dub5.service.api.response import ResponseWriter
from dub5.service.api.stream import HEARTBEAT, HEARTBEAT_S
from dub5.service.api.turn_messages import (
    PROTOCOL,
    PROTOCOL_HEADER,
    ErrorMessage,
    messages_of,
    sse,
    turn_object,
)
from dub5.service.api.turns import TurnExchange, read_by
from dub5.service.conversation.live_turn import Begun, Failed, Finished, TurnListener, TurnStep
from dub5.service.conversation.turns import Turns
from dub5.service.errors import GatewayError, StreamStalled
from dub5.service.model import Chunk
from dub5.service.timeouts import NEVER, Timeouts

T = TypeVar("T")
_ERROR = msgspec.json.Decoder(dict[str, Raw])


class TurnWriter(ResponseWriter):
    """Sends the messages of a turn. An error before the first one is JSON with its own status."""

    done = b""

    def error_event(self, body: bytes) -> bytes:
        """Return the message `error` for a question that was refused after a heartbeat."""
        return sse(ErrorMessage(_ERROR.decode(body)["error"]), 0)


class TurnStream:
    """The messages of a listener, as chunks that are ready to send; a heartbeat after `silence_max_s`."""

    usage = None

    def __init__(self, listener: TurnListener, silence_max_s: float) -> None:
        self._listener = listener
        self._silence_max_s = silence_max_s

    async def read(self) -> list[Chunk]:
        """Return the next messages, or a heartbeat; nothing after the end."""
        if self._silence_max_s == NEVER:
            return self.chunks(await self._listener.read())
        try:
            async with asyncio.timeout(self._silence_max_s):
                return self.chunks(await self._listener.read())
        except TimeoutError:
            return [Chunk(HEARTBEAT)]

    def chunks(self, steps: list[TurnStep]) -> list[Chunk]:
        """Return the messages of these steps."""
        return [Chunk(sse(message, seq)) for message, seq in messages_of(self._listener, steps)]

    async def aclose(self) -> None:
        """Listen no more."""
        self._listener.leave()


class _Carrier:
    """Sends what a listener hears to one client; heartbeats, while the answer `is_held`."""

    def __init__(
        self, deps: ApiDependencies, peer: Peer, request_id: str, is_held: Callable[[], bool]
    ) -> None:
        self.timeouts = Timeouts(NEVER)
        self.writer = TurnWriter(request_id, peer, self.timeouts, deps.server.client_stall_s)
        self.is_held = is_held
        self.more_headers: Callable[[], Mapping[str, str]] = dict  # of the response; known once it is counted

    async def send_events(
        self, listener: TurnListener, begin_by_s: float = NEVER, silence_max_s: float = NEVER
    ) -> None:
        """Send a stream. Nothing is sent before its first piece, so that an error has a status of its own."""
        steps = list[TurnStep]()
        while not any(isinstance(step, Begun | Failed) for step in steps):
            heard = await self._read(listener, begin_by_s)
            if not heard:
                return
            steps += heard
        begun = next((step for step in steps if isinstance(step, Begun)), None)
        if begun is None and isinstance(steps[-1], Failed):
            await self.send_failed(steps[-1])
            return
        stream = TurnStream(listener, silence_max_s)
        await self.writer.send_stream(
            {**(begun.headers if begun else {}), **self._own_headers()}, stream.chunks(steps), stream
        )

    async def send_object(self, listener: TurnListener, begin_by_s: float = NEVER) -> None:
        """Send the turn as one object, once it is over."""
        begun, over = Begun(""), None
        while over is None:
            steps = await self._read(listener, begin_by_s)
            if not steps:
                return
            begun = next((step for step in steps if isinstance(step, Begun)), begun)
            over = next((step for step in steps if isinstance(step, Finished | Failed)), None)
        if isinstance(over, Failed):
            await self.send_failed(over)
            return
        view = turn_object(over.view, begun.pruned, memory_lost=begun.memory_lost)
        body = msgspec.json.encode(view)
        headers = {"x-dub5-route": begun.route, **begun.headers, "x-request-id": self.writer.request_id}
        known = {"content-type": "application/json", "content-length": str(len(body))}
        await self.writer.send_json(200, {**known, **headers}, body)

    async def send_failed(self, failed: Failed) -> None:
        """Send an error that came before any of the answer."""
        self.writer.request_id = failed.request_id
        await self.writer.send_error(failed.error)

    async def until(self, future: "asyncio.Future[T]") -> None:
        """Wait until it is done; send heartbeats meanwhile, where the answer is held. Raises TimeoutError."""
        while not (await asyncio.wait({future}, timeout=HEARTBEAT_S))[0]:
            if self.is_held():
                await self.beat()

    async def beat(self) -> None:
        """Send a heartbeat, the first one with the head of a stream. Raises TimeoutError."""
        self.writer.more_headers = self.more_headers()
        await self.writer.send_heartbeat(self._own_headers())

    async def _read(self, listener: TurnListener, begin_by_s: float) -> list[TurnStep]:
        """Return what is new. Raises DeadlineExceeded if nothing has begun by then."""
        if not self.is_held():
            return await read_by(listener, begin_by_s)
        reading = asyncio.ensure_future(read_by(listener, begin_by_s))
        try:
            await self.until(reading)
            return reading.result()
        finally:
            reading.cancel()

    def _own_headers(self) -> dict[str, str]:
        return {"x-request-id": self.writer.request_id, PROTOCOL_HEADER: PROTOCOL}


class TurnPost:
    """POST .../turns: one question, as an ASGI application. The connection may end before its turn does."""

    def __init__(self, deps: ApiDependencies, turns: Turns, conversation: str) -> None:
        self._deps = deps
        self._turns = turns
        self._exchange = TurnExchange(deps, turns, conversation)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange, peer = self._exchange, AsgiPeer(receive, send)
        work = exchange.serve(scope, RequestHeaders.of_asgi(scope), peer)
        task = self._turns.live.run(work, f"turn {exchange.id}")
        carrier = _Carrier(self._deps, peer, exchange.id, lambda: exchange.is_held)
        carrier.more_headers = lambda: exchange.more_headers
        try:
            await self._carry(carrier)
        except (ClientGone, StreamStalled, TimeoutError):
            pass
        finally:
            carrier.timeouts.close()
            exchange.leave()
        if exchange.is_over:
            await asyncio.wait({task})  # its log line is out before the connection takes another request

    async def _carry(self, carrier: _Carrier) -> None:
        exchange, found = self._exchange, self._exchange.listener
        await carrier.until(found)
        if found.cancelled():
            return
        carrier.writer.request_id, carrier.writer.more_headers = exchange.id, exchange.more_headers
        try:
            send = carrier.send_events if exchange.stream else carrier.send_object
            await send(found.result(), exchange.begin_by_s)
        except GatewayError as error:
            await carrier.writer.send_error(error)


class TurnEvents:
    """GET /v1/turns/{id}/events: the stream of a turn that was asked before, from a position on."""

    def __init__(self, deps: ApiDependencies, turns: Turns, owner: str, turn: str, after: int) -> None:
        self._deps = deps
        self._turns = turns
        self._turn = owner, turn, after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(self._carry(AsgiPeer(receive, send)), receive, f"events {self._turn[1]}")

    async def _carry(self, peer: Peer) -> None:
        carrier = _Carrier(self._deps, peer, self._deps.new_id(), lambda: True)
        found = asyncio.ensure_future(self._turns.resume(*self._turn))
        try:
            await carrier.until(found)
            await carrier.send_events(found.result(), silence_max_s=HEARTBEAT_S)
        except GatewayError as error:
            await carrier.writer.send_error(error)
        except (ClientGone, StreamStalled, TimeoutError):
            pass
        finally:
            found.cancel()
            if found.done() and not found.cancelled() and found.exception() is None:
                found.result().leave()
            carrier.timeouts.close()
