"""Mixes of load: requests and people, drawn by their shares, from mixes.toml. Call `load(name)`."""

from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from dub5.loadtests.prompts import question

MIXES = Path(__file__).with_name("mixes.toml")
PositiveInt = Annotated[int, Meta(ge=1)]
Weight = Annotated[float, Meta(gt=0)]
Part = Annotated[float, Meta(ge=0, le=1)]


class RequestKind(Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of request.

    `prompts`: number of different questions; None: each question is new. `leave_after_s`: the client
    disconnects this many seconds after the request was sent. `direct`: the request bypasses the service.
    """

    name: str
    share: Weight
    stream: bool = True
    temperature: float | None = None
    prompts: PositiveInt | None = None
    leave_after_s: Annotated[float, Meta(gt=0)] | None = None
    direct: bool = False

    def body(self, model: str, rng: Random) -> dict[str, Any]:
        """Return the body of a chat completion request."""
        text = f"{self.name}, question {rng.randrange(self.prompts)}" if self.prompts else question(rng)
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}]}
        if self.stream:
            body["stream"] = True
        if self.temperature is not None:
            body["temperature"] = self.temperature
        return body


class PersonKind(Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of person, who holds a conversation of several turns.

    `turns`: the fewest and the most. `think_s`: mean of the time before each further question. `stops`: share
    of the turns that the person ends in mid-answer. `loses`: share of those that lose the connection in
    mid-answer; it is back after `away_s` (mean), and the turn is read on. One of `personalities` answers.
    """

    name: str
    share: Weight
    carrier: Literal["sse", "websocket"]
    turns: tuple[PositiveInt, PositiveInt] = (2, 5)
    think_s: Annotated[float, Meta(ge=0)] = 1.0
    stops: Part = 0.0
    loses: Part = 0.0
    away_s: Annotated[float, Meta(ge=0)] = 0.3
    personalities: tuple[str, ...] = ()

    def model(self, route: str, rng: Random) -> str:
        """Draw the model name of a conversation."""
        return f"{route}:{rng.choice(self.personalities)}" if self.personalities else route


class Mix(Struct, frozen=True, forbid_unknown_fields=True):
    """Kinds of requests and of people, drawn by their shares. `latency`: preset of the providers."""

    why: str
    ask: tuple[RequestKind, ...] = ()
    person: tuple[PersonKind, ...] = ()
    latency: str = "quick"

    def draw(self, rng: Random) -> RequestKind | PersonKind:
        """Draw a kind of request or of person."""
        kinds: tuple[RequestKind | PersonKind, ...] = (*self.ask, *self.person)
        return rng.choices(kinds, [kind.share for kind in kinds])[0]


def load(name: str, path: Path = MIXES) -> Mix:
    """Read a mix. Raises ValueError, which lists the valid names or says what is wrong with the file."""
    mixes = msgspec.toml.decode(path.read_bytes(), type=dict[str, Mix])
    if name not in mixes:
        raise ValueError(f"No mix {name!r} in {path.name}. Valid names: {', '.join(mixes)}.")
    if not (mixes[name].ask or mixes[name].person):
        raise ValueError(f"The mix {name!r} in {path.name} has neither requests nor people.")
    return mixes[name]
