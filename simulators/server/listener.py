"""The listening socket of a provider: open, refusing or stalling, as the active faults demand; and its TLS.

    open <--> refused   the port is bound, but no socket listens: the kernel refuses connections
      ^-----> stall     the backlog is full: the kernel drops every SYN (Linux)

Existing connections stay, unless a fault closes them as well.
"""

import asyncio
import contextlib
import errno
import socket
import ssl
import sys
from collections.abc import Callable

from dub5.simulators.faults.connections import Unreachable
from dub5.simulators.faults.reachability import Reachability
from dub5.simulators.server.tls import BadHandshake, Certificates, Droppable

BACKLOG = 1024
ACCEPTS_PER_TURN = 100  # then the event loop serves other connections
FILLERS = 3  # connections that fill a backlog of zero
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
EXHAUSTED_S = 1.0
TIMER_S_MIN = 0.001

NO_NAMES = (
    "the client looks up the name before it connects: point the client at a name that does not resolve, "
    "for example one under `.invalid`, or use the virtual wire"
)
NO_TLS = "this provider speaks plain http, so there is no handshake to fail: start it with `tls = true`"
NO_COUNT = (
    "on real sockets the kernel refuses all connections alike: they cannot be drawn or counted, "
    "so leave out `share`, `first` and sequences; windows (at_s, for_s, every_s, up_s, down_s) work"
)
NO_BACKLOG = "a stalled connect needs a backlog that can be filled, as on Linux; use the virtual wire"


class SocketListener:
    """A listening socket, from its construction on.

    Raises OSError if the port is taken, BadFault if an active fault cannot be played.
    """

    def __init__(
        self,
        host: str,
        port: int,
        factory: Callable[[], asyncio.BaseProtocol],
        connections: set[Droppable],
        *,
        reachability: Reachability | None,
        tls: Certificates | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._address = (host, port)
        self._factory = factory
        self._connections = connections
        self._reachability = reachability
        self._tls = tls
        self._state = "open"
        self._fillers: list[socket.socket] = []
        self._closed_fillers: set[object] = set()  # their addresses: they may still wait in the backlog
        self._opening: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._resume_timer: asyncio.TimerHandle | None = None
        if reachability is not None:
            reachability.attach(self)
        try:
            self._socket = self._bound()
            self._address = self._socket.getsockname()[:2]
            self._listen()
        except BaseException:
            self._detach()
            raise
        self._drop_count = reachability.drop_count() if reachability else 0
        self.faults_changed()

    @property
    def port(self) -> int:
        """The port that the socket listens on."""
        return int(self._address[1])

    def why_unsupported(self, fault: Unreachable, *, selective: bool) -> str:
        match fault.stage:
            case "resolve":
                return NO_NAMES
            case "tls":
                return "" if self._tls else NO_TLS
            case _ if selective:
                return NO_COUNT
        return NO_BACKLOG if fault.how == "stall" and sys.platform != "linux" else ""

    def faults_changed(self) -> None:
        """Apply the active faults, and schedule the next check."""
        if self._reachability is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        fault = self._reachability.blocking_fault()
        state = "open" if fault is None else fault.how
        if state != self._state:
            self._become(state)
        drop_count = self._reachability.drop_count()
        if drop_count != self._drop_count:
            self._drop_count = drop_count
            self._drop_all()
        after_s = self._reachability.next_change_s()
        if after_s is not None:
            self._timer = self._loop.call_later(max(after_s, TIMER_S_MIN), self.faults_changed)

    async def aclose(self) -> None:
        """Stop listening; connections that are not yet open are closed."""
        self._detach()
        for timer in (self._timer, self._resume_timer):
            if timer is not None:
                timer.cancel()
        self._pause()
        self._unfill()
        self._socket.close()
        opening = list(self._opening)
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)

    def _become(self, state: str) -> None:
        if self._state == "open":
            self._accept()  # these connections came before the fault
        self._pause()
        self._state = state
        match state:
            case "refused":
                self._unfill()
                self._socket.close()
                self._socket = self._bound()
            case "stall":
                self._socket.listen(0)
                self._fill()
            case _:
                self._unfill()
                self._listen()

    def _bound(self) -> socket.socket:
        """Return a socket bound to the port; until it listens, the kernel refuses connections."""
        host, port = self._address
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind((host, port))
        except OSError as error:
            sock.close()
            raise OSError(error.errno, f"{host}:{port}: {(error.strerror or '').lower()}") from None
        return sock

    def _listen(self) -> None:
        self._socket.listen(BACKLOG)
        self._loop.add_reader(self._socket, self._accept)

    def _pause(self) -> None:
        self._loop.remove_reader(self._socket)

    def _fill(self) -> None:
        for _ in range(FILLERS):
            filler = socket.socket(self._socket.family)
            filler.setblocking(False)
            filler.connect_ex(self._address)
            self._fillers.append(filler)

    def _unfill(self) -> None:
        self._closed_fillers = {filler.getsockname() for filler in self._fillers}
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                self._pause()
                self._resume_timer = self._loop.call_later(EXHAUSTED_S, self._resume)
                return
            if peer in self._closed_fillers:
                self._closed_fillers.discard(peer)
                sock.close()
            else:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # small pieces are not held back
                self._start(sock)

    def _resume(self) -> None:
        if self._state == "open":
            self._loop.add_reader(self._socket, self._accept)

    def _start(self, sock: socket.socket) -> None:
        factory, context = self._factory, None
        if self._tls is not None:
            fault = self._reachability.fault_for_new_connection("tls") if self._reachability else None
            how = fault.how if fault else "good"
            context = self._tls.contexts.get(how)
            if context is None:
                factory = lambda: BadHandshake(how, self._connections)
        task = self._loop.create_task(self._open(sock, factory, context))
        self._opening.add(task)
        task.add_done_callback(lambda done: self._opened(done, sock))

    def _opened(self, task: asyncio.Task[None], sock: socket.socket) -> None:
        self._opening.discard(task)
        if task.cancelled():
            sock.close()  # a task that is cancelled before its first step closes nothing

    async def _open(
        self, sock: socket.socket, factory: Callable[[], asyncio.BaseProtocol], context: ssl.SSLContext | None
    ) -> None:
        with contextlib.suppress(OSError):  # the client rejected the certificate, or has left
            await self._loop.connect_accepted_socket(factory, sock, ssl=context)

    def _drop_all(self) -> None:
        for task in self._opening:
            task.cancel()
        for connection in list(self._connections):
            connection.drop()

    def _detach(self) -> None:
        if self._reachability is not None:
            self._reachability.detach(self)
