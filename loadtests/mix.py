"""Mixes of requests: kinds of requests and their shares, from mixes.toml. Call `load(name)`."""

from pathlib import Path
from random import Random
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

MIXES = Path(__file__).with_name("mixes.toml")
PositiveInt = Annotated[int, Meta(ge=1)]


class RequestKind(Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of request.

    `prompts`: number of different questions; None: each question is new. `leave_after_s`: the client
    disconnects this many seconds after the request was sent. `direct`: the request bypasses the service.
    """

    name: str
    share: Annotated[float, Meta(gt=0)]
    stream: bool = True
    temperature: float | None = None
    prompts: PositiveInt | None = None
    leave_after_s: Annotated[float, Meta(gt=0)] | None = None
    direct: bool = False

    def body(self, model: str, rng: Random) -> dict[str, Any]:
        """Return the body of a chat completion request."""
        number = rng.randrange(self.prompts) if self.prompts else rng.getrandbits(48)
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": f"{self.name}, question {number}"}],
        }
        if self.stream:
            body["stream"] = True
        if self.temperature is not None:
            body["temperature"] = self.temperature
        return body


class Mix(Struct, frozen=True, forbid_unknown_fields=True):
    """Kinds of requests, drawn by their shares. `latency`: preset of the simulated providers."""

    why: str
    ask: Annotated[tuple[RequestKind, ...], Meta(min_length=1)]
    latency: str = "quick"

    def draw(self, rng: Random) -> RequestKind:
        """Draw a kind of request."""
        return rng.choices(self.ask, [ask.share for ask in self.ask])[0]


def load(name: str, path: Path = MIXES) -> Mix:
    """Read a mix. Raises ValueError, which lists the valid names or says what is wrong with the file."""
    mixes = msgspec.toml.decode(path.read_bytes(), type=dict[str, Mix])
    if name not in mixes:
        raise ValueError(f"No mix {name!r} in {path.name}. Valid names: {', '.join(mixes)}.")
    return mixes[name]
