"""What is asked: kinds of requests and their shares, from mixes.toml."""

from pathlib import Path
from random import Random
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

MIXES = Path(__file__).with_name("mixes.toml")
PositiveInt = Annotated[int, Meta(ge=1)]


class RequestKind(Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of request. `prompts`: how many different questions it draws from; none: each one is new.
    `leave_after_s`: the client goes away so long after the request was sent. `direct`: it goes straight to a provider,
    past the service."""

    name: str
    share: Annotated[float, Meta(gt=0)]
    stream: bool = True
    temperature: float | None = None
    prompts: PositiveInt | None = None
    leave_after_s: Annotated[float, Meta(gt=0)] | None = None
    direct: bool = False

    def body(self, model: str, rng: Random) -> dict[str, Any]:
        """A chat completion request."""
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
    """Kinds of requests, drawn by their shares. `latency`: how fast the simulated providers are."""

    why: str
    ask: Annotated[tuple[RequestKind, ...], Meta(min_length=1)]
    latency: str = "quick"

    def draw(self, rng: Random) -> RequestKind:
        """One kind."""
        return rng.choices(self.ask, [ask.share for ask in self.ask])[0]


def load(name: str, path: Path = MIXES) -> Mix:
    """The mix of this name. Raises ValueError, which names those there are, or what is wrong with the file."""
    mixes = msgspec.toml.decode(path.read_bytes(), type=dict[str, Mix])
    if name not in mixes:
        raise ValueError(f"There is no mix {name!r} in {path.name}. There are: {', '.join(mixes)}.")
    return mixes[name]
