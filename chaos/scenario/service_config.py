"""The settings files of a run: of the service under test, and of the simulators."""

import json
from collections.abc import Mapping
from typing import Any, get_args

from dub5.chaos.scenario.model import ROUTE, Topology
from dub5.service.config.settings import DialectName
from dub5.simulators.personas import PERSONAS

WORDS = 60  # of a simulated answer: a stream of about half a second


def settings(topology: Topology, urls: Mapping[str, str]) -> str:
    """Return the service's settings as TOML. `urls`: where the providers are."""
    lines = []
    for name, persona in topology.providers.items():
        dialect = persona if persona in get_args(DialectName) else "openai"  # as openrouter, groq and others
        base = urls[name] + ("" if dialect == "anthropic" else "/v1")
        lines += ["[[provider]]", f'name = "{name}"', f'dialect = "{dialect}"', f'base_url = "{base}"']
        lines += ["simulated = true", ""]
    for route, targets in routes(topology).items():
        lines += ["[[route]]", f'name = "{route}"', f"targets = {json.dumps(list(targets))}"]
        lines += ["[route.timeouts]", *(f"{name} = {float(s)}" for name, s in topology.timeouts.items()), ""]
    return "\n".join(lines)


def routes(topology: Topology) -> Mapping[str, tuple[str, ...]]:
    """Return the routes of a topology; by default one over all providers, in their order."""
    personas = topology.providers.items()
    all_targets = tuple(f"{name}/{PERSONAS[persona].models[0]}" for name, persona in personas)
    return topology.routes or {ROUTE: all_targets}


def simulated(topology: Topology) -> dict[str, Any]:
    """Return the simulators' settings, as the object in their file."""
    tables = [
        {"persona": persona, **topology.simulated.get(name, {}), "name": name}
        for name, persona in topology.providers.items()
    ]
    return {"words": WORDS, "provider": tables}


def toml(value: Any) -> str:
    """Format a value as TOML, tables in one line."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{json.dumps(name)} = {toml(one)}' for name, one in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)
