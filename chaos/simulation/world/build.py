"""Build a world: the service's settings as it would load them, and the simulated providers."""

import random
from collections.abc import Callable, Mapping
from typing import get_args

import msgspec

from dub5.chaos.simulation.world.generate_limits import caller_variable
from dub5.chaos.simulation.world.model import (
    STALE,
    FaultWindow,
    ServiceSettings,
    World,
    WorldProvider,
    WorldRoute,
)
from dub5.chaos.simulation.world.odd_caller import OddProvider
from dub5.chaos.simulation.world.people import People
from dub5.service.config.options import KeysOptions
from dub5.service.config.settings import (
    ConversationSettings,
    DatabaseSettings,
    DialectName,
    JobsSettings,
    LoadedSettings,
    ProviderSettings,
    RouteSettings,
    Secret,
    ServerSettings,
    SessionSettings,
    Settings,
)
from dub5.service.model import Price
from dub5.service.store.migrate import sqlite_schema
from dub5.simulators import provider as simulated
from dub5.simulators.faults.answers import parse_fault
from dub5.simulators.latency import PRESETS
from dub5.simulators.ledger import Ledger
from dub5.simulators.limits.concurrency import Capacity
from dub5.simulators.limits.rate import Limits
from dub5.simulators.personas.base import Profile
from dub5.simulators.virtual.database import VirtualStorage

REWRITES = ("empty",)  # needs the whole answer, so it comes before faults that cut it
PROXIES = ("127.0.0.0/8",)  # from where all clients come
SIGNED_WITH = "what every simulated process signs its sessions with"
ANSWER_TOKENS = 200
PRICE = Price(prompt=2.0, completion=8.0)


def url(name: str) -> str:
    """Return the address of a provider."""
    return f"http://{name}.test"


def keys(provider: WorldProvider, *, rotated: bool = False) -> tuple[str, ...]:
    """Return a provider's keys, the bad ones first. A simulated provider accepts any key or exactly one, so
    next to bad keys at most one is good. `rotated`: the keys after the reload."""
    if rotated:
        return tuple(f"sk-{provider.name}-new-{i}" for i in range(provider.keys))
    bad = [f"bad-{provider.name}-{i}" for i in range(provider.bad_keys)]
    good = provider.keys - provider.bad_keys
    return (*bad, *[f"sk-{provider.name}-{i}" for i in range(min(good, 1) if bad else good)])


def keys_at(world: World, provider: WorldProvider, at_s: float) -> tuple[str, ...]:
    """Return the keys that are used at a moment."""
    reload = world.reload
    rotated = reload is not None and at_s >= reload.at_s and provider.name in reload.rotated
    return keys(provider, rotated=rotated)


def caller_key(number: int) -> str:
    """Return the inbound key of a caller."""
    return f"caller-{number}"


def loaded(world: World, generation: int = 0) -> LoadedSettings:
    """Return the settings of the service: generation 0 at start, 1 after the reload."""
    tuning, drain = world.tunings[generation], world.drain
    reload = world.reload if generation else None
    isolated = reload.isolated if reload else ()
    callers = world.priorities
    variables = tuple(map(caller_variable, range(len(callers))))
    settings = Settings(
        provider=tuple(
            _provider_settings(provider, provider.name in isolated) for provider in world.providers
        ),
        route=tuple(_route(route, tuning) for route in world.routes),
        server=ServerSettings(
            caller_keys_env=variables,
            trusted_proxies=PROXIES if world.addresses else (),
            client_stall_s=tuning.client_stall_s,
            connections_per_origin_max=tuning.connections_per_origin_max,
            in_flight_max=tuning.in_flight_max,
            drain_s=drain.drain_s if drain else 25.0,
            announce_s=drain.announce_s if drain else 0.0,
        ),
        breaker=tuning.breaker,
        retry=tuning.retry,
        budget=tuning.budget,
        hedge=tuning.hedge,
        limiter=tuning.limiter,
        health=tuning.health,
        probe=tuning.probe,
        limits=world.limits,
        keys=KeysOptions(check_s=0.0),  # a check is no attempt: the invariants know attempts alone
        admission=msgspec.structs.replace(
            tuning.admission, priorities=dict(zip(variables, callers, strict=True))
        ),
    )
    if world.people is not None:
        jobs = JobsSettings(workers=world.jobs.workers if world.jobs else 0)
        settings = msgspec.structs.replace(settings, **_kept(world.people), jobs=jobs)
    rotated = reload.rotated if reload else ()
    secrets = {p.name: tuple(map(Secret, keys(p, rotated=p.name in rotated))) for p in world.providers}
    return LoadedSettings(
        settings,
        secrets,
        tuple(Secret(caller_key(i)) for i in range(len(callers))),
        session_secrets=(Secret(SIGNED_WITH),) if world.people else (),
        database_url=Secret("sqlite:///simulated.db") if world.people else None,
    )


def _kept(people: People) -> dict[str, msgspec.Struct]:
    """Return the settings of conversations that are kept."""
    return {
        "session": SessionSettings(),
        "database": DatabaseSettings(patience_s=people.patience_s, keep_s=people.keep_s),
        "conversation": ConversationSettings(
            context_tokens=people.context_tokens, answer_tokens=ANSWER_TOKENS, linger_s=people.linger_s
        ),
    }


def _route(route: WorldRoute, tuning: ServiceSettings) -> RouteSettings:
    return RouteSettings(
        route.name,
        route.targets,
        policy=route.policy,
        delivery=route.delivery,
        timeouts=tuning.timeouts,
        cache=route.cache,
        degraded=route.degraded,
        reject_patterns=route.reject_patterns,
    )


def _provider_settings(provider: WorldProvider, isolated: bool) -> ProviderSettings:
    persona = provider.persona
    dialect: DialectName = persona if persona in get_args(DialectName) else "openai"  # type: ignore[assignment]
    return ProviderSettings(
        provider.name,
        dialect,
        url(provider.name) + ("" if dialect == "anthropic" else "/v1"),
        isolated=provider.isolated or isolated,
        prices=dict.fromkeys(provider.models, PRICE) if provider.priced else {},
    )


def providers(
    world: World, now: Callable[[], float], epoch_s: int
) -> tuple[dict[str, simulated.SimulatedProvider], Ledger]:
    """Return the simulated providers by name, with all faults scheduled, and the ledger that they share."""
    ledger = Ledger()
    return {p.name: _provider(world, p, now, epoch_s, ledger) for p in world.providers}, ledger


def _provider(
    world: World, provider: WorldProvider, now: Callable[[], float], epoch_s: int, ledger: Ledger
) -> simulated.SimulatedProvider:
    only_key = f"sk-{provider.name}-0" if provider.bad_keys else None
    profile = Profile(provider.name, PRESETS[provider.latency], provider.words, only_key, provider.models)
    simulated_provider = OddProvider(
        provider.persona,
        profile,
        rng=random.Random(f"{world.seed}:{provider.name}"),
        now=now,
        ledger=ledger,
        epoch_s=epoch_s,
        limits=msgspec.convert(provider.limits or {}, Limits),
        capacity=msgspec.convert(provider.capacity or {}, Capacity),
        form=provider.form,
    )
    simulated_provider.refuse(world)
    windows = [
        window
        for window in world.troubles
        if window.provider == provider.name and window.fault["kind"] != STALE
    ]
    windows.sort(key=lambda window: window.fault["kind"] not in REWRITES)
    simulated_provider.set_faults([parse_fault(_timed(window)) for window in windows])
    return simulated_provider


def _timed(window: FaultWindow) -> Mapping[str, object]:
    return {**window.fault, "at_s": window.at_s, "for_s": window.for_s}


def storage(world: World) -> VirtualStorage | None:
    """Return the storage of conversations, with all faults scheduled; None in a world without people."""
    return VirtualStorage(sqlite_schema(), world.database) if world.people is not None else None
