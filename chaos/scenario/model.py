"""A scenario: what goes wrong when, the load meanwhile, and what must hold. parse.py reads it from a file.

steady --------|fault|---|fault|----- heal ----- steady
0          at_s      +for_s      last fault's end        seconds
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from dub5.chaos.scenario.faults import CUTTING, ENVIRONMENT_KINDS, TCP_KINDS, FaultValue, simulator_equivalent

NUMBER_MAX = 1e9  # excludes infinity
NotNegative = Annotated[float, Meta(ge=0, le=NUMBER_MAX)]
Positive = Annotated[float, Meta(gt=0, le=NUMBER_MAX)]
ShareOrZero = Annotated[float, Meta(ge=0, le=1)]
Engine = Literal["toxiproxy", "virtual"]
Confidence = Literal["primary", "secondary source", "unverified"]
# Mechanisms that chaos/incidents/ablation.py can disable.
Mechanism = Literal["failover", "standing_per_target", "last_settings"]
# Events that the service's /status counts.
Happened = Literal[
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
]

ENGINES: tuple[Engine, ...] = get_args(Engine)
PROVIDERS = {"one": "openai", "two": "mistral", "three": "anthropic"}
ROUTE = "chat"
LEAD_S = 10.0  # before an edge, in which the load is dense already


@dataclass(frozen=True, slots=True)
class Topology:
    """The providers, and the service over them. `providers`: name -> persona; `simulated`: more options of
    one, as the simulators read them; `timeouts`: of the service, in seconds; `routes`: empty means one
    route `chat` over all providers in their order."""

    providers: Mapping[str, str] = field(default_factory=lambda: dict(PROVIDERS))
    timeouts: Mapping[str, float] = field(default_factory=dict)
    simulated: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    routes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Workload(msgspec.Struct, frozen=True):
    """The load. Requests start when planned, however slow the answers are. With a `plateau_rate_per_s` the
    load is dense for `edge_s` around each change and has that rate elsewhere: for incidents that took
    hours."""

    seconds: Positive
    rate_per_s: Positive = 20.0
    plateau_rate_per_s: Positive | None = None
    edge_s: Positive = 60.0
    stream_share: ShareOrZero = 0.7
    deadline_s: Positive = 30.0  # sent to the service as X-Deadline-Ms
    mix: dict[str, NotNegative] = msgspec.field(default_factory=lambda: {ROUTE: 1.0})  # route -> its weight


@dataclass(frozen=True, slots=True)
class ScenarioFault:
    """One fault at one provider, from `at_s` for `for_s` seconds."""

    at_s: float
    for_s: float
    provider: str
    kind: str
    options: Mapping[str, FaultValue] = field(hash=False)
    label: str  # from the file, or made from kind and fields

    @property
    def until_s(self) -> float:
        return self.at_s + self.for_s

    @property
    def tcp(self) -> bool:
        """Say whether it is a fault of the connection rather than of the answer."""
        return self.kind in TCP_KINDS

    @property
    def as_simulator_fault(self) -> dict[str, FaultValue] | None:
        """Return the fault as simulators read it; for one of the connection the nearest that they can do, or
        None."""
        return (
            simulator_equivalent(self.kind, self.options) if self.tcp else {"kind": self.kind, **self.options}
        )

    @property
    def environmental(self) -> bool:
        """Say whether it changes the environment, and no answer."""
        return self.kind in ENVIRONMENT_KINDS

    @property
    def cuts(self) -> bool:
        """Say whether it may cut a stream that has begun."""
        return self.kind in CUTTING or bool(self.options.get("closes_open"))


class Expect(msgspec.Struct, frozen=True):
    """What must hold. Shares are of all requests; planned cuts do not lower `complete_share`.

    `failover_s`: this long after a fault's start, requests are unaffected: complete, with the first content
    (of JSON: the answer) within `usual_s`. `amplification_max`: attempts at providers per request during the
    faults. `answered_by`: `route/provider` -> its minimum share of that route's complete answers.
    """

    honest_share: ShareOrZero = 1.0
    complete_share: ShareOrZero = 1.0
    first_token_p95_s: NotNegative | None = None
    failover_s: NotNegative | None = None
    usual_s: NotNegative = 3.0
    recover_s: NotNegative | None = None
    amplification_max: NotNegative | None = None
    answered_by: dict[str, ShareOrZero] = {}
    happened: tuple[Happened, ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario file."""

    name: str  # the file's name without .toml
    title: str
    why: str
    workload: Workload
    faults: tuple[ScenarioFault, ...]
    expect: Expect
    engines: tuple[Engine, ...] = ENGINES
    topology: Topology = field(default_factory=Topology)
    source: str = ""  # of the incident
    confidence: str = ""
    off: Mechanism = "failover"  # the mechanism without which it must not hold
    file: str = ""  # its path, as it was given; empty for a bundled one

    def command(self, engine: str, seed: int) -> str:
        """Return the command that runs it again, quoted for a shell."""
        named = self.file or self.name
        named = f"./{named}" if named.startswith("-") else named
        return shlex.join(["dub5", "chaos", named, "--engine", engine, "--seed", str(seed)])

    @property
    def providers(self) -> Mapping[str, str]:
        """Return the providers: name -> persona."""
        return self.topology.providers

    @property
    def first_fault_s(self) -> float:
        return min((fault.at_s for fault in self.faults), default=self.workload.seconds)

    @property
    def heal_s(self) -> float:
        """Return when the last fault has ended."""
        return max((fault.until_s for fault in self.faults), default=0.0)

    @property
    def stretches(self) -> tuple[tuple[float, float, float], ...]:
        """Return the load over time as (from, until, requests per second)."""
        load = self.workload
        if load.plateau_rate_per_s is None:
            return ((0.0, load.seconds, load.rate_per_s),)
        edges = {0.0, *(fault.at_s for fault in self.faults), *(fault.until_s for fault in self.faults)}
        stretches: list[tuple[float, float, float]] = []
        until_s = 0.0
        for edge_s in sorted(edges):
            begins_s = max(until_s, edge_s - LEAD_S)
            if begins_s > until_s:
                stretches.append((until_s, begins_s, load.plateau_rate_per_s))
            until_s = max(until_s, min(edge_s + load.edge_s, load.seconds))
            if until_s > begins_s:
                stretches.append((begins_s, until_s, load.rate_per_s))
        return (
            (*stretches, (until_s, load.seconds, load.plateau_rate_per_s))
            if until_s < load.seconds
            else tuple(stretches)
        )
