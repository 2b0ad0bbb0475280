"""The virtual wire: a `Wire` to simulated providers that plays their scripts in virtual time.

    send -> slot (pool_s) -> connection, new (connect_s) or kept alive -> script up to its Head -> response
    response.read -> what the script has ready -> ... -> End: b"", the connection is kept

A provider goes on at its own pace while the client does not read: what it has sent meanwhile is ready at
once. Its script is played only when the client reads, so a call costs no task.
"""

import asyncio
import functools
from collections.abc import Generator, Mapping
from urllib.parse import urlsplit

from dub5.service.wire.base import FailureKind, Slot, Slots, Stage, WireFailure, WireRequest, origin_of
from dub5.simulators.faults.reachability import reachability_of
from dub5.simulators.script import (
    Action,
    Data,
    End,
    Gate,
    Hang,
    Head,
    Raw,
    Reset,
    Respond,
    Script,
    SimRequest,
    Until,
    Wait,
    drop,
)
from dub5.simulators.virtual.connect import Link, VirtualListener, connected

BODILESS = (204, 304)
READ_BYTES_MAX = 64 * 1024
HEAD_BYTES_MAX = 8 * 1024


class VirtualWire:
    """A `dub5.service.wire.base.Wire` to simulated providers.

    `respond_by_origin`: the provider by base URL or origin. Any other host does not resolve.
    """

    def __init__(self, respond_by_origin: Mapping[str, Respond], *, slots: Slots | None = None) -> None:
        self._respond = {origin_of(url): respond for url, respond in respond_by_origin.items()}
        self._links = {origin: Link() for origin in self._respond}
        self._slots = slots or Slots()
        self._open: dict[VirtualResponse, None] = {}
        self._listeners: dict[str, VirtualListener] = {}
        for origin, respond in self._respond.items():
            if (reachability := reachability_of(respond)) is not None:
                self._listeners[origin] = VirtualListener(
                    origin, self._links[origin], reachability, self._open
                )

    def link(self, url: str) -> Link:
        """Return the link to the origin of `url`."""
        return self._links[origin_of(url)]

    async def send(self, request: WireRequest) -> "VirtualResponse":
        slot = await self._slots.take(request.origin, request.pool_s)
        try:
            link, reused = await self._connect(request)
            script = self._respond[request.origin](_as_provider_sees(request))
        except BaseException:
            slot.free()
            raise
        response = VirtualResponse(script, link, slot, self._open, reused=reused)
        if listener := self._listeners.get(request.origin):
            listener.faults_changed()
        await response.start(bodiless=request.method == "HEAD")
        return response

    async def aclose(self) -> None:
        """Close every connection."""
        for response in list(self._open):
            await response.aclose()
        for listener in self._listeners.values():
            listener.close()

    async def _connect(self, request: WireRequest) -> tuple[Link, bool]:
        link, listener = self._links.get(request.origin), self._listeners.get(request.origin)
        if link is None:
            known = ", ".join(self._links) or "none"
            detail = f"no simulated provider at {request.origin}; providers: {known}"
            raise WireFailure(Stage.RESOLVE, FailureKind.REFUSED, sent=False, detail=detail)
        if listener is not None:
            listener.faults_changed()
        if link.idle and not request.fresh:
            link.idle -= 1
            if link.stale:
                raise WireFailure(Stage.WAIT, FailureKind.CLOSED, sent=True, reused=True)
            return link, True
        tls = request.origin.startswith("https:")
        await connected(
            link, listener.reachability if listener else None, tls=tls, connect_s=request.connect_s
        )
        return link, False


class VirtualResponse:
    """A response whose script is played as it is read."""

    status: int
    headers: Mapping[str, str]

    def __init__(
        self,
        script: Script,
        link: Link,
        slot: Slot,
        open_responses: "dict[VirtualResponse, None]",
        *,
        reused: bool,
    ) -> None:
        self.reused = reused
        self._script = script
        self._next: Action | None = None  # taken from the script, not yet played
        self.link = link
        self._slot = slot
        self._open = open_responses
        self._open[self] = None
        self.loop = asyncio.get_running_loop()
        self._at_s = self.loop.time()  # time of the script's next action
        self._left: int | None = None  # bytes still to come; None: the framing gives no length
        self._keep = True
        self._compressed = False
        self._waiter: asyncio.Future[None] | None = None

    async def start(self, *, bodiless: bool) -> None:
        """Play the script up to its head. Raises WireFailure(wait, ...)."""
        try:
            head = await self._head()
            self.status = head.status
            self.headers = {name.lower(): value for name, value in head.headers.items()}
            self._read_headers(bodiless or head.status in BODILESS)
        except BaseException:
            self._drop()
            raise

    async def read(self) -> bytes:
        """Return all bytes that are ready; `b""` at the proper end. Raises WireFailure(body, ...)."""
        try:
            if self._compressed:
                raise self._broken(Stage.BODY, FailureKind.PROTOCOL, "compressed though not requested")
            return await self._body() or self._finish()
        except BaseException:
            self._drop()
            raise

    async def aclose(self) -> None:
        """Give the connection back if the body was received to its end, else close it at once."""
        if self._left == 0:
            self._finish()
        self._drop()

    def drop(self) -> None:
        """Close the connection at the provider's side, whatever was still to come."""
        if self in self._open:
            drop(self._script)
            self._drop()

    async def _head(self) -> Head:
        while True:
            await self._catch_up()
            match next(self._script, None):
                case Head() as head:
                    return head
                case Wait(s):
                    self._at_s += s
                case Until(gate, s):
                    await self._sleep(s, gate)
                    self._at_s = self.loop.time()
                case Hang():
                    await self._sleep(None)
                case Reset():
                    raise self._broken(Stage.WAIT, FailureKind.RESET)
                case Raw(data) if _goes_on(data):
                    pass
                case Raw() | Data():
                    raise self._broken(Stage.WAIT, FailureKind.PROTOCOL, "no status line")
                case _:
                    raise self._broken(Stage.WAIT, FailureKind.CLOSED)

    def _read_headers(self, bodiless: bool) -> None:
        self._keep = self.headers.get("connection", "").lower() != "close"
        self._compressed = self.headers.get("content-encoding", "identity") not in ("identity", "")
        length = self.headers.get("content-length")
        if bodiless:
            self._left = 0
        elif length is not None:
            if not length.isdecimal():
                raise self._broken(Stage.WAIT, FailureKind.PROTOCOL, "content-length is no number")
            self._left = int(length)

    async def _body(self) -> bytes:
        """Return what is ready; wait only while nothing is. Empty when the framing says the body is whole."""
        ready = bytearray()
        while self._left != 0 and len(ready) < READ_BYTES_MAX:
            if not ready:
                await self._catch_up()
            elif self._at_s > self.loop.time():
                break
            action, self._next = self._next or next(self._script, None), None
            match action:
                case Wait(s):
                    self._at_s += s
                case Data(data):
                    ready += self._framed(data)
                case End() if self._left is None:
                    self._next, self._left = action, 0
                case _ if ready:
                    self._next = action
                    break
                case Hang():
                    await self._sleep(None)
                case Reset():
                    raise self._broken(Stage.BODY, FailureKind.RESET)
                case Raw() | Head():
                    raise self._broken(Stage.BODY, FailureKind.PROTOCOL, "bad framing")
                case _:
                    raise self._broken(Stage.BODY, FailureKind.CLOSED)
        return bytes(ready)

    def _framed(self, data: bytes) -> bytes:
        """Return the part of `data` that belongs to the body."""
        if self._left is None:
            return data
        inside = data[: self._left]
        self._left -= len(inside)
        self._keep = self._keep and len(inside) == len(data)
        return inside

    def _finish(self) -> bytes:
        """End a whole body: read the script to its end without waiting; keep the connection if possible."""
        action = self._next or next(self._script, None)
        while isinstance(action, Wait):
            action = next(self._script, None)
        self._drop(keep=self._keep and isinstance(action, End))
        return b""

    async def _catch_up(self) -> None:
        """Wait for the provider, unless it is ahead of the reader."""
        ahead_s = self._at_s - self.loop.time()
        if ahead_s > 0:
            await self._sleep(ahead_s)
            self._at_s = self.loop.time()

    async def _sleep(self, s: float | None, gate: Gate | None = None) -> None:
        """Sleep for `s` seconds, None: for ever; wake early when the connection ends or the gate opens."""
        waiter = self._waiter = self.loop.create_future()
        if gate is not None:
            gate.hold(functools.partial(_wake, waiter))
        timer = None if s is None else self.loop.call_later(s, _wake, waiter)
        try:
            await waiter
        finally:
            if timer:
                timer.cancel()

    def _broken(self, stage: Stage, kind: FailureKind, detail: str = "") -> WireFailure:
        return WireFailure(stage, kind, sent=True, reused=self.reused, detail=detail)

    def _drop(self, *, keep: bool = False) -> None:
        """End the connection, or keep it for the next call; close the script, as its client has left."""
        if self not in self._open:
            return
        del self._open[self]
        self._slot.free()
        self.link.idle += keep
        if isinstance(self._script, Generator):
            self._script.close()
        self._script = iter(())
        if self._waiter:
            _wake(self._waiter)


def _goes_on(raw: bytes) -> bool:
    """Return whether this may still become a response: a head without its end, or an informational one."""
    if len(raw) > HEAD_BYTES_MAX or not raw.startswith(b"HTTP/1.1 "):
        return False
    heads = raw.split(b"\r\n\r\n")
    return all(head.startswith((b"HTTP/1.1 100 ", b"HTTP/1.1 103 ")) for head in heads[:-1])


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _as_provider_sees(request: WireRequest) -> SimRequest:
    url = urlsplit(request.url)
    ours = {"host": url.netloc, "accept-encoding": "identity", "content-length": str(len(request.body))}
    return SimRequest(request.method, url.path or "/", {**request.headers, **ours}, request.body)
