"""The front end on real sockets: plays scripts, so that resets, early ends and wrong lengths are real.

    client --bytes--> RequestReader --> respond --> Script
    client <--bytes-- Framing <--- _play: runs the script up to its next wait; the timer, or a client
                                   that reads again, calls it once more

Call `serve(provider)`. A connection has neither task nor coroutine: ten thousand of them cost ten thousand
small objects. A script keeps its own time: a wait counts from when the script was due, so lateness does not
add up.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Generator
from typing import cast

from dub5.simulators.faults.reachability import reachability_of
from dub5.simulators.script import (
    Action,
    Close,
    Data,
    End,
    Hang,
    Head,
    Raw,
    Reset,
    Respond,
    Script,
    Until,
    Wait,
    drop,
)
from dub5.simulators.server.http1 import PIPELINED_MAX, Framing, Incoming, RequestReader, RequestRejected
from dub5.simulators.server.listener import SocketListener
from dub5.simulators.server.tls import Certificates, Droppable, reset

ACTIONS_PER_TURN = 200  # then the event loop serves other connections
BYTES_PER_WRITE = 64 * 1024
LINGER_S = 1.0  # reading goes on after a rejected request: an early close would reset the response away


class SocketServer:
    """A listening server. `url` has no slash at its end."""

    def __init__(self, host: str, port: int, connections: set[Droppable], tls: Certificates | None) -> None:
        self.host = host
        self.port = port
        self.url = f"{'https' if tls else 'http'}://{host}:{port}"
        self._connections = connections

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)


@contextlib.asynccontextmanager
async def serve(
    respond: Respond, *, host: str = "127.0.0.1", port: int = 0, tls: Certificates | None = None
) -> AsyncIterator[SocketServer]:
    """Listen while the block runs; port 0 takes a free port. The end of the block aborts every connection.

    Raises OSError if the port is taken, BadFault if an active fault cannot be played here.
    """
    connections: set[Droppable] = set()
    listener = SocketListener(
        host,
        port,
        lambda: _Connection(respond, connections),
        connections,
        reachability=reachability_of(respond),
        tls=tls,
    )
    try:
        yield SocketServer(host, listener.port, connections, tls)
    finally:
        await listener.aclose()
        while connections:
            for connection in list(connections):
                connection.abort()
            await asyncio.sleep(0)  # an aborted transport calls connection_lost in the loop's next iteration


class _Connection(asyncio.Protocol):
    """One connection of a client: its requests are answered one after another."""

    def __init__(self, respond: Respond, connections: set[Droppable]) -> None:
        self._respond = respond
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._reader = RequestReader()
        self._waiting: deque[Incoming] = deque()
        self._script: Script | None = None
        self._paused = False  # the script waits, or hangs
        self._stalled = False  # the client does not read
        self._timer: asyncio.Handle | None = None
        self._due_s = 0.0  # time of the script's next action
        self._out = bytearray()
        self._rejected = False  # after a rejected request nothing more is read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._rejected or self._transport.is_closing():
            return
        try:
            self._waiting.extend(self._reader.feed(data))
        except RequestRejected as refused:
            self._refuse(refused)
            return
        if len(self._waiting) > PIPELINED_MAX:
            self.abort()
            return
        if self._reader.expects_continue and self._script is None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._play()

    def eof_received(self) -> None:
        """Abort: an HTTP client that still wants its response does not close its half."""
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._connections.discard(self)

    def pause_writing(self) -> None:
        self._stalled = True

    def resume_writing(self) -> None:
        self._stalled = False
        self._play()

    def abort(self) -> None:
        """End the script and the connection at once."""
        self._stop()
        self._transport.abort()

    def drop(self) -> None:
        """End the script and the connection at once, because the provider is gone."""
        if self._script is not None:
            drop(self._script)
        self.abort()

    def _wake(self) -> None:
        self._paused = False
        self._play()

    def _gate_opened(self) -> None:
        """Go on in the loop's next iteration: the gate may be opened within another connection's turn."""
        if self._script is not None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_soon(self._wake_anew)

    def _wake_anew(self) -> None:
        self._due_s = self._loop.time()
        self._wake()

    def _play(self) -> None:
        try:
            self._turn()
            self._flush()
        except BaseException:  # a script that raises must not leave its client waiting for ever
            self.abort()
            raise

    def _turn(self) -> None:
        for _ in range(ACTIONS_PER_TURN):
            if self._paused or self._stalled or self._transport.is_closing():
                return
            if self._script is None and not self._begin():
                return
            assert self._script is not None
            self._act(next(self._script, None))
            if len(self._out) > BYTES_PER_WRITE:
                self._flush()
        self._pause(self._loop.call_soon(self._wake))

    def _begin(self) -> bool:
        """Begin the next request; return False if there is none."""
        if not self._waiting:
            return False
        incoming = self._waiting.popleft()
        self._framing = Framing(incoming)
        self._due_s = self._loop.time()
        self._script = self._respond(incoming.request)
        return True

    def _act(self, action: Action | None) -> None:
        match action:
            case Data(data):
                self._out += self._framing.data(data)
            case Wait(s):
                self._due_s += s
                if self._due_s > self._loop.time():
                    self._pause(self._loop.call_at(self._due_s, self._wake))
            case Until(gate, s):
                self._pause(None if s is None else self._loop.call_later(s, self._wake_anew))
                gate.hold(self._gate_opened)
            case Head():
                self._out += self._framing.head(action)
            case Raw(data):
                self._out += data
            case Hang():
                self._pause(None)
            case End():
                self._out += self._framing.end()
                self._finish(keep=self._framing.keeps)
            case Reset():
                self._reset()
            case Close() | None:
                self._finish(keep=False)

    def _pause(self, timer: asyncio.Handle | None) -> None:
        self._paused, self._timer = True, timer

    def _finish(self, *, keep: bool) -> None:
        self._stop()
        if not keep:
            self._flush()
            self._transport.close()

    def _reset(self) -> None:
        self._flush()
        self._stop()
        reset(self._transport)

    def _flush(self) -> None:
        if self._out and not self._transport.is_closing():
            self._transport.write(bytes(self._out))
        self._out.clear()

    def _stop(self) -> None:
        """Close the script, whether it has been played to its end or not."""
        script, self._script = self._script, None
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._paused = None, False
        if isinstance(script, Generator):
            script.close()

    def _refuse(self, refused: RequestRejected) -> None:
        """Send the reason, then read and discard for LINGER_S."""
        if self._script is not None:
            self.abort()
            return
        self._rejected = True
        self._waiting.clear()
        self._transport.write(refused.answer())
        if self._transport.can_write_eof():  # not with TLS
            self._transport.write_eof()
        self._pause(self._loop.call_later(LINGER_S, self.abort))
