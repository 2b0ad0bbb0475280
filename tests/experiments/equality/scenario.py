"""What a scenario of recorded requests is made of: providers, settings, steps. Data only.

Settings are TOML, faults are the simulators' short forms, requests are JSON: all as users write them, so that
hardly a name of the code is needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dub5.simulators.script import Action

CHAT = "/v1/chat/completions"
JSON = "application/json"
ADMIN_TOKEN = "the-token-of-the-operator"
ENVIRONMENT = {"CALLER_A": "caller-a", "CALLER_B": "caller-b", "ADMIN_TOKEN": ADMIN_TOKEN}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `json` or `body` is sent; after `leaves_s` the client is gone.

    One that is not `recorded` only prepares for those that are.
    """

    method: str = "POST"
    path: str = CHAT
    json: Any = None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    leaves_s: float | None = None
    after_s: float = 0.0
    recorded: bool = True

    def by(self, **headers: str) -> "Ask":
        """Return the request with these headers more; `_` is written for `-`."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return replace(self, headers={**self.headers, **more})

    def at(self, after_s: float) -> "Ask":
        """Return the request, sent this much later."""
        return replace(self, after_s=after_s)


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing happens."""

    s: float


@dataclass(frozen=True, slots=True)
class Faults:
    """A provider has these faults from now on, and no others."""

    provider: str
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reload:
    """Other settings: more of a provider's table, of the route's, and more tables."""

    provider: Mapping[str, str] = field(default_factory=dict)
    route: str = ""
    more: str = ""


@dataclass(frozen=True, slots=True)
class Drain:
    """The service is told to end."""

    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Together:
    """All at one time, each after its own pause."""

    steps: tuple[Ask | Drain, ...]


Step = Ask | Wait | Faults | Reload | Drain | Together


@dataclass(frozen=True, slots=True)
class Scenario:
    """Providers stand behind the model "chat" in their order; the settings are as in Reload.

    `simulated`: more of a simulator's table; `faults`: from the start; `scripts`: what one always does.
    """

    name: str
    steps: tuple[Step, ...]
    names: tuple[str, ...] = ("one", "two")
    simulated: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    faults: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scripts: Mapping[str, tuple[Action, ...]] = field(default_factory=dict)
    provider: Mapping[str, str] = field(default_factory=dict)
    route: str = ""
    more: str = ""


def chat(text: str = "Hi", **fields: Any) -> Ask:
    """Return a chat request."""
    return Ask(json={"model": "chat", "messages": [{"role": "user", "content": text}], **fields})


def stream(text: str = "Hi", **fields: Any) -> Ask:
    """Return a streamed chat request."""
    return chat(text, stream=True, **fields)


def get(path: str, method: str = "GET") -> Ask:
    """Return a request without a body."""
    return Ask(method, path)


def warm(times: int, ask: Ask) -> tuple[Ask, ...]:
    """Return a request several times, unrecorded."""
    return (replace(ask, recorded=False),) * times
