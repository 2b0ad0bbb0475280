"""Faults before a word of HTTP: the name, the port and the handshake fail, as those of a host that is gone."""

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
    """New connections fail; open ones live on, unless `closes_open` ends them, busy or not, as an outage begins.

    resolve and connect: refused, stall; tls: close, reset, stall, garbage, expired, wrong_name. It strikes
    connections, not requests: `share` and `first` count those, and as a step of a sequence it waits for the next.
    """

    stage: ConnectStage = "connect"
    how: ConnectionFailure = "refused"
    closes_open: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.how not in HOWS[self.stage]:
            raise ValueError(f"`{self.stage}` fails by: {', '.join(HOWS[self.stage])}; not by `{self.how}`")
        if self.closes_open and self.stage != "connect":
            raise ValueError("`closes_open` goes with the stage `connect`")
        if self.model is not None:
            raise ValueError("a connection is opened before a `model` is named")

    @property
    def selective(self) -> bool:
        """Whether it strikes some connections and spares others."""
        return self.share < 1 or self.first is not None

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        return script  # who has come this far has been spared
