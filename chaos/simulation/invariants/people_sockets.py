"""WebSockets: what each of them promises, whatever is asked over it.

rule           says
socket_honest  a socket that is let in says `ready` first, answers pings, and says `bye` before a drain closes
               it; one that is not let in says why before it is closed
"""

from typing import Any

from dub5.chaos.simulation.invariants.record import RunRecord

SWITCHING, PROTOCOL = 101, "dub5.v1"
DRAIN, TRY_LATER, NO_ACCESS = 1012, 1013, 4401


class SocketInvariants:
    """Observes one connection of a client."""

    def __init__(self, record: RunRecord, who: str) -> None:
        self._record = record
        self._who = who
        self._first = ""
        self._said_bye = False

    def opened(self, status: int, subprotocol: str | None) -> bool:
        """Check the answer to the handshake; return whether there is a connection."""
        if (status, subprotocol) != (SWITCHING, PROTOCOL):
            self._violated(f"the handshake is answered with {status}, {subprotocol}")
        return status == SWITCHING

    def received(self, message: dict[str, Any]) -> None:
        """Check a message."""
        kind = message["type"]
        if not self._first and kind not in ("ready", "error"):
            self._violated(f"it begins with {kind}")
        self._first = self._first or kind
        if kind == "bye":
            self._said_bye = True
            self._record.sometimes["bye on drain"] += message["why"] == "drain"
            self._record.log(f"{self._who} is told to go")

    def ponged(self, answer: dict[str, Any] | None) -> None:
        """Check the answer to a ping; None: the connection is closed, for a reason that `closed` checks."""
        if answer is not None and answer["type"] != "pong":
            self._violated(f"a ping is answered with {answer['type']}")

    def closed(self, code: int, *, excused: bool) -> None:
        """Check the end. `excused`: the process has died, or the client has not read."""
        self._record.log(f"{self._who} is closed with {code}")
        let_in = self._first == "ready"
        honest = code == DRAIN and self._said_bye if let_in else code in (DRAIN, TRY_LATER, NO_ACCESS)
        if not (excused or (honest and self._first)):
            self._violated(f"it is closed with {code} after {self._first}, bye: {self._said_bye}")

    def silent(self, what: str) -> None:
        """Note that nothing came where something had to."""
        self._violated(f"nothing comes after {what}")

    def _violated(self, what: str) -> None:
        self._record.violated("socket_honest", f"{self._who}: {what}")
