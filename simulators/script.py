"""The script of an answer: what a simulated provider does, as a lazy sequence of actions.

    request -> persona (a healthy script) -> fault, fault ... (script to script) -> front end plays it
                                                              server/sockets.py | virtual/wire.py

A script is lazy, so an endless or a very slow answer costs nothing until it is played.
The front end closes the script when the client leaves: a `finally` in a generator runs then.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing happens for `s` seconds."""

    s: float


class Gate:
    """A gate that holds up one script at a time until it is opened."""

    def __init__(self) -> None:
        self._wake: Callable[[], None] | None = None

    def hold(self, wake: Callable[[], None]) -> None:
        """Register the front end's `wake`; it is called once, when the gate opens."""
        self._wake = wake

    def open(self) -> None:
        """Wake the script that is held up now; the script checks again whether it may go on."""
        wake, self._wake = self._wake, None
        if wake is not None:
            wake()


@dataclass(frozen=True, slots=True)
class Until:
    """Nothing happens until the gate is opened, or until `s` seconds have passed. Only before the head."""

    gate: Gate
    s: float | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers. Without `content-length` the body is sent in HTTP chunks."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of the body; `tokens` is the number of the answer's tokens in them."""

    data: bytes
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes put on the connection as they are: for broken status lines and broken chunks."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset (TCP RST)."""


@dataclass(frozen=True, slots=True)
class Close:
    """The connection is closed (TCP FIN) without the end that the framing promised."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Nothing more happens until the client leaves."""


@dataclass(frozen=True, slots=True)
class End:
    """The body ends as its framing promised; the connection lives on."""


Action = Wait | Until | Head | Data | Raw | Reset | Close | Hang | End
Script = Iterator[Action]


@dataclass(frozen=True, slots=True)
class SimRequest:
    """A request as a provider sees it; header names are lower case, `path` is without the query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    query: str = ""


Respond = Callable[[SimRequest], Script]


class Dropped(Exception):
    """Thrown into a script whose connection the provider loses; a client that leaves only closes it."""


def drop(script: Script) -> None:
    """End a script whose connection is lost at the provider's side."""
    if isinstance(script, Generator):
        with contextlib.suppress(Dropped, StopIteration):
            script.throw(Dropped())
