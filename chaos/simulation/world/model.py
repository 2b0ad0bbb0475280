"""A world: all that one run is made of, as plain data. A seed makes it (generate.py); shrinking makes it smaller.

|-- warm_s --|------ storm_s ------|---- calm_s ----|-- rest_s --|
  all is well   troubles come and go   traffic, or none   no traffic; then some last questions, and the end
                                     ^ heal: every trouble is over
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from dub5.service.config.options import (
    AdmissionOptions,
    BreakerOptions,
    BudgetOptions,
    CacheOptions,
    DegradedOptions,
    HealthOptions,
    HedgeOptions,
    LimiterOptions,
    PriorityName,
    ProbeOptions,
    RetryOptions,
    TimeoutOptions,
)
from dub5.service.config.settings import DeliveryName, PolicyName

STALE = "stale"  # the one trouble that is no fault of the simulators: kept-alive connections are dead when used next


@dataclass(frozen=True, slots=True)
class WorldProvider:
    """A simulated provider. The first `bad_keys` of its `keys` are refused; `models` are its targets."""

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

    @property
    def targets(self) -> tuple[str, ...]:
        """As the service names them."""
        return tuple(f"{self.name}/{model}" for model in self.models)


@dataclass(frozen=True, slots=True)
class FaultWindow:
    """Something goes wrong at a provider for a while: a fault as the simulators write it, without its times."""

    provider: str
    at_s: float
    for_s: float
    fault: dict[str, Any]

    @property
    def until_s(self) -> float:
        """When it is over, for those that come then."""
        return self.at_s + self.for_s


@dataclass(frozen=True, slots=True)
class WorldRoute:
    """A model name that clients ask for."""

    name: str
    policy: PolicyName
    targets: tuple[str, ...]
    delivery: DeliveryName = "live"
    cache: CacheOptions = field(default_factory=CacheOptions)
    degraded: DegradedOptions = field(default_factory=DegradedOptions)


@dataclass(frozen=True, slots=True)
class LoadProfile:
    """Who asks. Shares are of all requests; `bursts` are (moment, how many at once). With `repeat_share` a request is one
    of `questions`, and may be kept; with `program_share` a program reads the answer; `delivery_share` say how a stream
    is to be delivered."""

    rate_per_s: float
    stream_share: float
    leave_share: float
    slow_share: float
    deadline_s: tuple[float, float]
    bursts: tuple[tuple[float, int], ...] = ()
    last: int = 3  # questions for each route after the rest
    repeat_share: float = 0.0
    questions: int = 1
    program_share: float = 0.0
    delivery_share: float = 0.0


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
    """The service is told to end in mid-traffic."""

    at_s: float
    drain_s: float
    announce_s: float


@dataclass(frozen=True, slots=True)
class Reload:
    """Other settings from a moment on: `isolated` providers beside those that always are, others have new keys."""

    at_s: float
    tuning: ServiceSettings
    isolated: tuple[str, ...] = ()
    rotated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class World:
    """All of it. `callers`: the priority of each; none: nobody has a key. `kept`: the only requests that are sent, as (first, last) numbers; None: every one."""

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

    @property
    def heal_s(self) -> float:
        """When the last trouble is over."""
        return self.warm_s + self.storm_s

    @property
    def traffic_s(self) -> float:
        """When the last request of the ordinary load has been sent."""
        return self.heal_s + self.calm_s

    @property
    def end_s(self) -> float:
        """When the last questions are asked."""
        return self.traffic_s + self.rest_s

    @property
    def tunings(self) -> tuple[ServiceSettings, ...]:
        """All settings that ever hold."""
        return (self.tuning, self.reload.tuning) if self.reload else (self.tuning,)

    def generation(self, at_s: float) -> int:
        """0 before the settings change, 1 after."""
        return int(self.reload is not None and at_s >= self.reload.at_s)

    def tuning_at(self, at_s: float) -> ServiceSettings:
        """What holds for a request that comes then."""
        return self.tunings[self.generation(at_s)]

    def route(self, name: str) -> WorldRoute:
        """The route of that name."""
        return next(route for route in self.routes if route.name == name)

    def provider(self, name: str) -> WorldProvider:
        """The provider of that name."""
        return next(provider for provider in self.providers if provider.name == name)

    def lines(self) -> list[str]:
        """For people, a few lines."""
        load = self.load
        head = (
            f"world {self.seed}: warm {self.warm_s:g} s, storm {self.storm_s:g} s, calm {self.calm_s:g} s, rest "
            f"{self.rest_s:g} s; {load.rate_per_s:g} requests/s, {load.stream_share:.0%} streams, "
            f"{load.leave_share:.0%} leave, {load.slow_share:.0%} read slowly, deadlines "
            f"{load.deadline_s[0]:g}-{load.deadline_s[1]:g} s; {load.repeat_share:.0%} one of {load.questions} questions, "
            f"{load.program_share:.0%} of programs"
        )
        lines = [head, *(f"  burst of {count} at {at_s:g} s" for at_s, count in load.bursts)]
        lines += map(_route_line, self.routes)
        lines += [f"  provider {_provider_line(provider)}" for provider in self.providers]
        lines += [
            f"  {t.at_s:6.1f} - {t.until_s:5.1f} s  {t.provider}: {_fault_text(t.fault)}"
            for t in self.troubles
        ]
        if self.drain:
            lines.append(f"  drained at {self.drain.at_s:g} s, within {self.drain.drain_s:g} s")
        if self.callers:
            lines.append(f"  callers: {', '.join(self.callers)}")
        if self.reload:
            lines.append(
                f"  at {self.reload.at_s:g} s other settings: {', '.join(_reload_lines(self.reload))}"
            )
        if self.kept is not None:
            lines.append(f"  only the requests {', '.join(f'{a}-{b}' for a, b in self.kept)}")
        return [*lines, f"  settings: {', '.join(_changed(self.tuning)) or 'all as they come'}"]


def write(world: World, path: Path) -> None:
    """Keeps a world, to be played again exactly."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(world), indent=1))


def read(path: Path) -> World:
    """One that was kept. Raises OSError, msgspec.DecodeError."""
    return msgspec.json.decode(path.read_bytes(), type=World)


def _provider_line(provider: WorldProvider) -> str:
    more = [f"{provider.words} words"]
    if provider.keys != 1 or provider.bad_keys:
        more.append(
            f"{provider.keys or 'no'} keys"
            + (f", {provider.bad_keys} of them bad" if provider.bad_keys else "")
        )
    more += [_fault_text(part) for part in (provider.limits, provider.capacity) if part]
    if provider.isolated:
        more.append("isolated")
    return f"{provider.name}: {provider.persona}, {provider.latency}, {', '.join(more)}"


def _route_line(route: WorldRoute) -> str:
    more: list[str] = [route.delivery] if route.delivery != "live" else []
    more += [
        f"{name} {_options(part)}"
        for name, part in (("kept", route.cache), ("degraded", route.degraded))
        if part.enabled
    ]
    return f"  route {route.name} ({', '.join((route.policy, *more))}): {', '.join(route.targets)}"


def _reload_lines(reload: Reload) -> list[str]:
    isolated = [f"{name} isolated" for name in reload.isolated]
    return [*isolated, *(f"{name} with other keys" for name in reload.rotated), *_changed(reload.tuning)]


def _options(part: msgspec.Struct) -> str:
    usual = {name: value for name, value in msgspec.structs.asdict(type(part)()).items() if name != "enabled"}
    return " ".join(
        f"{name}={getattr(part, name)}" for name, value in usual.items() if getattr(part, name) != value
    )


def _fault_text(fault: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in fault.items()).removeprefix("kind=")


def _changed(tuning: ServiceSettings) -> list[str]:
    """What differs from the defaults."""
    found, plain = [], ServiceSettings()
    for name in ServiceSettings.__slots__:
        now, usual = getattr(tuning, name), getattr(plain, name)
        if isinstance(now, msgspec.Struct):
            found += [
                f"{name}.{part}={getattr(now, part)}"
                for part in now.__struct_fields__
                if getattr(now, part) != getattr(usual, part)
            ]
        elif now != usual:
            found.append(f"{name}={now:g}")
    return found
