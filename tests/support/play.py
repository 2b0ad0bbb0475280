"""Plays a script in no time, and returns what a client would have received."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dub5.simulators.faults.base import Fault
from dub5.simulators.latency import PRESETS
from dub5.simulators.personas import PERSONAS
from dub5.simulators.personas.base import Profile
from dub5.simulators.provider import SimulatedProvider
from dub5.simulators.script import Action, Data, End, Hang, Head, Script, SimRequest, Wait

ASK = {"model": "m-sim", "messages": [{"role": "user", "content": "hi"}]}
ASK_ANTHROPIC = {**ASK, "max_tokens": 1000}
PATHS = {name: persona.chat_path for name, persona in PERSONAS.items()}


@dataclass(frozen=True)
class PlayedScript:
    """The result of a script. `end` is its last action, or None if it ran out."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    waited_s: float
    tokens: int
    end: Action | None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The JSON of every `data:` line but `[DONE]`."""
        lines = self.body.decode().splitlines()
        return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def play(script: Script) -> PlayedScript:
    """Play a script up to its end, or to the first action that a client cannot get past."""
    status, headers, body, waited_s, tokens = 0, {}, b"", 0.0, 0
    for action in script:
        match action:
            case Head():
                status, headers = action.status, dict(action.headers)
            case Data():
                body, tokens = body + action.data, tokens + action.tokens
            case Wait(s):
                waited_s += s
            case _:
                return PlayedScript(status, headers, body, waited_s, tokens, action)
    return PlayedScript(status, headers, body, waited_s, tokens, None)


def provider(
    persona: str, *faults: Fault, latency: str = "zero", seed: int = 0, **profile: Any
) -> SimulatedProvider:
    """Return a provider called "one" with these faults."""
    made = SimulatedProvider(
        persona,
        Profile("one", PRESETS[latency], **profile),
        rng=random.Random(seed),
        now=lambda: 0.0,
    )
    made.set_faults(faults)
    return made


def post(persona: str, body: object = None, *, path: str = "", **headers: str) -> SimRequest:
    """Return a chat request; a body that is not bytes is sent as JSON."""
    if body is None:
        body = ASK_ANTHROPIC if persona == "anthropic" else ASK
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    if persona == "anthropic":
        headers = {"anthropic-version": "2023-06-01", **headers}
    return SimRequest("POST", path or PATHS[persona], headers, sent)


def ask(persona: str, *faults: Fault, stream: bool = False, **fields: Any) -> PlayedScript:
    """Send one request to a fresh provider of zero latency."""
    body = ASK_ANTHROPIC if persona == "anthropic" else ASK
    return play(provider(persona, *faults)(post(persona, {**body, "stream": stream, **fields})))


def ended_well(played: PlayedScript) -> bool:
    """Return whether the body ended as its framing promised."""
    return isinstance(played.end, End)


def hangs(played: PlayedScript) -> bool:
    """Return whether the client waits for ever."""
    return isinstance(played.end, Hang)
