"""Settings of the simulators, from the command line and an optional TOML file. The command line wins.

Call `build(read_file(path), providers, keys, ...)`.
"""

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from dub5.simulators.faults.answers import BadFault, parse_fault
from dub5.simulators.faults.base import Fault
from dub5.simulators.latency import PRESETS
from dub5.simulators.limits.concurrency import Capacity
from dub5.simulators.limits.rate import Limits
from dub5.simulators.personas import PERSONAS
from dub5.simulators.personas.edges import EDGES

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DEFAULT_PROVIDERS = {"one": "openai", "two": "mistral", "three": "anthropic"}

PORT_MAX = 65_535
Port = Annotated[int, Meta(ge=0, le=PORT_MAX)]
Words = Annotated[int, Meta(ge=1, le=100_000)]


class BadSettings(ValueError):
    """Invalid settings; the message says what to change."""


@dataclass(frozen=True, slots=True)
class SimulatedProviderSettings:
    """Settings of one provider. `port` 0 takes a free port; `key` None accepts any key, or none."""

    name: str
    persona: str
    port: int = 0
    latency: str = "quick"
    words: int = 40
    key: str | None = field(default=None, repr=False)
    models: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    limits: Limits = field(default_factory=Limits)
    capacity: Capacity = field(default_factory=Capacity)
    tls: bool = False
    edge: str | None = None  # none, cloudflare, nginx, vercel; None: the edge of the real provider


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """Settings of all providers, the port of the admin API, and the seed of all random decisions."""

    providers: tuple[SimulatedProviderSettings, ...]
    admin_port: int = 0
    seed: int = 0
    shared_faults: tuple[
        tuple[Fault, tuple[str, ...]], ...
    ] = ()  # each with the providers that it hits together


class _ProviderTable(Struct, forbid_unknown_fields=True):
    name: str
    persona: str
    port: Port = 0
    latency: str | None = None
    words: Words | None = None
    key: str | None = None
    models: list[str] = []
    fault: list[dict[str, Any]] = []
    limits: Limits = Limits()
    capacity: Capacity = Capacity()
    tls: bool = False
    edge: str | None = None


class _File(Struct, forbid_unknown_fields=True):
    seed: int = 0
    admin_port: Port = 0
    latency: str = "quick"
    words: Words = 40
    provider: list[_ProviderTable] = []
    fault: list[dict[str, Any]] = []


def build(
    file: Mapping[str, Any],
    providers: Sequence[str] = (),
    keys: Sequence[str] = (),
    *,
    port_base: int | None = None,
    **over: Any,
) -> SimulatorSettings:
    """Return the settings of a parsed file and of the command line. Raises BadSettings.

    `providers` are `name=persona`, `keys` are `name=key`; `over` may set latency, words, seed and admin_port.
    """
    given = {name: value for name, value in over.items() if value is not None}
    try:
        read = msgspec.convert({**file, **given}, _File)
    except msgspec.ValidationError as error:
        raise BadSettings(f"settings: {error}") from None
    tables = _tables(read, [_pair(p, "--provider", "one=openai") for p in providers])
    made = [_provider(table, read, set(given)) for table in tables]
    known = {provider.name: provider for provider in made}
    for name, key in (_pair(k, "--require-key", "one=sk-test") for k in keys):
        if name not in known:
            raise BadSettings(f"--require-key: no provider `{name}`; providers: {', '.join(known)}")
        known[name] = dataclasses.replace(known[name], key=key)
    listed = list(known.values())
    if len(listed) < len(made):
        raise BadSettings("two providers have the same name")
    if port_base is not None:
        listed = [dataclasses.replace(p, port=port_base + i) for i, p in enumerate(listed)]
    ports = [*(p.port for p in listed), read.admin_port]
    if not all(0 <= port <= PORT_MAX for port in ports):
        raise BadSettings(f"a port must be at most {PORT_MAX}")
    taken = [port for port in ports if port]
    if len(set(taken)) < len(taken):
        raise BadSettings(f"the same port is given twice: {', '.join(map(str, taken))}")
    shared = tuple(_shared(dict(table), known) for table in read.fault)
    return SimulatorSettings(tuple(listed), read.admin_port, read.seed, shared)


def read_file(path: str) -> Mapping[str, Any]:
    """Parse a TOML file. Raises BadSettings."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise BadSettings(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path} is not valid TOML: {error}") from None


def _tables(read: _File, pairs: Sequence[tuple[str, str]]) -> list[_ProviderTable]:
    """Return the providers of the file and of the command line, which replace those of the same name."""
    named = dict(pairs)
    if len(named) < len(pairs):
        raise BadSettings("two providers have the same name")
    if not read.provider and not pairs:
        named = DEFAULT_PROVIDERS
    kept = [table for table in read.provider if table.name not in named]
    return kept + [_ProviderTable(name, persona) for name, persona in named.items()]


def _provider(table: _ProviderTable, read: _File, given: set[str]) -> SimulatedProviderSettings:
    if not NAME.fullmatch(table.name):
        raise BadSettings(f"`{table.name}` is not a valid name: use letters, digits, `.`, `_` and `-`")
    _choose(table.persona, PERSONAS, f"persona of `{table.name}`")
    latency = read.latency if "latency" in given or table.latency is None else table.latency
    _choose(latency, PRESETS, f"latency of `{table.name}`")
    if table.edge is not None:
        _choose(table.edge, EDGES, f"edge of `{table.name}`")
    words = read.words if "words" in given or table.words is None else table.words
    try:
        faults = tuple(parse_fault(fault) for fault in table.fault)
    except BadFault as error:
        raise BadSettings(f"a fault of `{table.name}`: {error}") from None
    return SimulatedProviderSettings(
        name=table.name,
        persona=table.persona,
        port=table.port,
        latency=latency,
        words=words,
        key=table.key,
        models=tuple(table.models),
        faults=faults,
        limits=table.limits,
        capacity=table.capacity,
        tls=table.tls,
        edge=table.edge,
    )


def _shared(table: dict[str, Any], known: Mapping[str, object]) -> tuple[Fault, tuple[str, ...]]:
    """Parse a shared fault: it hits the providers that it names, or all."""
    names = table.pop("providers", list(known))
    if not isinstance(names, list) or not set(map(str, names)) <= set(known):
        raise BadSettings(f"fault: `providers` must be a list of: {', '.join(known)}")
    try:
        return parse_fault(table), tuple(dict.fromkeys(names))
    except BadFault as error:
        raise BadSettings(f"a fault of {', '.join(names)}: {error}") from None


def _pair(text: str, option: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise BadSettings(f"{option} must be a pair such as {example}, not `{text}`")
    return name, value


def _choose(value: str, known: Mapping[str, object], what: str) -> None:
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        raise BadSettings(f"{what}: `{value}` is unknown; valid: {', '.join(known)}{hint}")
