"""Ablation: run a scenario with one mechanism disabled, to show that the scenario can fail.

failover             each route has its first target only
standing_per_target  health is known per provider instead of per target: models of a provider fail together
last_settings        an unreadable settings file counts as empty settings
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from unittest import mock

from dub5.chaos.scenario.model import Scenario
from dub5.chaos.scenario.service_config import routes
from dub5.service.app import Service
from dub5.service.config.settings import LoadedSettings, Settings
from dub5.service.model import Target
from dub5.service.resilience.fleet import Fleet

AblatedScenario = AbstractContextManager[Scenario]


@contextlib.contextmanager
def _failover(scenario: Scenario) -> Iterator[Scenario]:
    first_targets = {name: targets[:1] for name, targets in routes(scenario.topology).items()}
    yield replace(scenario, topology=replace(scenario.topology, routes=first_targets))


@contextlib.contextmanager
def _standing_per_target(scenario: Scenario) -> Iterator[Scenario]:
    original = Fleet._new

    def shared(fleet: Fleet, target: Target, origin: str) -> object:
        state = original(fleet, target, origin)
        for other in fleet._states.values():
            if other.target.provider == target.provider:
                state.breaker, state.error_rate = other.breaker, other.error_rate
        return state

    with mock.patch.object(Fleet, "_new", shared):
        yield scenario


@contextlib.contextmanager
def _last_settings(scenario: Scenario) -> Iterator[Scenario]:
    def refuse(service: Service, problems: Sequence[str]) -> None:
        service.reload(LoadedSettings(Settings(provider=(), route=()), {}, ()))

    with mock.patch.object(Service, "reject_settings", refuse):
        yield scenario


def disabled(mechanism: str, scenario: Scenario) -> AblatedScenario:
    """Disable a mechanism while the context lasts. It yields the scenario to run."""
    switches = {
        "failover": _failover,
        "standing_per_target": _standing_per_target,
        "last_settings": _last_settings,
    }
    return switches[mechanism](scenario)
