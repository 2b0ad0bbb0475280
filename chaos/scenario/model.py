"""A scenario: what goes wrong when, who asks meanwhile, and what must hold. Read from a file by parse.py.

steady --------|fault|---|fault|----- heal ----- steady
0          at_s      +for_s      last fault's end        seconds
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dub5.chaos.scenario.faults import CUTTING, ENVIRONMENT_KINDS, TCP_KINDS, Value, simulator_equivalent

ENGINES = ("toxiproxy", "virtual")
PROVIDERS = {"one": "openai", "two": "mistral", "three": "anthropic"}
ROUTE = "chat"
LEAD_S = 10.0  # so long before an edge the load is dense already


@dataclass(frozen=True, slots=True)
class Topology:
    """The providers, and the service over them. `providers`: name -> persona; `simulated`: more about one, as the
    simulators say it; `timeouts` of the service, in seconds; `routes`: none is `chat`, over all providers in their order."""

    providers: Mapping[str, str] = field(default_factory=lambda: dict(PROVIDERS))
    timeouts: Mapping[str, float] = field(default_factory=dict)
    simulated: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    routes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workload:
    """Who asks what, how often. Requests start when the plan says, however slow the answers are. With a
    `plateau_rate_per_s` the load is dense for `edge_s` after each change only, and so sparse elsewhere: for what took
    hours."""

    seconds: float
    rate_per_s: float = 20.0
    plateau_rate_per_s: float | None = None
    edge_s: float = 60.0
    stream_share: float = 0.7
    deadline_s: float = 30.0  # told to the service in X-Deadline-Ms
    mix: Mapping[str, float] = field(
        default_factory=lambda: {ROUTE: 1.0}
    )  # route -> its part of the requests


@dataclass(frozen=True, slots=True)
class ScenarioFault:
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
    def as_simulator_fault(self) -> dict[str, Value] | None:
        """As the simulators are told it; of one on the connection the nearest that they can do, if there is any."""
        return (
            simulator_equivalent(self.kind, self.options) if self.tcp else {"kind": self.kind, **self.options}
        )

    @property
    def environmental(self) -> bool:
        """Whether it happens to no answer at all."""
        return self.kind in ENVIRONMENT_KINDS

    @property
    def cuts(self) -> bool:
        """Whether it may end a stream that is already under way."""
        return self.kind in CUTTING or bool(self.options.get("closes_open"))


@dataclass(frozen=True, slots=True)
class Expect:
    """What must hold. Shares are of all requests; cuts that a fault planned do not lower `complete_share`.

    `failover_s`: so long after a fault has begun, requests are as before: complete, the first words (of JSON: all of
    it) within `usual_s`. `amplification_max`: tries at providers for each request of the faults' time. `answered_by`:
    `route/provider` -> its least share of that route's complete answers."""

    honest_share: float = 1.0
    complete_share: float = 1.0
    first_token_p95_s: float | None = None
    failover_s: float | None = None
    usual_s: float = 3.0
    recover_s: float | None = None
    amplification_max: float | None = None
    answered_by: Mapping[str, float] = field(default_factory=dict)
    happened: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """The whole file."""

    name: str  # the file's name without .toml
    title: str
    why: str
    workload: Workload
    faults: tuple[ScenarioFault, ...]
    expect: Expect
    engines: tuple[str, ...] = ENGINES
    topology: Topology = field(default_factory=Topology)
    source: str = ""  # where the incident is told
    confidence: str = ""
    off: str = "failover"  # the mechanism without which it must not hold

    @property
    def providers(self) -> Mapping[str, str]:
        """Name -> persona."""
        return self.topology.providers

    @property
    def first_fault_s(self) -> float:
        return min((fault.at_s for fault in self.faults), default=self.workload.seconds)

    @property
    def heal_s(self) -> float:
        """When the last fault has ended."""
        return max((fault.until_s for fault in self.faults), default=0.0)

    @property
    def stretches(self) -> tuple[tuple[float, float, float], ...]:
        """The load over time: from, until (seconds), requests a second."""
        load = self.workload
        if load.plateau_rate_per_s is None:
            return ((0.0, load.seconds, load.rate_per_s),)
        edges = {0.0, *(fault.at_s for fault in self.faults), *(fault.until_s for fault in self.faults)}
        made: list[tuple[float, float, float]] = []
        until_s = 0.0
        for edge_s in sorted(edges):
            begins_s = max(until_s, edge_s - LEAD_S)
            if begins_s > until_s:
                made.append((until_s, begins_s, load.plateau_rate_per_s))
            until_s = max(until_s, min(edge_s + load.edge_s, load.seconds))
            if until_s > begins_s:
                made.append((begins_s, until_s, load.rate_per_s))
        return (
            (*made, (until_s, load.seconds, load.plateau_rate_per_s))
            if until_s < load.seconds
            else tuple(made)
        )
