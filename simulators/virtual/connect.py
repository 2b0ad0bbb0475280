"""New connections in virtual time: the switches of the link and the active faults decide whether they open.

look-up -> port (connect_s) -> handshake, if the url is https -> open
resolve    connect             tls
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from dub5.service.wire.base import FailureKind, Stage, WireFailure
from dub5.simulators.faults.connections import Unreachable
from dub5.simulators.faults.reachability import Reachability

SYN_AGAIN_S = 1.0  # a dropped SYN is sent again: a client that still waits then may find the port open
TIMER_S_MIN = 1e-6
HANDSHAKE = {
    "close": FailureKind.CLOSED,
    "reset": FailureKind.RESET,
}  # else no TLS, or an untrusted certificate
NO_TLS = "the provider's url is plain http, so there is no handshake to fail: give VirtualWire an https url"


class Connect(Enum):
    """What happens to new connections."""

    OPENS = auto()
    REFUSED = auto()
    STALLS = auto()
    UNRESOLVED = auto()  # the name does not resolve


@dataclass
class Link:
    """The network link to one origin; its fields may be changed at any time."""

    connect: Connect = Connect.OPENS
    connect_s: float = 0.0
    stale: bool = False  # kept-alive connections turn out to be closed at their next use
    idle: int = 0  # number of connections kept alive


class VirtualCall(Protocol):
    """A call under way."""

    link: Link
    loop: asyncio.AbstractEventLoop

    def drop(self) -> None:
        """Close the connection at the provider's side."""
        ...


class VirtualListener:
    """A `faults.reachability.Listener`: applies one provider's faults to its virtual connections."""

    def __init__(
        self, origin: str, link: Link, reachability: Reachability, calls: Iterable[VirtualCall]
    ) -> None:
        self.reachability = reachability
        self._origin = origin
        self._link = link
        self._calls = calls
        self._drop_count = reachability.drop_count()
        self._timer: asyncio.TimerHandle | None = None
        reachability.attach(self)

    def why_unsupported(self, fault: Unreachable, *, selective: bool) -> str:
        return NO_TLS if fault.stage == "tls" and not self._origin.startswith("https:") else ""

    def faults_changed(self) -> None:
        """Drop all connections if a fault closes them; schedule the next check while calls are under way."""
        self._forget_timer()
        drop_count, after_s = self.reachability.drop_count(), self.reachability.next_change_s()
        if drop_count == self._drop_count and after_s is None:
            return
        ours = [call for call in self._calls if call.link is self._link]
        if drop_count != self._drop_count:
            self._drop_count, self._link.idle = drop_count, 0
            for call in ours:
                call.drop()
        elif ours and after_s is not None:
            self._timer = ours[0].loop.call_later(max(after_s, TIMER_S_MIN), self.faults_changed)

    def close(self) -> None:
        """Stop applying faults."""
        self.reachability.detach(self)
        self._forget_timer()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def connected(link: Link, reachability: Reachability | None, *, tls: bool, connect_s: float) -> None:
    """Wait until the connection is open. Raises WireFailure, after `connect_s` seconds at the latest."""
    stage = Stage.RESOLVE
    try:
        async with asyncio.timeout(connect_s):
            await _resolve(link, reachability)
            stage = Stage.CONNECT
            await _connect(link, reachability)
            if tls:
                await _handshake(reachability)
    except TimeoutError:
        raise WireFailure(stage, FailureKind.TIMEOUT, sent=False) from None


async def _resolve(link: Link, reachability: Reachability | None) -> None:
    fault = reachability.fault_for_new_connection("resolve") if reachability else None
    if link.connect is Connect.UNRESOLVED or (fault and fault.how == "refused"):
        raise WireFailure(Stage.RESOLVE, FailureKind.REFUSED, sent=False)
    if fault:
        await _for_ever()


async def _connect(link: Link, reachability: Reachability | None) -> None:
    if link.connect is Connect.STALLS:
        await _for_ever()
    fault = reachability.fault_for_new_connection("connect") if reachability else None
    if reachability and fault and fault.how == "stall":
        await _dropped(reachability, fault)
        fault = None
    if link.connect_s:
        await asyncio.sleep(link.connect_s)
    if fault or link.connect is Connect.REFUSED:
        raise WireFailure(Stage.CONNECT, FailureKind.REFUSED, sent=False)


async def _dropped(reachability: Reachability, fault: Unreachable) -> None:
    while reachability.still_active(fault):
        await asyncio.sleep(SYN_AGAIN_S)


async def _handshake(reachability: Reachability | None) -> None:
    fault = reachability.fault_for_new_connection("tls") if reachability else None
    if fault is None:
        return
    if fault.how == "stall":
        await _for_ever()
    raise WireFailure(
        Stage.CONNECT, HANDSHAKE.get(fault.how, FailureKind.PROTOCOL), sent=False, detail=f"tls: {fault.how}"
    )


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()
