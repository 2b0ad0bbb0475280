"""The WebSocket of a simulated person: opened when it is needed, and again after it was lost."""

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from dub5.chaos.simulation.invariants.people_sockets import PROTOCOL, SocketInvariants
from dub5.chaos.simulation.invariants.record import RunRecord
from dub5.chaos.simulation.life import SOCKET_ASKS, Life, Lives
from dub5.simulators.virtual import AppFault
from dub5.simulators.virtual.socket import AppSocket, Closed

PATH = "/v1/ws"
PATIENCE_S = 5.0  # for what is answered at once


class PersonSocket:
    """One socket. `headers` returns those of the handshake. `is_slow`: its buffer is small."""

    def __init__(
        self, lives: Lives, record: RunRecord, who: str, headers: Callable[[], Mapping[str, str]]
    ) -> None:
        self._lives = lives
        self._record = record
        self._who = who
        self._headers = headers
        self._invariants = SocketInvariants(record, who)
        self._life: Life | None = None
        self._connection: AbstractAsyncContextManager[AppSocket] | None = None
        self._socket: AppSocket | None = None
        self._numbers: deque[int] = deque()
        self.is_slow = False

    async def open(self) -> bool:
        """Make sure that there is a connection to the process that runs; return whether there is."""
        if self._socket is not None and self._life is self._lives.now and await self._ping():
            return True
        await self.lose()
        await self._lives.up()
        self._life, self._numbers = self._lives.now, deque()
        self._invariants = SocketInvariants(self._record, self._who)
        context = contextvars.Context()
        context.run(SOCKET_ASKS.set, self._numbers)
        client, headers = self._life.slow_client if self.is_slow else self._life.client, self._headers()
        self._connection = client.socket(PATH, headers=headers, subprotocols=(PROTOCOL,), context=context)
        try:
            self._socket = await self._connection.__aenter__()
        except AppFault:  # the process dies
            self._connection = None
            return False
        if not self._invariants.opened(self._socket.status, self._socket.subprotocol):
            await self.lose()
            return False
        first = await self.receive()
        if first is not None and first["type"] == "ready":
            return await self._ping()
        while first is not None:
            first = await self.receive()
        return False

    async def ask(self, number: int, message: Mapping[str, Any]) -> None:
        """Send a question, which is that of a request."""
        self._numbers.append(number)
        await self.send(message)

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send a message."""
        if self._socket is not None:
            await self._socket.send(msgspec.json.encode(message).decode())

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message; None after the last one."""
        while self._socket is not None:
            got = await self._socket.receive()
            if isinstance(got, Closed):
                dead = self._life is not self._lives.now or not self._lives.is_up
                self._invariants.closed(got.code, excused=dead or self.is_slow)
                await self.lose()
                return None
            message: dict[str, Any] = msgspec.json.decode(got)
            self._invariants.received(message)
            if message["type"] != "bye":
                return message
        return None

    async def lose(self) -> None:
        """Lose the connection, as when a network fails."""
        connection, self._connection, self._socket = self._connection, None, None
        if connection is not None:
            await connection.__aexit__(None, None, None)

    async def finish(self, until_s: float | None = None) -> None:
        """Close the connection; or wait that a drain does, until then."""
        if until_s is not None and self._life is self._lives.now:
            try:
                now_s = asyncio.get_running_loop().time()  # what came meanwhile is still to be read
                async with asyncio.timeout_at(max(until_s, now_s + PATIENCE_S)):
                    while await self.receive() is not None:
                        pass
            except TimeoutError:
                self._invariants.silent("a drain")
        if self._socket is not None:
            await self._socket.close()
        await self.lose()

    async def _ping(self) -> bool:
        await self.send({"type": "ping"})
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await self.receive()
                while answer is not None and answer["type"] == "error":  # of a `stop` that came too late
                    answer = await self.receive()
        except TimeoutError:
            self._invariants.silent("a ping")
            return False
        self._invariants.ponged(answer)
        return answer is not None
