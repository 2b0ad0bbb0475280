"""What one reading of the settings makes: the targets and their guards, the routes, and the way of a request over them.

    settings -> dialects, routes, fleet -> runner -> gateway -> desk, ops

A reload makes another one. Requests that came before keep theirs to their end: old routes, clocks, dialects. What is
known of a target is shared by both (routing/fleet), so that nothing is forgotten and nothing counted twice.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import msgspec

from dub5.service import clock
from dub5.service.admission.admission import Admission, Callers
from dub5.service.admission.queue import Queue
from dub5.service.api.chat import Desk
from dub5.service.api.features import Capabilities
from dub5.service.api.ops import Ops
from dub5.service.cache.cache import AnswerCache
from dub5.service.config.settings import Loaded, ProviderSettings, RouteSettings, Settings
from dub5.service.events import Events
from dub5.service.failover.context import Dependencies, Upstream
from dub5.service.failover.hedging import Hedges
from dub5.service.failover.loop import Failover
from dub5.service.failover.prober import Prober
from dub5.service.failover.rejected_content import RejectPatterns
from dub5.service.fallback.fallback import Fallbacks
from dub5.service.fallback.offline_pack import build_pack
from dub5.service.gateway import Gateway, Route
from dub5.service.model import Target
from dub5.service.providers.features import missing_features
from dub5.service.providers.registry import dialect_of
from dub5.service.resilience.fleet import Fleet, GuardOptions
from dub5.service.resilience.health import TargetSnapshot
from dub5.service.telemetry.board import Board
from dub5.service.wire.base import Wire, origin_of


@dataclass(frozen=True, slots=True)
class House:
    """What lives as long as the process. `rng` gives each component its own source of chance, by name."""

    wire: Wire
    cache: AnswerCache
    admission: Admission
    queue: Queue
    board: Board
    events: Events
    rng: Callable[[str], Random]
    new_id: Callable[[], str]


class Generation:
    """The settings at work. `before` is the one that this one follows."""

    def __init__(self, loaded: Loaded, house: House, before: "Generation | None" = None) -> None:
        self.settings = settings = loaded.settings
        upstreams = _upstreams(settings)
        routes = _routes(settings)
        self.targets = {target: origin_of(upstream.base_url) for target, upstream in upstreams.items()}
        self.fleet: Fleet = Fleet(
            self.targets,
            loaded.provider_keys,
            GuardOptions(settings.breaker, settings.budget, settings.limiter, settings.health),
            house.rng("breaker"),
            house.events,
            before.fleet if before else None,
        )
        hedges = Hedges(settings.hedge)
        dependencies = Dependencies(
            house.wire, upstreams, house.events, settings.server.answer_bytes_max, hedges
        )
        self.failover = Failover(dependencies, self.fleet, settings.retry, house.rng("backoff"))
        self.desk = Desk(
            Gateway(routes, house.cache, house.queue, self.failover, house.rng("router")),
            house.admission,
            Callers(loaded.caller_keys, settings.server.caller_keys_env, settings.admission.priorities),
            house.events,
            settings.server,
            house.new_id,
        )
        offline = build_pack((route.settings, route.fallbacks) for route in routes.values())
        capabilities = {
            target.name: Capabilities(upstream.missing_features.keys(), upstream.context_tokens)
            for target, upstream in upstreams.items()
        }
        self.ops = Ops(
            settings, house.admission, house.queue, house.board, self.states, capabilities, offline
        )
        timeout_options = {
            target: route.settings.clocks for route in routes.values() for target in route.targets
        }
        self.prober = Prober(
            self.failover, timeout_options, settings.probe, house.rng("probes"), house.new_id
        )

    def isolate(self) -> None:
        """Leaves alone whom the settings say to, and lets the others go again. Wants a running loop."""
        isolated = [provider.name for provider in self.settings.provider if provider.isolated]
        self.fleet.isolate(isolated, clock.now())

    def states(self) -> list[TargetSnapshot]:
        """How each target stands now."""
        return self.fleet.snapshots(clock.now())


def _upstreams(settings: Settings) -> dict[Target, Upstream]:
    providers = {provider.name: provider for provider in settings.provider}
    names = dict.fromkeys(name for route in settings.route for name in route.targets)
    event_bytes_max = settings.server.event_bytes_max
    return {
        target: Upstream(
            dialect,
            provider.base_url.rstrip("/"),
            provider.prices.get(target.model),
            missing_features(dialect, target.model),
            provider.context_tokens.get(target.model),
        )
        for target in map(_target, names)
        for provider in [providers[target.provider]]
        for dialect in [dialect_of(provider, event_bytes_max)]
    }


def _routes(settings: Settings) -> dict[str, Route]:
    providers = {provider.name: provider for provider in settings.provider}
    return {route.name: _route(route, providers) for route in settings.route}


def _route(settings: RouteSettings, providers: dict[str, ProviderSettings]) -> Route:
    targets = tuple(_target(name) for name in settings.targets)
    behind = [(target.name, _answering(providers[target.provider])) for target in targets]
    fingerprint = hashlib.sha256(msgspec.json.encode([behind, settings.notices], order="sorted")).hexdigest()
    return Route(
        settings, targets, RejectPatterns(settings.notices), fingerprint, Fallbacks(settings.degraded)
    )


def _answering(provider: ProviderSettings) -> ProviderSettings:
    """The provider without what changes no answer of it."""
    return msgspec.structs.replace(provider, key_env=(), isolated=False, prices={}, context_tokens={})


def _target(name: str) -> Target:
    provider, _, model = name.partition("/")
    return Target(provider, model)
