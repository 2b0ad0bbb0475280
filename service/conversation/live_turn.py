"""A turn while it is answered: what it has said so far, and who listens. It outlives every connection.

    LiveTurn      open -> begin -> add ... -> end      written by the one who answers
    TurnListener  Opened, Begun, text ..., Finished or Failed      read by as many as like

A position is a number of bytes of the answer, in UTF-8, as TCP numbers a stream (RFC 9293, 3.4). So a turn is
read on from any position, whether its pieces are known or its text comes from the database.
"""

import asyncio
from collections.abc import Mapping

from msgspec import Struct

from dub5.service.conversation.model import Pruned, Turn
from dub5.service.errors import GatewayError, InvalidRequest, Overloaded

LISTENERS_MAX = 16  # of one turn
Key = tuple[str, str, str]  # owner, conversation, and what the question was asked as


class Opened(Struct, frozen=True):
    """The question will be asked, or was. `kept`: it is in the database."""

    asked_as: str
    conversation: str
    kept: bool
    flags: tuple[str, ...] = ()


class Begun(Struct, frozen=True):
    """The answer begins. `headers`: what an HTTP response says of it beside."""

    route: str
    target: str | None = None
    trail: str = ""
    degraded: str | None = None
    pruned: Pruned | None = None
    memory_lost: bool = False
    headers: Mapping[str, str] = {}


class Finished(Struct, frozen=True):
    """The turn is over, whole or not: its outcome says so."""

    view: Turn


class Failed(Struct, frozen=True):
    """The turn is over without a whole answer. `request_id`: the id under which the log has the error."""

    error: GatewayError
    request_id: str


TurnStep = Opened | Begun | str | Finished | Failed


def _do_nothing() -> None:
    """Do nothing: nobody answers the turn."""


class LiveTurn:
    """The answer of one turn so far.

    `stop` ends it. `unheard` is called when its last listener leaves, `heard` when one comes after that.
    """

    def __init__(self, id_: str, key: Key) -> None:
        self.id = id_
        self.key = key
        self.opened: Opened | None = None
        self.begun: Begun | None = None
        self.over: Finished | Failed | None = None
        self.size = 0  # bytes of the answer so far
        self.pieces: list[str] = []
        self.listeners: set[TurnListener] = set()
        self.stop = self.unheard = self.heard = _do_nothing
        self._waiters: list[asyncio.Future[None]] = []

    @classmethod
    def of(cls, view: Turn, owner: str) -> "LiveTurn":
        """Return a turn that has ended, as the database has it."""
        live = cls(view.id, (owner, view.conversation, view.asked_as))
        live.repeat(view)
        return live

    @property
    def owner(self) -> str:
        """Whose turn it is."""
        return self.key[0]

    def open(self, opened: Opened) -> None:
        """Say that the question is asked."""
        self.opened = opened
        self._wake()

    def begin(self, begun: Begun) -> None:
        """Say who answers."""
        self.begun = begun
        self._wake()

    def add(self, text: str) -> None:
        """Say a piece of the answer."""
        self.pieces.append(text)
        self.size += len(text.encode())
        self._wake()

    def end(self, over: Finished | Failed) -> None:
        """Say how it ended, once."""
        if self.over is not None:
            return
        if isinstance(over, Finished) and self.begun is None:  # it ended before its first piece
            self.begun = Begun(over.view.model)
        self.over = over
        self.stop = self.unheard = self.heard = _do_nothing  # it is remembered, who answered it is not
        self._wake()

    def repeat(self, view: Turn) -> None:
        """Be a turn that has ended before."""
        self.id = view.id
        self.opened = Opened(view.asked_as, view.conversation, view.kept, view.flags)
        self.begun = Begun(view.model, view.target, degraded=view.degraded)
        if view.answer:
            self.add(view.answer)
        self.end(Finished(view))

    def listen(self, after: int = 0, *, resumed: bool = False) -> "TurnListener":
        """Return a listener from a position on. Raises InvalidRequest, Overloaded.

        One who resumes knows that the turn is open.

        What has ended may be known with less text than was said: after a crash, nothing of it is.
        """
        if len(self.listeners) >= LISTENERS_MAX:
            raise Overloaded("Too many connections read this turn.", retry_after_s=1.0)
        if after > self.size and self.over is None:
            raise InvalidRequest(f"after: this turn has said {self.size:,} bytes only.", param="after")
        listener = TurnListener(self, min(after, self.size), resumed)
        if not self.listeners:
            self.heard()
        self.listeners.add(listener)
        return listener

    def leave(self, listener: "TurnListener") -> None:
        """Remove a listener."""
        if listener not in self.listeners:
            return
        self.listeners.remove(listener)
        self._wake()  # it may be waiting
        if not self.listeners and self.over is None:
            self.unheard()

    def text_after(self, position: int) -> str:
        """Return the answer from a position on. Raises InvalidRequest for one inside of a character."""
        try:
            return "".join(self.pieces).encode()[position:].decode()
        except UnicodeDecodeError:
            raise InvalidRequest("after: no message of this turn had this number.", param="after") from None

    async def changed(self) -> None:
        """Wait until something is said, or a listener leaves."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    async def wait_until_over(self) -> None:
        """Wait for the end."""
        while self.over is None:
            await self.changed()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class TurnListener:
    """One reader of a turn. `start`: the position where it begins; `seq`: up to where it has read."""

    __slots__ = ("_begun", "_next", "_opened", "_over", "_rest", "live", "seq", "start")

    def __init__(self, live: LiveTurn, start: int, resumed: bool) -> None:
        self._rest = live.text_after(start) if start < live.size else ""
        self._next = len(live.pieces)  # the first piece after `_rest`
        self._opened = resumed
        self._begun = self._over = False
        self.live = live
        self.start = self.seq = start

    async def read(self) -> list[TurnStep]:
        """Return all that is new, at least one step; nothing after the end, or after it has left."""
        while self in self.live.listeners:
            steps = self._new()
            if steps or self._over:
                return steps
            await self.live.changed()
        return []

    def leave(self) -> None:
        """Listen no more."""
        self.live.leave(self)

    def _new(self) -> list[TurnStep]:
        live, steps = self.live, list[TurnStep]()
        if live.opened is not None and not self._opened:
            self._opened = True
            steps.append(live.opened)
        if live.begun is not None and not self._begun:
            self._begun = True
            steps.append(live.begun)
        if self._begun and self.seq < live.size:
            steps.append(self._rest + "".join(live.pieces[self._next :]))
            self._rest, self._next, self.seq = "", len(live.pieces), live.size
        if live.over is not None and not self._over:
            self._over = True
            steps.append(live.over)
        return steps
