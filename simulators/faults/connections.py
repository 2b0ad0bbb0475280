"""Connection faults, before any HTTP: name lookup, TCP connect or TLS handshake fails."""

from typing import Literal, get_args

from dub5.simulators.faults.base import Fault
from dub5.simulators.personas.base import Persona, PersonaContext
from dub5.simulators.script import Script

ConnectStage = Literal["resolve", "connect", "tls"]
Silent = Literal["refused", "stall"]
Handshake = Literal["close", "reset", "stall", "garbage", "expired", "wrong_name"]
ConnectionFailure = Silent | Handshake
HOWS: dict[str, tuple[str, ...]] = {
    "resolve": get_args(Silent),
    "connect": get_args(Silent),
    "tls": get_args(Handshake),
}


class Unreachable(Fault, frozen=True, tag="unreachable"):
    """New connections fail; open connections stay, unless `closes_open` ends them all when an outage begins.

    resolve and connect: refused, stall; tls: close, reset, stall, garbage, expired, wrong_name. The fault
    applies to connections: `share` and `first` count connections, and a step of a sequence waits for the next
    connection.
    """

    stage: ConnectStage = "connect"
    how: ConnectionFailure = "refused"
    closes_open: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.how not in HOWS[self.stage]:
            raise ValueError(
                f"`how` of `{self.stage}` is one of {', '.join(HOWS[self.stage])}; not `{self.how}`"
            )
        if self.closes_open and self.stage != "connect":
            raise ValueError("`closes_open` needs the stage `connect`")
        if self.model is not None:
            raise ValueError("a connection is opened before a `model` is named")

    @property
    def selective(self) -> bool:
        """Whether the fault hits some connections and lets others through."""
        return self.share < 1 or self.first is not None

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        return script  # a request that arrived has a connection already
