"""Read a scenario's TOML file strictly: `read(path)` returns the scenario, or raises with all that is wrong.

1. Decode the tables as Structs: names, types, ranges of single values. 2. Check what concerns several values:
names of providers and routes, times of faults.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dub5.chaos.scenario.decode import decode, suggestion, unknown_choices
from dub5.chaos.scenario.faults import FaultValue, problems_of
from dub5.chaos.scenario.model import (
    ENGINES,
    PROVIDERS,
    ROUTE,
    Confidence,
    Engine,
    Expect,
    Mechanism,
    NotNegative,
    Positive,
    Scenario,
    ScenarioFault,
    Topology,
    Workload,
)
from dub5.simulators.personas import PERSONAS
from dub5.simulators.settings import BadSettings, build

TIMES_MAX = 1_000
SCENARIOS = files("dub5.chaos") / "scenarios"
INCIDENTS = SCENARIOS / "incidents"


NumberedFault = tuple[int, ScenarioFault]  # its number in the file, from 1


class ScenarioProblems(Exception):
    """What is wrong with a scenario file, one sentence each."""

    def __init__(self, path: str, problems: list[str]) -> None:
        super().__init__("\n".join([f"{path} cannot be used:", *(f"  - {p}" for p in problems)]))
        self.problems = problems


# What stands in for required values that are missing or wrong, while the rest is checked.
STAND_INS: dict[str, Any] = {"title": "", "why": "", "workload": {"seconds": 1e9}, "expect": {}}


class TimeoutsTable(msgspec.Struct):
    """Timeouts of the service under test, in seconds."""

    pool_s: Positive | None = None
    connect_s: Positive | None = None
    hedge_after_s: Positive | None = None
    first_token_s: Positive | None = None
    whole_answer_s: Positive | None = None
    between_tokens_s: Positive | None = None
    total_s: Positive | None = None


class ScenarioFile(msgspec.Struct):
    """The tables of a file. Providers, routes and faults are checked further by functions of their own."""

    title: str
    why: str
    workload: Workload
    expect: Expect
    engines: tuple[Engine, ...] = ENGINES
    providers: dict[str, Any] = {}
    routes: dict[str, Any] = {}
    timeouts: TimeoutsTable = msgspec.field(default_factory=TimeoutsTable)
    fault: list[Any] = []
    source: str = ""
    confidence: Confidence | None = None
    off: Mechanism = "failover"


class FaultTable(msgspec.Struct):
    """The fields that every fault has. All others are options of its kind."""

    at_s: NotNegative
    for_s: Positive
    provider: str
    kind: str
    label: str = ""
    every_s: NotNegative = 0.0  # it is repeated with this period,
    times: Annotated[int, Meta(ge=1, le=TIMES_MAX)] = 1  # this many times in all


def read(path: Path) -> Scenario:
    """Read the scenario in a file. Raises ScenarioProblems."""
    try:
        return parse(path.read_text(encoding="utf-8"), path.stem)
    except OSError as error:
        raise ScenarioProblems(str(path), [f"cannot be read: {error.strerror}."]) from None
    except UnicodeDecodeError:
        raise ScenarioProblems(str(path), ["is not UTF-8 text."]) from None


def names(folder: Traversable) -> list[str]:
    """Return the names of the scenarios in a bundled folder."""
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def read_bundled(folder: Traversable, name: str) -> Scenario:
    """Read a bundled scenario. Raises ScenarioProblems."""
    with as_file(folder / f"{name}.toml") as path:
        return read(path)


def parse(text: str, name: str) -> Scenario:
    """Read the scenario in a text. Raises ScenarioProblems."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioProblems(name, [f"is not valid TOML: {error}."]) from None
    if "clocks" in data and "timeouts" not in data:  # the old name, for one more version
        data["timeouts"] = data.pop("clocks")
    problems: list[str] = []
    file = decode(ScenarioFile, data, "", problems)
    providers = _providers(data.get("providers"), problems)
    faults = _faults(data.get("fault"), providers, problems)
    checked = file or decode(ScenarioFile, _with_stand_ins(data), "", [])
    if checked is not None:
        problems += [*_route_problems(checked, providers), *_fault_problems(checked, faults)]
        problems += _load_problems(checked)
    if file is None or problems:
        raise ScenarioProblems(name, list(dict.fromkeys(problems)))
    return Scenario(
        name=name,
        title=file.title,
        why=file.why,
        workload=file.workload,
        faults=tuple(fault for _, fault in faults),
        expect=file.expect,
        engines=file.engines,
        topology=_topology(file, providers),
        source=file.source,
        confidence=file.confidence or "",
        off=file.off,
    )


def _with_stand_ins(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables with stand-ins for required values that are missing or wrong."""
    given = dict(data)
    for name, stand_in in STAND_INS.items():
        if isinstance(stand_in, dict) and isinstance(data.get(name), dict):
            choices = [data[name], {**data[name], **stand_in}, stand_in]
        else:
            choices = [data.get(name), stand_in]
        given[name] = next(c for c in choices if decode(ScenarioFile, {**STAND_INS, name: c}, "", []))
    return given


def _topology(file: ScenarioFile, providers: Mapping[str, Mapping[str, Any]]) -> Topology:
    timeouts = msgspec.structs.asdict(file.timeouts)
    return Topology(
        {name: str(table["persona"]) for name, table in providers.items()},
        {name: value for name, value in timeouts.items() if value is not None},
        {name: table for name, table in providers.items() if len(table) > 1},
        {name: tuple(targets) for name, targets in file.routes.items()},
    )


def _providers(given: Any, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Return each provider as a table; a text alone is its persona. The simulators check the tables."""
    named = given if isinstance(given, dict) else PROVIDERS
    tables = {name: {"persona": one} if isinstance(one, str) else one for name, one in named.items()}
    for name, table in tables.items():
        if not isinstance(table, dict):
            problems.append(f"providers.{name}: each is a persona, or a table with one.")
            continue
        if unknown := unknown_choices([table.get("persona", "")], PERSONAS, "providers"):
            problems += unknown
            continue
        try:
            build({"provider": [{**table, "name": name}]})
        except BadSettings as error:
            problems.append(f"providers: {error}.")
    return tables


def _faults(given: Any, providers: Mapping[str, object], problems: list[str]) -> list[NumberedFault]:
    """Return all faults by time, repeated ones as often as they come. Incomplete ones are left out."""
    found: list[NumberedFault] = []
    for index, data in enumerate(given if isinstance(given, list) else [], 1):
        where = f"fault {index}: "
        if not isinstance(data, dict):
            problems.append(f"{where}write it as a [[fault]] table.")
            continue
        common = {name: value for name, value in data.items() if name in FaultTable.__struct_fields__}
        options: dict[str, FaultValue] = {name: value for name, value in data.items() if name not in common}
        table = decode(FaultTable, common, where, problems)
        provider, kind = common.get("provider"), common.get("kind")
        if isinstance(provider, str) and provider not in providers:
            problems.append(f"{where}there is no provider {provider!r}; {suggestion(provider, providers)}")
        if isinstance(kind, str):
            problems += [f"{where}{problem}" for problem in problems_of(kind, options)]
        if table is not None:
            found += [(index, fault) for fault in _repeated(table, options)]
    return sorted(found, key=lambda numbered: numbered[1].at_s)


def _repeated(table: FaultTable, options: Mapping[str, FaultValue]) -> Iterator[ScenarioFault]:
    described = " ".join(f"{name} {value}" for name, value in options.items() if name != "stream")
    label = table.label or f"{table.kind} {described}".strip()
    for n in range(table.times):
        at_s = table.at_s + n * table.every_s
        yield ScenarioFault(at_s, table.for_s, table.provider, table.kind, options, label)


def _route_problems(file: ScenarioFile, providers: Mapping[str, object]) -> list[str]:
    """Check that targets, the mix and `answered_by` name existing providers and routes."""
    routes = file.routes or {ROUTE: []}
    lists = [targets for targets in file.routes.values() if _is_target_list(targets)]
    is_wrong = len(lists) < len(file.routes)
    used = [target.partition("/")[0] for targets in lists for target in targets]
    pairs = [f"{route}/{provider}" for route in routes for provider in providers]
    return [
        *(["routes: each is a list of targets, such as 'one/gpt-sim'."] if is_wrong else []),
        *unknown_choices(used, providers, "routes"),
        *unknown_choices(file.workload.mix, routes, "workload.mix"),
        *unknown_choices(file.expect.answered_by, pairs, "expect.answered_by"),
    ]


def _is_target_list(targets: object) -> bool:
    """Say whether it is a list of `provider/model` that is not empty."""
    if not isinstance(targets, list) or not targets:
        return False
    return all(isinstance(target, str) and all(target.partition("/")) for target in targets)


def _load_problems(file: ScenarioFile) -> Iterator[str]:
    if not file.engines:
        yield "engines: must not be empty."
    if not sum(file.workload.mix.values()):
        yield "workload.mix: weights of the routes, at least one above 0."


def _fault_problems(file: ScenarioFile, numbered: Sequence[NumberedFault]) -> Iterator[str]:
    """Check the times of faults against the load and each other, and faults against the engines."""
    faults = [fault for _, fault in numbered]
    for index, fault in numbered:
        if fault.until_s > file.workload.seconds:
            yield f"fault {index}: ends at {fault.until_s:g} s, after the load does."
        twins = [other for other in faults if other is not fault and _identity(other) == _identity(fault)]
        if any(fault.at_s <= twin.at_s < fault.until_s for twin in twins):
            yield f"fault {index}: another {fault.kind} at {fault.provider} begins before it ends."
    virtual_only = any(fault.environmental or "model" in fault.options for fault in faults)
    if virtual_only and "toxiproxy" in file.engines:
        yield "engines: capacity, settings and faults of one model are for 'virtual' alone."


def _identity(fault: ScenarioFault) -> tuple[object, ...]:
    return fault.provider, fault.kind, fault.options.get("model")
