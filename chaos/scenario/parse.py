"""A scenario's TOML file, read strictly: the scenario, or everything that is wrong with it, one sentence each."""

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from dub5.chaos.scenario.faults import Value, problems_of
from dub5.chaos.scenario.model import (
    ENGINES,
    PROVIDERS,
    ROUTE,
    Expect,
    Scenario,
    ScenarioFault,
    Topology,
    Workload,
)
from dub5.chaos.scenario.strict_toml import Types, missing_keys, suggestion, unknown_keys, wrong_type
from dub5.simulators.personas import PERSONAS
from dub5.simulators.settings import BadSettings, build

HAPPENED = (
    "breaker_opened",
    "breaker_half_opened",
    "breaker_closed",
    "probe_succeeded",
    "health_degraded",
    "health_restored",
    "limit_lowered",
    "queued",
    "retried",
    "hedged",
    "failed_over",
    "stream_cut",
    "cache_hit",
    "settings_refused",
)
CONFIDENCE = ("primary", "secondary source", "unverified")
MECHANISMS = (
    "failover",
    "standing_per_target",
    "last_settings",
)  # chaos/incidents/ablation.py switches them off
TIMEOUTS = ("pool_s", "connect_s", "first_token_s", "whole_answer_s", "between_tokens_s", "total_s")
NUMBER = (int, float)
TIMES_MAX = 1_000
SCENARIOS = files("dub5.chaos") / "scenarios"
INCIDENTS = SCENARIOS / "incidents"


class ScenarioProblems(Exception):
    """What must be mended in a scenario file, one sentence each."""

    def __init__(self, path: str, problems: list[str]) -> None:
        super().__init__("\n".join([f"{path} cannot be used:", *(f"  - {p}" for p in problems)]))
        self.problems = problems


TOP: Mapping[str, Types] = {
    "title": str,
    "why": str,
    "engines": list,
    "providers": dict,
    "workload": dict,
    "routes": dict,
    "timeouts": dict,
    "fault": list,
    "expect": dict,
    "source": str,
    "confidence": str,
    "off": str,
}
WORKLOAD: Mapping[str, Types] = {
    "seconds": NUMBER,
    "rate_per_s": NUMBER,
    "plateau_rate_per_s": NUMBER,
    "edge_s": NUMBER,
    "stream_share": NUMBER,
    "deadline_s": NUMBER,
    "mix": dict,
}
FAULT: Mapping[str, Types] = {
    "at_s": NUMBER,
    "for_s": NUMBER,
    "provider": str,
    "kind": str,
    "label": str,
    "every_s": NUMBER,  # it comes again so often,
    "times": int,  # so many times in all
}
EXPECT: Mapping[str, Types] = {
    "honest_share": NUMBER,
    "complete_share": NUMBER,
    "first_token_p95_s": NUMBER,
    "failover_s": NUMBER,
    "usual_s": NUMBER,
    "recover_s": NUMBER,
    "amplification_max": NUMBER,
    "answered_by": dict,
    "happened": list,
}


def read(path: Path) -> Scenario:
    """The scenario in a file. Raises ScenarioProblems."""
    try:
        return parse(path.read_text(encoding="utf-8"), path.stem)
    except OSError as error:
        raise ScenarioProblems(str(path), [f"cannot be read: {error.strerror}."]) from None
    except UnicodeDecodeError:
        raise ScenarioProblems(str(path), ["is not UTF-8 text."]) from None


def names(folder: Traversable) -> list[str]:
    """The scenarios in one of our own folders."""
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def read_bundled(folder: Traversable, name: str) -> Scenario:
    """One of them. Raises ScenarioProblems."""
    with as_file(folder / f"{name}.toml") as path:
        return read(path)


def parse(text: str, name: str) -> Scenario:
    """The scenario in a text. Raises ScenarioProblems."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioProblems(name, [f"is not valid TOML: {error}."]) from None
    if "clocks" in data and "timeouts" not in data:  # the old name, for one more version
        data["timeouts"] = data.pop("clocks")
    problems = _shape_problems(data)
    if not problems:
        problems = _content_problems(data)
    if problems:
        raise ScenarioProblems(name, problems)
    providers = _providers(data)
    return Scenario(
        name=name,
        title=data["title"],
        why=data["why"],
        workload=Workload(**data["workload"]),
        faults=_faults(data),
        expect=_expect(data["expect"]),
        engines=tuple(data.get("engines", ENGINES)),
        topology=Topology(
            {name: str(table["persona"]) for name, table in providers.items()},
            data.get("timeouts", {}),
            {name: table for name, table in providers.items() if len(table) > 1},
            {name: tuple(targets) for name, targets in data.get("routes", {}).items()},
        ),
        source=data.get("source", ""),
        confidence=data.get("confidence", ""),
        off=data.get("off", "failover"),
    )


def _providers(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each as a table; a text alone is its persona."""
    said = data.get("providers", PROVIDERS)
    return {name: {"persona": one} if isinstance(one, str) else one for name, one in said.items()}


def _shape_problems(data: Mapping[str, Any]) -> list[str]:
    """Whether every table is there and is one."""
    problems = unknown_keys(data, TOP, "") + wrong_type(data, TOP, "")
    return problems + missing_keys(data, ("title", "why", "workload", "expect"), "")


def _content_problems(data: Mapping[str, Any]) -> list[str]:
    """What is wrong inside the tables."""
    workload, expect = data["workload"], data["expect"]
    if problems := _provider_problems(data):
        return problems
    providers = _providers(data)
    problems = _table_problems(workload, WORKLOAD, "workload.")
    problems += missing_keys(workload, ("seconds",), "workload.")
    problems += _table_problems(expect, EXPECT, "expect.")
    problems += _table_problems(data.get("timeouts", {}), dict.fromkeys(TIMEOUTS, NUMBER), "timeouts.")
    problems += _number_problems(workload, "mix", "workload.") + _number_problems(
        expect, "answered_by", "expect."
    )
    if wrong_type(workload, WORKLOAD, "") or wrong_type(expect, EXPECT, ""):
        return problems  # what is in them cannot be looked at
    problems += _choice_problems(data.get("engines", []), ENGINES, "engines")
    problems += [] if data.get("engines", ENGINES) else ["engines: must not be empty."]
    problems += _choice_problems(expect.get("happened", []), HAPPENED, "expect.happened")
    problems += _choice_problems(
        [data["confidence"]] if "confidence" in data else [], CONFIDENCE, "confidence"
    )
    problems += _choice_problems([data.get("off", "failover")], tuple(MECHANISMS), "off")
    problems += _route_problems(data, providers)
    for index, table in enumerate(data.get("fault", []), 1):
        problems += _fault_problems(table, f"fault {index}: ", providers)
    return problems or _range_problems(data)


def _provider_problems(data: Mapping[str, Any]) -> list[str]:
    """The simulators know best what a provider may be."""
    tables = {name: one for name, one in _providers(data).items() if isinstance(one, dict)}
    if len(tables) < len(_providers(data)):
        return ["providers: each is a persona, or a table with one."]
    personas = [table.get("persona", "") for table in tables.values()]
    if problems := _choice_problems(personas, tuple(PERSONAS), "providers"):
        return problems
    try:
        build({"provider": [{**table, "name": name} for name, table in tables.items()]})
    except BadSettings as error:
        return [f"providers: {error}."]
    return []


def _route_problems(data: Mapping[str, Any], providers: Mapping[str, Any]) -> list[str]:
    """Targets are `provider/model`; the mix and `answered_by` name what there is."""
    routes = data.get("routes") or {ROUTE: []}
    if "routes" in data and not all(map(_is_target_list, data["routes"].values())):
        return ["routes: each is a list of targets, such as 'one/gpt-sim'."]
    named = [target.partition("/")[0] for targets in routes.values() for target in targets]
    found = _choice_problems(named, tuple(providers), "routes")
    found += _choice_problems(list(data["workload"].get("mix", [ROUTE])), tuple(routes), "workload.mix")
    pairs = tuple(f"{route}/{provider}" for route in routes for provider in providers)
    return found + _choice_problems(list(data["expect"].get("answered_by", {})), pairs, "expect.answered_by")


def _is_target_list(targets: object) -> bool:
    """Whether it is a list of `provider/model`, and not an empty one."""
    if not isinstance(targets, list) or not targets:
        return False
    return all(isinstance(target, str) and all(target.partition("/")) for target in targets)


def _number_problems(table: Mapping[str, Any], name: str, where: str) -> list[str]:
    """Of a table in it, whose names anybody may choose."""
    inner = table.get(name, {})
    return (
        wrong_type(inner, dict.fromkeys(inner, NUMBER), f"{where}{name}.") if isinstance(inner, dict) else []
    )


def _table_problems(table: Mapping[str, Any], known: Mapping[str, Any], where: str) -> list[str]:
    return unknown_keys(table, known, where) + wrong_type(table, known, where)


def _choice_problems(values: list[Any], known: tuple[str, ...], where: str) -> list[str]:
    return [
        f"{where}: {value!r} is not known; {suggestion(str(value), known)}"
        for value in values
        if value not in known
    ]


def _fault_problems(table: object, where: str, providers: Mapping[str, object]) -> list[str]:
    if not isinstance(table, dict):
        return [f"{where}write it as a [[fault]] table."]
    problems = missing_keys(table, ("at_s", "for_s", "provider", "kind"), where)
    problems += wrong_type(table, FAULT, where)
    if problems:
        return problems
    if not 1 <= table.get("times", 1) <= TIMES_MAX:
        problems.append(f"{where}times: must be from 1 to {TIMES_MAX}.")
    if table["provider"] not in providers:
        problems.append(
            f"{where}there is no provider {table['provider']!r}; {suggestion(table['provider'], providers)}"
        )
    return problems + [f"{where}{problem}" for problem in problems_of(table["kind"], _options(table))]


def _range_problems(data: Mapping[str, Any]) -> list[str]:
    """What each value alone does not show."""
    faults = _faults(data)
    workload, expect = Workload(**data["workload"]), _expect(data["expect"])
    problems = []
    for name in ("seconds", "rate_per_s", "deadline_s", "edge_s", "plateau_rate_per_s"):
        if (value := getattr(workload, name)) is not None and value <= 0:
            problems.append(f"workload.{name}: must be above 0.")
    problems += [
        f"timeouts.{name}: must be above 0." for name, v in data.get("timeouts", {}).items() if v <= 0
    ]
    for name in ("first_token_p95_s", "failover_s", "usual_s", "recover_s", "amplification_max"):
        if (value := getattr(expect, name)) is not None and value < 0:
            problems.append(f"expect.{name}: must not be below 0.")
    if min(workload.mix.values(), default=0) < 0 or not sum(workload.mix.values()):
        problems.append("workload.mix: parts of the requests, none below 0, some above.")
    shares = {"workload.stream_share": workload.stream_share, "expect.honest_share": expect.honest_share}
    shares["expect.complete_share"] = expect.complete_share
    shares |= {f"expect.answered_by.{pair}": least for pair, least in expect.answered_by.items()}
    problems += [f"{name}: must be from 0 to 1 (it is {v})." for name, v in shares.items() if not 0 <= v <= 1]
    for index, fault in enumerate(faults, 1):
        if fault.at_s < 0 or fault.for_s <= 0:
            problems.append(f"fault {index}: must begin at 0 or later, and last.")
        elif fault.until_s > workload.seconds:
            problems.append(f"fault {index}: ends at {fault.until_s:g} s, after the load does.")
        twins = [f for f in faults if f is not fault and _identity(f) == _identity(fault)]
        if any(fault.at_s <= twin.at_s < fault.until_s for twin in twins):
            problems.append(f"fault {index}: another {fault.kind} at {fault.provider} begins before it ends.")
    if any(fault.environmental or "model" in fault.options for fault in faults) and "toxiproxy" in data.get(
        "engines", ENGINES
    ):
        problems.append("engines: capacity, settings and faults of one model are for 'virtual' alone.")
    return problems


def _identity(fault: ScenarioFault) -> tuple[object, ...]:
    return fault.provider, fault.kind, fault.options.get("model")


def _faults(data: Mapping[str, Any]) -> tuple[ScenarioFault, ...]:
    """All of them by time, those that come again as often as they do."""
    made = [
        _fault({**table, "at_s": table["at_s"] + n * table.get("every_s", 0)})
        for table in data.get("fault", [])
        for n in range(table.get("times", 1))
    ]
    return tuple(sorted(made, key=lambda fault: fault.at_s))


def _fault(table: Mapping[str, Any]) -> ScenarioFault:
    options = _options(table)
    label = table.get("label") or _label(table["kind"], options)
    return ScenarioFault(table["at_s"], table["for_s"], table["provider"], table["kind"], options, label)


def _options(table: Mapping[str, Any]) -> dict[str, Value]:
    return {name: value for name, value in table.items() if name not in FAULT}


def _label(kind: str, options: Mapping[str, Value]) -> str:
    return (
        f"{kind} {' '.join(f'{name} {value}' for name, value in options.items() if name != 'stream')}".strip()
    )


def _expect(table: Mapping[str, Any]) -> Expect:
    known = {one.name for one in fields(Expect)}
    values = {name: value for name, value in table.items() if name in known}
    return Expect(**{**values, "happened": tuple(table.get("happened", ()))})
