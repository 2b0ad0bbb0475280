"""Operations: health, status and model lists for operators, platforms and monitors."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dub5.service import VERSION
from dub5.service.admission.admission import Admission
from dub5.service.admission.queue import Queue
from dub5.service.api.features import Capabilities, features
from dub5.service.config.settings import Personality, RouteSettings, Settings
from dub5.service.fallback.offline_pack import OfflinePack
from dub5.service.resilience.health import Health, TargetSnapshot
from dub5.service.telemetry.board import RouteCounters, StatusBoard, TargetCounters
from dub5.service.telemetry.watch import Watch
from dub5.service.wire.base import origin_of

NO_CALLS = RouteCounters()


@dataclass(frozen=True, slots=True)
class Ops:
    """A read-only view of the state of the whole service."""

    settings: Settings
    admission: Admission
    queue: Queue
    board: StatusBoard
    states: Callable[[], list[TargetSnapshot]]
    capabilities: Mapping[str, Capabilities]
    offline: OfflinePack
    personalities: Mapping[str, Personality]  # by model name
    watch: Watch
    database: Callable[[], dict[str, Any]] | None = None  # its state; None without conversations
    keys: Callable[[], list[dict[str, Any]]] = list  # of the providers: their state, never the keys

    def ready(self) -> bool:
        """Return whether this instance accepts new requests."""
        return self.admission.ready

    def health(self) -> dict[str, Any]:
        """Return the health of this process, without the providers."""
        return {"status": "ok" if self.ready() else "draining", "version": VERSION}

    def deep_health(self) -> tuple[bool, dict[str, Any]]:
        """Return whether every route answers, and the health of each component.

        The process is `failing` when it has shed all requests for a while, before their route was known.
        A route is `down` without a usable target, and `failing` when its last answers all failed, whatever is
        believed of its targets. `few_calls`: there were too few to say more. Requests are answered without
        the cache and without the database, so these two do not count.
        """
        states = {state.name: state for state in self.states()}
        routes = {route.name: self._route_health(route, states) for route in self.settings.route}
        process = self._process_health()
        healthy = all(part["status"] == "ok" for part in (process, *routes.values()))
        components = {
            "process": process,
            "settings": self._settings_health(),
            "cache": self._cache_health(),
            "database": {"status": "off"} if self.database is None else self.database(),
            "queue": {"status": "ok", "waiting": self.queue.waiting},
            "routes": routes,
            "targets": {name: self._target_health(state) for name, state in states.items()},
        }
        return healthy, {
            "status": "ok" if healthy else "failing",
            "version": VERSION,
            "components": components,
        }

    def _process_health(self) -> dict[str, Any]:
        status = "draining" if not self.ready() else "failing" if self.board.process_failing else "ok"
        return {
            "status": status,
            "in_flight": self.admission.in_flight,
            "in_flight_max": self.admission.in_flight_max,
            "shed_in_a_row": self.board.process.shed_in_a_row,
        }

    def _route_health(self, route: RouteSettings, states: Mapping[str, TargetSnapshot]) -> dict[str, Any]:
        counters = self.board.routes.get(route.name, NO_CALLS)
        usable = any(states[name].health is not Health.UNHEALTHY for name in route.targets)
        status = "down" if not usable else "failing" if counters.failing else "ok"
        return {"status": status, **counters.snapshot()}

    def _target_health(self, state: TargetSnapshot) -> dict[str, Any]:
        counters = self.board.targets.get(state.name, TargetCounters()).snapshot()
        calls = {name: counters[name] for name in ("answered", "failed", "failed_in_a_row", "few_calls")}
        return {"status": state.health.value, "breaker": state.breaker, **calls}

    def _settings_health(self) -> dict[str, Any]:
        """Return whether the last reload could be used; a refused one leaves the old settings at work."""
        reloaded = self.board.reloaded
        return {"status": "ok" if reloaded is None or reloaded["ok"] else "refused"}

    def _cache_health(self) -> dict[str, Any]:
        """Return whether the answer cache works. Without it requests are answered all the same."""
        storage = "redis" if self.settings.cache.redis.used else "memory"
        if not any(route.cache.enabled for route in self.settings.route):
            return {"status": "off", "storage": storage}
        return {"status": "failing" if self.board.cache_fails else "ok", "storage": storage}

    def status(self) -> dict[str, Any]:
        """Return all data of /status, which the page shows."""
        board = self.board.snapshot()
        counters: dict[str, dict[str, Any]] = board.pop("targets")
        dialects = {provider.name: provider.dialect for provider in self.settings.provider}
        prices = {provider.name: provider.prices for provider in self.settings.provider}
        simulated = {provider.name for provider in self.settings.provider if provider.simulated}
        no_counters = TargetCounters().snapshot()
        targets = [
            {
                "name": state.name,
                "provider": state.provider,
                "dialect": dialects[state.provider],
                "health": state.health.value,
                "breaker": state.breaker,
                "cooling_s": round(state.cooling_s, 1),
                "wait_s": round(state.wait_s, 1),
                "in_flight": state.in_flight,
                "provider_in_flight": state.provider_in_flight,
                "limit": state.limit,
                "limit_max": self.settings.limiter.max,
                "simulated": state.provider in simulated,
                "priced": state.name.partition("/")[2] in prices[state.provider],
                **counters.get(state.name, no_counters),
            }
            for state in self.states()
        ]
        return {
            "service": "dub5",
            "version": VERSION,
            "started": self.board.started_at,
            "draining": self.admission.draining,
            "in_flight": self.admission.in_flight,
            "queue": self.queue.snapshot(),
            "database": None if self.database is None else self.database(),
            "routes": [
                {"name": name, "targets": targets, "features": features}
                for name, targets, features in self.features()
            ],
            "targets": targets,
            "degraded": self.watch.degraded(),
            "problems": self.watch.problems.snapshot(),
            "keys": self.keys(),
            **board,
            "incidents": [self._with_provider(incident) for incident in board["incidents"]],
        }

    def _with_provider(self, incident: dict[str, Any]) -> dict[str, Any]:
        """Return an incident of a host with the names of its providers instead of the address."""
        names = [p.name for p in self.settings.provider if origin_of(p.base_url) == incident["target"]]
        return {**incident, "target": ", ".join(names)} if names else incident

    def models(self) -> dict[str, Any]:
        """Return the routes as OpenAI's list of models.

        `sessions`, `conversations` and `documents` tell the page that it can have them.
        """
        more: dict[str, Any] = {} if self.settings.session is None else {"sessions": True}
        more |= {} if self.settings.conversation is None else {"conversations": True}
        if self.settings.documents is not None:
            more |= {"documents": {"bytes_max": self.settings.documents.bytes_max}}
        data = [self._model(name, features) for name, _, features in self.features()]
        return {"object": "list", "data": data, **more}

    def model(self, name: str) -> dict[str, Any] | None:
        """Return one route as OpenAI's model object, or None."""
        found = (features for known, _, features in self.features() if known == name)
        return next((self._model(name, features) for features in found), None)

    def features(self) -> Iterator[tuple[str, tuple[str, ...], dict[str, str]]]:
        """Yield each route, its targets, and the availability of its features."""
        states = {state.name: state for state in self.states()}
        for route in self.settings.route:
            yield route.name, route.targets, features(route.targets, self.capabilities, states)

    def _model(self, name: str, features: dict[str, str]) -> dict[str, Any]:
        head = {"id": name, "object": "model", "created": int(self.board.started_at), "owned_by": "dub5"}
        if (personality := self.personalities.get(name)) is not None:
            head |= {"personality": personality.name, "title": personality.title}
            head |= {} if personality.document is None else {"grounded": True}
        return {**head, "features": features}
