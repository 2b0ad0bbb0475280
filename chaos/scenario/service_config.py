"""The settings files of a run: the service under test over its providers, and the simulators."""

import json
from collections.abc import Mapping
from typing import Any, get_args

from dub5.chaos.scenario.model import ROUTE, Topology
from dub5.service.config.settings import DialectName
from dub5.simulators.personas import PERSONAS

WORDS = 60  # of a simulated answer: a stream of about half a second


def settings(topology: Topology, urls: Mapping[str, str]) -> str:
    """The service's. `urls`: where the providers are."""
    lines = []
    for name, persona in topology.providers.items():
        dialect = persona if persona in get_args(DialectName) else "openai"  # openrouter, groq ... speak it
        base = urls[name] + ("" if dialect == "anthropic" else "/v1")
        lines += ["[[provider]]", f'name = "{name}"', f'dialect = "{dialect}"', f'base_url = "{base}"', ""]
    for route, targets in routes(topology).items():
        lines += ["[[route]]", f'name = "{route}"', f"targets = {json.dumps(list(targets))}"]
        lines += ["[route.timeouts]", *(f"{name} = {float(s)}" for name, s in topology.timeouts.items()), ""]
    return "\n".join(lines)


def routes(topology: Topology) -> Mapping[str, tuple[str, ...]]:
    """Its own; else one over all providers, in their order."""
    personas = topology.providers.items()
    all_targets = tuple(f"{name}/{PERSONAS[persona].models[0]}" for name, persona in personas)
    return topology.routes or {ROUTE: all_targets}


def simulated(topology: Topology) -> dict[str, Any]:
    """The simulators', as the object that their file is."""
    tables = [
        {"persona": persona, **topology.simulated.get(name, {}), "name": name}
        for name, persona in topology.providers.items()
    ]
    return {"words": WORDS, "provider": tables}


def toml(value: Any) -> str:
    """A value as TOML writes it, tables in one line."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{json.dumps(name)} = {toml(one)}' for name, one in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)
