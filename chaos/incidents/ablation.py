"""A run without one mechanism: what shows that a scenario can fail.

failover             each route has its first target only
standing_per_target  what is known of one model of a provider is taken for the provider's: its models stand or fall together
last_settings        settings that cannot be read are taken for empty ones
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
    first = {name: targets[:1] for name, targets in routes(scenario.topology).items()}
    yield replace(scenario, topology=replace(scenario.topology, routes=first))


@contextlib.contextmanager
def _standing_per_target(scenario: Scenario) -> Iterator[Scenario]:
    made = Fleet._new

    def new(fleet: Fleet, target: Target, origin: str) -> object:
        state = made(fleet, target, origin)
        for known in fleet._states.values():
            if known.target.provider == target.provider:
                state.breaker, state.error_rate = known.breaker, known.error_rate
        return state

    with mock.patch.object(Fleet, "_new", new):
        yield scenario


@contextlib.contextmanager
def _last_settings(scenario: Scenario) -> Iterator[Scenario]:
    def refuse(service: Service, problems: Sequence[str]) -> None:
        service.reload(LoadedSettings(Settings(provider=(), route=()), {}, ()))

    with mock.patch.object(Service, "reject_settings", refuse):
        yield scenario


def disabled(mechanism: str, scenario: Scenario) -> AblatedScenario:
    """For so long, the service without it, and the scenario to be played then."""
    switches = {
        "failover": _failover,
        "standing_per_target": _standing_per_target,
        "last_settings": _last_settings,
    }
    return switches[mechanism](scenario)
