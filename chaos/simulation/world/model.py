"""A world: everything that one simulated run is made of, as plain data.

A seed generates it (generate.py), shrinking reduces it (../shrink.py), `write` and `read` save and load it.

|-- warm_s --|------ storm_s ------|---- calm_s ----|-- rest_s --|
  no faults     fault windows        traffic, or none  no traffic; then some last requests, and the end
                                     ^ heal_s: every fault is over
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from dub5.chaos.simulation.world.jobs import JobLoad
from dub5.chaos.simulation.world.people import Crash, People, people_lines
from dub5.service.config.options import (
    AdmissionOptions,
    BreakerOptions,
    BudgetOptions,
    CacheOptions,
    DegradedOptions,
    HealthOptions,
    HedgeOptions,
    LimiterOptions,
    LimitsOptions,
    PriorityName,
    ProbeOptions,
    RetryOptions,
    TimeoutOptions,
)
from dub5.service.config.settings import DeliveryName, PolicyName
from dub5.simulators.odd_forms import OddForm
from dub5.simulators.virtual.database import DatabaseFault

# The one fault that the simulators do not play: kept-alive connections are dead when used next.
STALE = "stale"


@dataclass(frozen=True, slots=True)
class WorldProvider:
    """A simulated provider. The first `bad_keys` of its `keys` are refused; `models` are its targets; `form`
    is how it writes its streams."""

    name: str
    persona: str
    latency: str
    words: int
    models: tuple[str, ...]
    keys: int = 1
    bad_keys: int = 0
    limits: dict[str, Any] | None = None
    capacity: dict[str, Any] | None = None
    priced: bool = False
    isolated: bool = False
    form: OddForm | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the names of its targets, as the service names them."""
        return tuple(f"{self.name}/{model}" for model in self.models)


@dataclass(frozen=True, slots=True)
class FaultWindow:
    """A fault at one provider for some time. `fault` is written as the simulators read it, without its
    times."""

    provider: str
    at_s: float
    for_s: float
    fault: dict[str, Any]

    @property
    def until_s(self) -> float:
        """Return when the fault is over."""
        return self.at_s + self.for_s


@dataclass(frozen=True, slots=True)
class WorldRoute:
    """A route: a model name that clients request."""

    name: str
    policy: PolicyName
    targets: tuple[str, ...]
    delivery: DeliveryName = "live"
    cache: CacheOptions = field(default_factory=CacheOptions)
    degraded: DegradedOptions = field(default_factory=DegradedOptions)
    reject_patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadProfile:
    """The load. Shares are of all requests. `bursts`: (time, number of requests at once). `repeat_share`:
    requests that repeat one of `questions` and may be cached. `program_share`: requests whose answer a
    program reads. `delivery_share`: requests that name a delivery. `hasty_share`: requests with a very short
    deadline."""

    rate_per_s: float
    stream_share: float
    leave_share: float
    slow_share: float
    deadline_s: tuple[float, float]
    bursts: tuple[tuple[float, int], ...] = ()
    last: int = 3  # requests for each route after the rest
    repeat_share: float = 0.0
    questions: int = 1
    program_share: float = 0.0
    delivery_share: float = 0.0
    embeddings_share: float = 0.0
    hasty_share: float = 0.0


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """The settings of the service."""

    timeouts: TimeoutOptions = field(default_factory=TimeoutOptions)
    breaker: BreakerOptions = field(default_factory=BreakerOptions)
    retry: RetryOptions = field(default_factory=RetryOptions)
    budget: BudgetOptions = field(default_factory=BudgetOptions)
    hedge: HedgeOptions = field(default_factory=HedgeOptions)
    limiter: LimiterOptions = field(default_factory=LimiterOptions)
    health: HealthOptions = field(default_factory=HealthOptions)
    probe: ProbeOptions = field(default_factory=ProbeOptions)
    admission: AdmissionOptions = field(default_factory=AdmissionOptions)
    client_stall_s: float = 30.0
    connections_per_origin_max: int = 1000
    in_flight_max: int = 10_000


@dataclass(frozen=True, slots=True)
class Drain:
    """The service is drained while traffic goes on."""

    at_s: float
    drain_s: float
    announce_s: float


@dataclass(frozen=True, slots=True)
class Reload:
    """Settings that replace the first ones at `at_s`: `isolated` are more isolated providers, `rotated` get
    new keys."""

    at_s: float
    tuning: ServiceSettings
    isolated: tuple[str, ...] = ()
    rotated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoopStalls:
    """When the service's event loop stands still: `at` are (time, duration). It wakes up as late as
    `overshoot_s`."""

    at: tuple[tuple[float, float], ...] = ()
    overshoot_s: float = 0.0

    @property
    def longest_s(self) -> float:
        """Return the duration of the longest stall."""
        return max((for_s for _, for_s in self.at), default=0.0)


@dataclass(frozen=True, slots=True)
class OddCaller:
    """A caller with a key of its own, whose requests are of these `kinds` (odd_caller.py). `refused`: the
    kinds that each provider refuses."""

    rate_per_s: float
    kinds: tuple[str, ...]
    refused: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class World:
    """The whole world. `callers`: the priority of each caller key; empty: callers have no keys. `kept`: the
    only requests that are sent, as ranges of numbers; None: all. `addresses`: how many the clients have."""

    seed: int
    providers: tuple[WorldProvider, ...]
    routes: tuple[WorldRoute, ...]
    troubles: tuple[FaultWindow, ...]
    load: LoadProfile
    tuning: ServiceSettings
    warm_s: float
    storm_s: float
    calm_s: float
    rest_s: float
    drain: Drain | None = None
    callers: tuple[PriorityName, ...] = ()
    reload: Reload | None = None
    kept: tuple[tuple[int, int], ...] | None = None
    stalls: LoopStalls = field(default_factory=LoopStalls)
    odd: OddCaller | None = None
    limits: LimitsOptions = field(default_factory=LimitsOptions)
    addresses: int = 0
    people: People | None = None
    database: tuple[DatabaseFault, ...] = ()
    crash: Crash | None = None
    jobs: JobLoad | None = None

    @property
    def heal_s(self) -> float:
        """Return when the last fault is over."""
        return self.warm_s + self.storm_s

    @property
    def priorities(self) -> tuple[PriorityName, ...]:
        """Return the priority of each caller key, that of the odd caller last."""
        return (*self.callers, "normal") if self.odd else self.callers

    @property
    def traffic_s(self) -> float:
        """Return when the last request of the ordinary load is sent."""
        return self.heal_s + self.calm_s

    @property
    def end_s(self) -> float:
        """Return when the last requests are sent."""
        return self.traffic_s + self.rest_s

    @property
    def tunings(self) -> tuple[ServiceSettings, ...]:
        """Return all settings of the run: the first, and those of a reload."""
        return (self.tuning, self.reload.tuning) if self.reload else (self.tuning,)

    def generation(self, at_s: float) -> int:
        """Return which settings apply at a moment: 0 before the reload, 1 after."""
        return int(self.reload is not None and at_s >= self.reload.at_s)

    def tuning_at(self, at_s: float) -> ServiceSettings:
        """Return the settings for a request that comes at a moment."""
        return self.tunings[self.generation(at_s)]

    def route(self, name: str) -> WorldRoute:
        """Return the route of that name."""
        return next(route for route in self.routes if route.name == name)

    def provider(self, name: str) -> WorldProvider:
        """Return the provider of that name."""
        return next(provider for provider in self.providers if provider.name == name)

    def lines(self) -> list[str]:
        """Describe the world in a few lines."""
        load = self.load
        head = (
            f"world {self.seed}: warm {self.warm_s:g} s, storm {self.storm_s:g} s, calm {self.calm_s:g} s, "
            f"rest {self.rest_s:g} s; {load.rate_per_s:g} requests/s, {load.stream_share:.0%} streams, "
            f"{load.leave_share:.0%} leave, {load.slow_share:.0%} read slowly, deadlines "
            f"{load.deadline_s[0]:g}-{load.deadline_s[1]:g} s; "
            f"{load.repeat_share:.0%} repeat one of {load.questions} questions, "
            f"{load.program_share:.0%} by programs"
        )
        lines = [head, *(f"  burst of {count} at {at_s:g} s" for at_s, count in load.bursts)]
        lines += map(_route_line, self.routes)
        lines += [f"  provider {_provider_line(provider)}" for provider in self.providers]
        lines += [
            f"  {window.at_s:6.1f} - {window.until_s:5.1f} s  {window.provider}: {_fault_text(window.fault)}"
            for window in self.troubles
        ]
        if self.drain:
            lines.append(f"  drain at {self.drain.at_s:g} s, within {self.drain.drain_s:g} s")
        if self.callers:
            lines.append(f"  callers: {', '.join(self.callers)}")
        if self.odd:
            refused = [
                f"{name} refuses {' '.join(kinds) or 'nothing'}" for name, kinds in self.odd.refused.items()
            ]
            lines.append(f"  an odd caller: {self.odd.rate_per_s:g} requests/s; {', '.join(refused)}")
        if self.reload:
            lines.append(f"  reload at {self.reload.at_s:g} s: {', '.join(_reload_lines(self.reload))}")
        if self.limits != LimitsOptions():
            changed = ", ".join(_differences("limits", self.limits, LimitsOptions()))
            lines.append(f"  {self.addresses} addresses; {changed}")
        if self.stalls != LoopStalls():
            stalls = [f"{for_s:g} s at {at_s:g} s" for at_s, for_s in self.stalls.at]
            stalls.append(f"wakes up to {self.stalls.overshoot_s * 1e3:g} ms late")
            lines.append(f"  the event loop stands still: {', '.join(stalls)}")
        lines += people_lines(self.people, self.database, self.crash)
        lines += [self.jobs.line()] if self.jobs else []
        if self.kept is not None:
            lines.append(f"  only the requests {', '.join(f'{a}-{b}' for a, b in self.kept)}")
        return [*lines, f"  settings: {', '.join(_changed(self.tuning)) or 'all defaults'}"]


def write(world: World, path: Path) -> None:
    """Save a world, to be run again exactly."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(world), indent=1))


def read(path: Path) -> World:
    """Load a saved world. Raises OSError, msgspec.DecodeError."""
    return msgspec.json.decode(path.read_bytes(), type=World)


def _provider_line(provider: WorldProvider) -> str:
    details = [f"{provider.words} words"]
    if provider.keys != 1 or provider.bad_keys:
        details.append(
            f"{provider.keys or 'no'} keys"
            + (f", {provider.bad_keys} of them bad" if provider.bad_keys else "")
        )
    details += [_fault_text(part) for part in (provider.limits, provider.capacity) if part]
    if provider.isolated:
        details.append("isolated")
    if provider.form:
        details.append(f"streams in the form `{provider.form}`")
    return f"{provider.name}: {provider.persona}, {provider.latency}, {', '.join(details)}"


def _route_line(route: WorldRoute) -> str:
    details: list[str] = [route.delivery] if route.delivery != "live" else []
    details += [
        f"{name} {_options(part)}"
        for name, part in (("cache", route.cache), ("degraded", route.degraded))
        if part.enabled
    ]
    return f"  route {route.name} ({', '.join((route.policy, *details))}): {', '.join(route.targets)}"


def _reload_lines(reload: Reload) -> list[str]:
    isolated = [f"{name} isolated" for name in reload.isolated]
    return [*isolated, *(f"{name} with new keys" for name in reload.rotated), *_changed(reload.tuning)]


def _options(part: msgspec.Struct) -> str:
    default = {
        name: value for name, value in msgspec.structs.asdict(type(part)()).items() if name != "enabled"
    }
    return " ".join(
        f"{name}={getattr(part, name)}" for name, value in default.items() if getattr(part, name) != value
    )


def _fault_text(fault: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in fault.items()).removeprefix("kind=")


def _changed(tuning: ServiceSettings) -> list[str]:
    """Return what differs from the default settings."""
    found, defaults = [], ServiceSettings()
    for name in ServiceSettings.__slots__:
        now, default = getattr(tuning, name), getattr(defaults, name)
        if isinstance(now, msgspec.Struct):
            found += _differences(name, now, default)
        elif now != default:
            found.append(f"{name}={now:g}")
    return found


def _differences(name: str, now: msgspec.Struct, default: msgspec.Struct) -> list[str]:
    return [
        f"{name}.{part}={getattr(now, part)}"
        for part in now.__struct_fields__
        if getattr(now, part) != getattr(default, part)
    ]
