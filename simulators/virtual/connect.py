"""How a new connection fares in virtual time: by the switches of its link, and by the faults that are set.

look-up -> port (connect_s) -> handshake, if it is https -> open
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

SYN_AGAIN_S = 1.0  # a dropped SYN is sent again: who still waits then may find the port open
TIMER_S_MIN = 1e-6
HANDSHAKE = {"close": FailureKind.CLOSED, "reset": FailureKind.RESET}  # else it is no TLS, or none to trust
NO_TLS = "the provider's address here is plain http, so there is no handshake to fail: give VirtualWire an https one"


class Connect(Enum):
    """How a new connection fares."""

    OPENS = auto()
    REFUSED = auto()
    STALLS = auto()
    UNRESOLVED = auto()  # the name is unknown


@dataclass
class Link:
    """The way to one origin; change it while the world runs."""

    connect: Connect = Connect.OPENS
    connect_s: float = 0.0
    stale: bool = False  # kept-alive connections turn out to be closed at their next use
    idle: int = 0  # connections kept alive


class VirtualCall(Protocol):
    """A call under way."""

    link: Link
    loop: asyncio.AbstractEventLoop

    def drop(self) -> None:
        """The provider closes its connection."""
        ...


class VirtualListener:
    """Where one provider's faults meet its connections: `simulators.faults.reachability.Listener`."""

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
        """Drops every connection if a fault says so; looks again in time while there are calls under way."""
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
        """Faults are no more acted upon."""
        self.reachability.detach(self)
        self._forget_timer()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def connected(link: Link, reachability: Reachability | None, *, tls: bool, connect_s: float) -> None:
    """Returns when the connection is open. Raises WireFailure, after `connect_s` seconds at the latest."""
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
