"""The settings file of the service under test: one route over all simulated providers, in their order."""

import json
from collections.abc import Mapping
from typing import get_args

from service.settings import DialectName
from simulators.personas import PERSONAS

ROUTE = "chat"
WORDS = 60  # of a simulated answer: a stream of about half a second


def settings(providers: Mapping[str, str], urls: Mapping[str, str], clocks: Mapping[str, float]) -> str:
    """The file. `providers` maps names to personas, `urls` to where they are; clocks in seconds."""
    lines = []
    for name, persona in providers.items():
        dialect = persona if persona in get_args(DialectName) else "openai"  # openrouter, groq ... speak it
        base = urls[name] + ("" if dialect == "anthropic" else "/v1")
        lines += ["[[provider]]", f'name = "{name}"', f'dialect = "{dialect}"', f'base_url = "{base}"', ""]
    lines += ["[[route]]", f'name = "{ROUTE}"', f"targets = {json.dumps(targets(providers))}"]
    lines += ["[route.clocks]", *(f"{name} = {float(value)}" for name, value in clocks.items())]
    return "\n".join([*lines, ""])


def targets(providers: Mapping[str, str]) -> list[str]:
    """`provider/model`, in order of preference."""
    return [f"{name}/{PERSONAS[persona].models[0]}" for name, persona in providers.items()]
