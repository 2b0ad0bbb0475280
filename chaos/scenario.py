"""A scenario: the TOML file as a frozen value, or everything that is wrong with it.

steady --------|fault|---|fault|----- heal ----- steady
0          at_s      +for_s      last fault's end        seconds
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from chaos.faults import CUTTING, TCP_KINDS, Value, problems_of
from chaos.tables import Types, missing, near, unknown, wrong_type
from simulators.personas import PERSONAS

ENGINES = ("toxiproxy", "virtual")
HAPPENED = (
    "breaker_opened",
    "breaker_half_opened",
    "breaker_closed",
    "failed_over",
    "stream_cut",
    "cache_hit",
)
PROVIDERS = {"one": "openai", "two": "mistral", "three": "anthropic"}
CLOCKS = ("pool_s", "connect_s", "first_token_s", "whole_answer_s", "between_tokens_s", "total_s")
NUMBER = (int, float)


class ScenarioProblems(Exception):
    """What must be mended in a scenario file, one sentence each."""

    def __init__(self, path: str, problems: list[str]) -> None:
        super().__init__("\n".join([f"{path} cannot be used:", *(f"  - {p}" for p in problems)]))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Workload:
    """Who asks what, how often. Requests start when the plan says, however slow the answers are."""

    seconds: float
    rate_per_s: float = 20.0
    stream_share: float = 0.7
    deadline_s: float = 30.0  # told to the service in X-Deadline-Ms
    model: str = "chat"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, from `at_s` for `for_s` seconds, at one provider."""

    at_s: float
    for_s: float
    provider: str
    kind: str
    options: Mapping[str, Value] = field(hash=False)
    label: str  # for people: the file's own words, or made from kind and fields

    @property
    def until_s(self) -> float:
        return self.at_s + self.for_s

    @property
    def tcp(self) -> bool:
        """Whether it happens on the connection rather than in the answer."""
        return self.kind in TCP_KINDS

    @property
    def cuts(self) -> bool:
        """Whether it may end a stream that is already under way."""
        return self.kind in CUTTING


@dataclass(frozen=True, slots=True)
class Expect:
    """What must hold. Shares are of all requests; cuts that a fault planned do not lower `complete_share`."""

    honest_share: float = 1.0
    complete_share: float = 1.0
    first_token_p95_s: float | None = None
    recover_s: float | None = None
    happened: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """The whole file."""

    name: str  # the file's name without .toml
    title: str
    why: str
    workload: Workload
    faults: tuple[Fault, ...]
    expect: Expect
    engines: tuple[str, ...] = ENGINES
    providers: Mapping[str, str] = field(default_factory=lambda: dict(PROVIDERS))  # name -> persona
    clocks: Mapping[str, float] = field(default_factory=dict)  # of the service under test, in seconds

    @property
    def first_fault_s(self) -> float:
        return min((fault.at_s for fault in self.faults), default=self.workload.seconds)

    @property
    def heal_s(self) -> float:
        """When the last fault has ended."""
        return max((fault.until_s for fault in self.faults), default=0.0)


TOP: Mapping[str, Types] = {
    "title": str,
    "why": str,
    "engines": list,
    "providers": dict,
    "workload": dict,
    "clocks": dict,
    "fault": list,
    "expect": dict,
}
WORKLOAD: Mapping[str, Types] = {
    "seconds": NUMBER,
    "rate_per_s": NUMBER,
    "stream_share": NUMBER,
    "deadline_s": NUMBER,
    "model": str,
}
FAULT: Mapping[str, Types] = {"at_s": NUMBER, "for_s": NUMBER, "provider": str, "kind": str, "label": str}
EXPECT: Mapping[str, Types] = {
    "honest_share": NUMBER,
    "complete_share": NUMBER,
    "first_token_p95_s": NUMBER,
    "recover_s": NUMBER,
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


def parse(text: str, name: str) -> Scenario:
    """The scenario in a text. Raises ScenarioProblems."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioProblems(name, [f"is not valid TOML: {error}."]) from None
    problems = _shape(data)
    if not problems:
        problems = _contents(data)
    if problems:
        raise ScenarioProblems(name, problems)
    return Scenario(
        name=name,
        title=data["title"],
        why=data["why"],
        workload=Workload(**data["workload"]),
        faults=tuple(_fault(table) for table in data.get("fault", [])),
        expect=_expect(data["expect"]),
        engines=tuple(data.get("engines", ENGINES)),
        providers=data.get("providers", dict(PROVIDERS)),
        clocks=data.get("clocks", {}),
    )


def _shape(data: Mapping[str, Any]) -> list[str]:
    """Whether every table is there and is one."""
    problems = unknown(data, TOP, "") + wrong_type(data, TOP, "")
    return problems + missing(data, ("title", "why", "workload", "expect"), "")


def _contents(data: Mapping[str, Any]) -> list[str]:
    """What is wrong inside the tables."""
    providers = data.get("providers", PROVIDERS)
    workload, expect = data["workload"], data["expect"]
    problems = _of_table(workload, WORKLOAD, "workload.")
    problems += missing(workload, ("seconds",), "workload.")
    problems += _of_table(expect, EXPECT, "expect.")
    problems += _of_table(data.get("clocks", {}), dict.fromkeys(CLOCKS, NUMBER), "clocks.")
    problems += _choices(data.get("engines", []), ENGINES, "engines")
    problems += _choices(expect.get("happened", []), HAPPENED, "expect.happened")
    problems += _choices(list(providers.values()), tuple(PERSONAS), "providers")
    for index, table in enumerate(data.get("fault", []), 1):
        problems += _of_fault(table, f"fault {index}: ", providers)
    return problems or _ranges(data)


def _of_table(table: Mapping[str, Any], known: Mapping[str, Any], where: str) -> list[str]:
    return unknown(table, known, where) + wrong_type(table, known, where)


def _choices(values: list[Any], known: tuple[str, ...], where: str) -> list[str]:
    return [
        f"{where}: {value!r} is not known; {near(str(value), known)}"
        for value in values
        if value not in known
    ]


def _of_fault(table: object, where: str, providers: Mapping[str, str]) -> list[str]:
    if not isinstance(table, dict):
        return [f"{where}write it as a [[fault]] table."]
    problems = missing(table, ("at_s", "for_s", "provider", "kind"), where)
    problems += wrong_type(table, FAULT, where)
    if problems:
        return problems
    if table["provider"] not in providers:
        problems.append(
            f"{where}there is no provider {table['provider']!r}; {near(table['provider'], providers)}"
        )
    return problems + [f"{where}{problem}" for problem in problems_of(table["kind"], _options(table))]


def _ranges(data: Mapping[str, Any]) -> list[str]:
    """What each value alone does not show."""
    faults = [_fault(table) for table in data.get("fault", [])]
    workload, expect = Workload(**data["workload"]), _expect(data["expect"])
    problems = []
    for name in ("seconds", "rate_per_s", "deadline_s"):
        if getattr(workload, name) <= 0:
            problems.append(f"workload.{name}: must be above 0.")
    shares = {"workload.stream_share": workload.stream_share, "expect.honest_share": expect.honest_share}
    shares["expect.complete_share"] = expect.complete_share
    problems += [f"{name}: must be from 0 to 1 (it is {v})." for name, v in shares.items() if not 0 <= v <= 1]
    for index, fault in enumerate(faults, 1):
        if fault.at_s < 0 or fault.for_s <= 0:
            problems.append(f"fault {index}: must begin at 0 or later, and last.")
        elif fault.until_s > workload.seconds:
            problems.append(f"fault {index}: ends at {fault.until_s:g} s, after the load does.")
        twins = [f for f in faults if (f.provider, f.kind) == (fault.provider, fault.kind) and f is not fault]
        if any(fault.at_s <= twin.at_s < fault.until_s for twin in twins):
            problems.append(f"fault {index}: another {fault.kind} at {fault.provider} begins before it ends.")
    return problems


def _fault(table: Mapping[str, Any]) -> Fault:
    options = _options(table)
    label = table.get("label") or _label(table["kind"], options)
    return Fault(table["at_s"], table["for_s"], table["provider"], table["kind"], options, label)


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
