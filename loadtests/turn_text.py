"""What a client has read of one turn, over one connection or several: a gap or a repeat does not go unseen.

Independent of the service's own code on purpose. `seq` is the position in the answer, in bytes of UTF-8, up
to which a client has read (docs/use/conversations.md). Only a turn that was cut by a crash may be known with
less text than was read before.

    read = TurnText()
    read.take(message)     each message, in the order of its arrival
    read.lost()            the connection is gone: resume after `read.position`, and go on taking messages
    read.problem           the first thing that was wrong, or ""
"""

from typing import Any

from msgspec import Struct

TERMINAL = ("end", "error")
BEFORE = {  # which message may come before, on one connection
    "accepted": ("",),
    "begin": ("", "accepted"),
    "delta": ("begin", "delta"),
    "end": ("begin", "delta"),
    "error": ("", "accepted", "begin", "delta"),
}


class WireMessage(Struct):
    """A message of the service, of any type; what it does not have is None or empty."""

    type: str
    turn: str | None = None
    seq: int | None = None
    text: str = ""
    id: str | None = None
    conversation: str = ""
    kept: bool | None = None
    target: str | None = None
    degraded: str | None = None
    memory: str | None = None
    outcome: str = ""
    error: dict[str, Any] = {}


class TurnText:
    """The answer so far. `accepted_kept`: the question is in the database; `kept`: the whole turn is."""

    def __init__(self) -> None:
        self.turn = ""
        self.conversation = ""
        self.text = ""
        self.position = 0
        self.pieces = 0
        self.target = ""
        self.degraded: str | None = None
        self.memory_lost = False
        self.accepted_kept: bool | None = None
        self.outcome = ""
        self.kept = False
        self.error = ""  # its code
        self.losses = 0
        self.problem = ""
        self._before = ""
        self._is_rewound = False

    @property
    def is_over(self) -> bool:
        """Whether the turn has ended, one way or the other."""
        return bool(self.outcome or self.error)

    def lost(self) -> None:
        """Note that the connection is gone."""
        self.losses += 1
        self._before = ""

    def take(self, message: WireMessage) -> None:
        """Note a message of this turn."""
        kind = message.type
        if self._before in TERMINAL:
            self._note(f"{kind} after the end")
        elif self._before not in BEFORE.get(kind, ()):
            self._note(f"{kind} after {self._before or 'nothing'}")
        self._before = kind
        if message.turn is not None:
            if self.turn and message.turn != self.turn:
                self._note("a message of another turn")
            self.turn = self.turn or message.turn
        if kind == "accepted":
            self.conversation, self.accepted_kept = message.conversation, message.kept
        elif kind == "delta":
            if self._is_rewound:
                self._note(f"a repeat: it goes on at {message.seq} after {self.position}")
            self.text += message.text
            self.pieces += 1
            self._check_position(message, self.position + len(message.text.encode()))
        elif kind == "begin" and self.losses and message.seq is not None and message.seq < self.position:
            self._is_rewound = True
        elif kind == "begin" or (message.seq is not None and not self._is_rewound):
            self._check_position(message, self.position)
        if kind == "begin":
            self._about(message)
        elif kind == "end":
            self.outcome, self.kept = message.outcome, bool(message.kept)
            if self._is_rewound and self.outcome != "cut":
                self._note(f"the service knows less of a turn that is {self.outcome}")
        elif kind == "error":
            self.error = str(message.error.get("code"))

    def _about(self, message: WireMessage) -> None:
        self.target, self.degraded = message.target or "", message.degraded
        self.memory_lost = message.memory == "lost"

    def _check_position(self, message: WireMessage, expected: int) -> None:
        seq = message.seq
        if seq != expected:
            what = "no position" if seq is None else "a gap" if seq > expected else "a repeat"
            self._note(f"{what}: {message.type} at {seq} instead of {expected}")
        self.position = expected

    def _note(self, problem: str) -> None:
        self.problem = self.problem or problem
