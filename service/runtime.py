"""The runtime: all objects that one reading of the settings builds.

    settings -> upstreams, routes, fleet -> failover -> gateway -> deps, ops, prober

A reload builds another runtime. Requests in flight keep the old one to their end: routes, timeouts, dialects.
Both share the state of the targets (resilience/fleet.py), so nothing that is known is lost, and nothing is
counted twice.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import msgspec

from dub5.service import clock
from dub5.service.admission.admission import Admission, Callers
from dub5.service.admission.intake import build_intake
from dub5.service.admission.queue import Queue
from dub5.service.admission.rate_limit_gate import RateLimitGate, open_gate
from dub5.service.admission.sessions import Sessions
from dub5.service.admission.shared_log import SharedLog
from dub5.service.api.browser_sessions import BrowserSessions
from dub5.service.api.chat import ApiDependencies
from dub5.service.api.features import Capabilities
from dub5.service.api.key_guard import GuardedCallers, KeyGuard
from dub5.service.api.key_rows import key_rows
from dub5.service.api.ops import Ops
from dub5.service.cache.cache import AnswerCache
from dub5.service.config.personalities import model_name
from dub5.service.config.settings import (
    LoadedSettings,
    Personality,
    ProviderSettings,
    RouteSettings,
    Secret,
    Settings,
)
from dub5.service.conversation.asked_documents import AskedDocuments
from dub5.service.conversation.conversations import Conversations, Window
from dub5.service.conversation.live_turns import LiveTurns
from dub5.service.conversation.turns import Turns
from dub5.service.documents.documents import Documents
from dub5.service.documents.readers import Readers, ReadFile
from dub5.service.events import Events
from dub5.service.failover.context import Dependencies, Upstream
from dub5.service.failover.hedging import Hedges
from dub5.service.failover.key_watch import KeyWatch, ModelList
from dub5.service.failover.loop import Failover
from dub5.service.failover.prober import Prober
from dub5.service.failover.rejected_content import RejectPatterns
from dub5.service.fallback.fallback import Fallbacks
from dub5.service.fallback.offline_pack import build_pack
from dub5.service.feedback.feedback import Feedback
from dub5.service.gateway import Gateway, Route
from dub5.service.ids import Ids
from dub5.service.jobs.jobs import Jobs
from dub5.service.model import Target
from dub5.service.optional_parts import load_part
from dub5.service.providers.features import Feature, missing_features
from dub5.service.providers.registry import dialect_of
from dub5.service.providers.slices import finish
from dub5.service.resilience.fleet import Fleet, GuardOptions
from dub5.service.resilience.health import TargetSnapshot
from dub5.service.resilience.spending import SpendingBook
from dub5.service.study.decks import Decks
from dub5.service.telemetry.board import StatusBoard
from dub5.service.telemetry.watch import Watch
from dub5.service.tokens import estimate_tokens
from dub5.service.wire.base import Wire, origin_of

if TYPE_CHECKING:  # loaded by name, where they are chosen
    from dub5.service.grounding.grounding import Grounding
    from dub5.service.store.store import Store


@dataclass(frozen=True, slots=True)
class ProcessScope:
    """The objects that live as long as the process.

    `rng` returns a component's random generator by its name.
    """

    wire: Wire
    cache: AnswerCache
    admission: Admission
    queue: Queue
    board: StatusBoard
    events: Events
    rng: Callable[[str], Random]
    new_id: Callable[[], str]
    key_guard: KeyGuard
    session_secret: Secret  # where the settings name none
    shared_log: SharedLog | None  # of rate limits
    store: "Store | None"  # of conversations; None where the settings have none
    live_turns: LiveTurns
    read_file: ReadFile  # of documents
    jobs: Jobs | None  # None without a store
    feedback: Feedback
    watch: Watch
    spending: SpendingBook


class Runtime:
    """One configuration in use. `previous`: the runtime that it replaces."""

    def __init__(
        self, loaded: LoadedSettings, process: ProcessScope, previous: "Runtime | None" = None
    ) -> None:
        self.settings = loaded.settings
        self.has_prices: bool = any(provider.prices for provider in loaded.settings.provider)
        route_settings, personalities = _with_personalities(loaded)
        settings = msgspec.structs.replace(loaded.settings, route=route_settings)
        upstreams, sessions = _upstreams(settings), _sessions(loaded, process)
        routes = _routes(settings, upstreams, personalities)
        self.targets = {target: origin_of(upstream.base_url) for target, upstream in upstreams.items()}
        self.fleet: Fleet = _fleet(settings, loaded, self.targets, process, previous)
        # What each target serves is still known after a reload: it is probed with the same operation.
        last_operations = previous.failover.dependencies.last_operations if previous else {}
        dependencies = Dependencies(
            process.wire,
            self.fleet,
            upstreams,
            process.events,
            settings.server.answer_bytes_max,
            Hedges(settings.hedge),
            settings.retry,
            process.rng("backoff"),
            last_operations,
            quota_headers=settings.keys.quota_headers,
            spending=process.spending if self.has_prices else None,
        )
        self.failover: Failover = Failover(dependencies)
        documents = _documents(settings, process, previous)
        self.deps: ApiDependencies = ApiDependencies(
            Gateway(routes, process.cache, process.queue, self.failover, process.rng("router")),
            process.admission,
            GuardedCallers(_callers(loaded), process.key_guard, sessions.tokens if sessions else None),
            process.events,
            settings.server,
            process.new_id,
            process.feedback,
            sessions,
            _gate(settings, process, previous),
            _turns(settings, process, upstreams, routes, personalities, documents, previous),
            documents,
            process.jobs,
            _decks(process, documents, previous),
        )
        self.ops = self._ops(settings, process, upstreams, routes, personalities)
        timeout_options = {
            target: route.settings.timeouts for route in routes.values() for target in route.targets
        }
        self.prober = Prober(
            self.failover, timeout_options, settings.probe, process.rng("probes"), process.new_id
        )
        self._spending = process.spending
        self.key_watch: KeyWatch = _key_watch(settings, upstreams, self.fleet, process)

    def use_budgets(self) -> None:
        """Compare what has been spent with the budgets of these settings. Needs a running loop."""
        budgets = {
            provider.name: provider.spend_max_usd_per_day
            for provider in self.settings.provider
            if provider.spend_max_usd_per_day is not None
        }
        self._spending.use(budgets, self.fleet, clock.wall(), clock.now())

    def _ops(
        self,
        settings: Settings,
        process: ProcessScope,
        upstreams: dict[Target, Upstream],
        routes: dict[str, Route],
        personalities: dict[str, Personality],
    ) -> Ops:
        return Ops(
            settings,
            process.admission,
            process.queue,
            process.board,
            self.states,
            _capabilities(upstreams),
            build_pack((route.settings, route.fallbacks) for route in routes.values()),
            personalities,
            process.watch,
            process.store.snapshot if process.store is not None else None,
            partial(key_rows, self.fleet, process.spending, settings.provider),
        )

    def isolate(self) -> None:
        """Isolate the providers that the settings name, and no others. Needs a running loop."""
        isolated = [provider.name for provider in self.settings.provider if provider.isolated]
        self.fleet.isolate(isolated, clock.now())

    def states(self) -> list[TargetSnapshot]:
        """Return the state of each target at this moment."""
        return self.fleet.snapshots(clock.now())


def _fleet(
    settings: Settings,
    loaded: LoadedSettings,
    origins: dict[Target, str],
    process: ProcessScope,
    previous: Runtime | None,
) -> Fleet:
    options = GuardOptions(
        settings.breaker,
        settings.budget,
        settings.limiter,
        settings.health,
        callers_told_apart=len(loaded.caller_keys) > 1,
    )
    before = previous.fleet if previous else None
    return Fleet(origins, loaded.provider_keys, options, process.rng("breaker"), process.events, before)


def _key_watch(
    settings: Settings, upstreams: dict[Target, Upstream], fleet: Fleet, process: ProcessScope
) -> KeyWatch:
    lists = {
        target.provider: ModelList(upstream.dialect, upstream.base_url)
        for target, upstream in upstreams.items()
    }
    return KeyWatch(process.wire, lists, fleet.key_states, settings.keys, process.events, process.rng("keys"))


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
        for target in map(_parse_target, names)
        for provider in [providers[target.provider]]
        for dialect in [dialect_of(provider, event_bytes_max)]
    }


def _capabilities(upstreams: dict[Target, Upstream]) -> dict[str, Capabilities]:
    return {
        target.name: Capabilities(upstream.missing_features.keys(), upstream.context_tokens)
        for target, upstream in upstreams.items()
    }


def _with_personalities(loaded: LoadedSettings) -> tuple[tuple[RouteSettings, ...], dict[str, Personality]]:
    """Return the routes, one more for each personality of a route, and the personalities by model name."""
    routes: list[RouteSettings] = []
    personalities: dict[str, Personality] = {}
    for route in loaded.settings.route:
        routes.append(route)
        for name in route.personalities:
            model = model_name(route.name, name)
            cache = msgspec.structs.replace(route.cache, warm_from=None)  # those answers have no personality
            routes.append(msgspec.structs.replace(route, name=model, personalities=(), cache=cache))
            personalities[model] = loaded.personalities[name]
    return tuple(routes), personalities


def _routes(
    settings: Settings, upstreams: dict[Target, Upstream], personalities: dict[str, Personality]
) -> dict[str, Route]:
    providers = {provider.name: provider for provider in settings.provider}
    groundings = _groundings(personalities)
    return {
        route.name: _route(
            route, providers, upstreams, personalities.get(route.name), groundings.get(route.name)
        )
        for route in settings.route
    }


def _groundings(personalities: dict[str, Personality]) -> "dict[str, Grounding]":
    """Return the documents that answers are checked against, by model name; each text is read once."""
    read: dict[str, Grounding] = {}
    found: dict[str, Grounding] = {}
    for model, personality in personalities.items():
        if (text := personality.document) is not None:
            if text not in read:
                read[text] = finish(load_part("grounding").of(text))
            found[model] = read[text]
    return found


def _route(
    settings: RouteSettings,
    providers: dict[str, ProviderSettings],
    upstreams: dict[Target, Upstream],
    personality: Personality | None,
    grounding: "Grounding | None",
) -> Route:
    targets = tuple(_parse_target(name) for name in settings.targets)
    providers_behind = [(target.name, _fingerprinted(providers[target.provider])) for target in targets]
    changing_answers = [providers_behind, settings.reject_patterns]
    if personality is not None:
        changing_answers.append(personality.text)
        changing_answers += [] if personality.document is None else [personality.document]
    fingerprint = hashlib.sha256(msgspec.json.encode(changing_answers, order="sorted")).hexdigest()
    return Route(
        settings,
        targets,
        RejectPatterns(settings.reject_patterns),
        fingerprint,
        Fallbacks(settings.degraded),
        all(Feature.JSON_OBJECT in upstreams[target].missing_features for target in targets),
        build_intake(settings.sanitize, personality),
        grounding,
    )


def _fingerprinted(provider: ProviderSettings) -> ProviderSettings:
    """Return the provider's settings without those that cannot change its answers."""
    return msgspec.structs.replace(
        provider, key_env=(), isolated=False, prices={}, context_tokens={}, spend_max_usd_per_day=None
    )


def _callers(loaded: LoadedSettings) -> Callers:
    settings = loaded.settings
    variables, priorities = settings.server.caller_keys_env, settings.admission.priorities
    return Callers(loaded.caller_keys, variables, priorities, settings.limits.premium)


def _gate(settings: Settings, process: ProcessScope, previous: Runtime | None) -> RateLimitGate | None:
    return open_gate(
        settings.limits,
        sessions=settings.session is not None,
        events=process.events,
        shared=process.shared_log,
        previous=previous.deps.gate if previous else None,
    )


def _turns(
    settings: Settings,
    process: ProcessScope,
    upstreams: dict[Target, Upstream],
    routes: dict[str, Route],
    personalities: dict[str, Personality],
    documents: Documents | None,
    previous: Runtime | None,
) -> Turns | None:
    """Return the turns of conversations. None: they are not kept."""
    options, store = settings.conversation, process.store
    if options is None or store is None:
        return None
    windows = {}
    for route in settings.route:
        each = [upstreams[_parse_target(name)].context_tokens for name in route.targets]
        tokens = min([one for one in each if one is not None], default=options.context_tokens)
        personality = personalities.get(route.name)
        fixed_tokens = 0 if personality is None else estimate_tokens([personality.text])
        grounding = routes[route.name].grounding
        document_tokens = 0 if grounding is None else grounding.document.tokens
        windows[route.name] = Window(tokens, fixed_tokens, document_tokens)
    before = previous.deps.turns if previous else None
    known = before.conversations if before else None
    ids = known.ids if known else Ids(process.rng("conversations"))
    conversations = Conversations(store, options, ids, windows, known)
    asked = AskedDocuments(documents, before.documents if before else None)
    return Turns(conversations, process.events, process.live_turns, asked)


def _documents(settings: Settings, process: ProcessScope, previous: Runtime | None) -> Documents | None:
    """Return the documents. None: there are none."""
    options, conversation, store = settings.documents, settings.conversation, process.store
    if options is None or conversation is None or store is None:
        return None
    before = previous.deps.documents if previous else None
    if before is None or before.readers.count != options.readers:
        readers = Readers(process.read_file, options.readers)
    else:
        readers = before.readers
    ids = before.ids if before else Ids(process.rng("documents"))
    return Documents(store, options, ids, readers, process.events, scans=conversation.injection != "off")


def _decks(process: ProcessScope, documents: Documents | None, previous: Runtime | None) -> Decks | None:
    """Return the decks. None: there are no documents to make them from."""
    if documents is None or process.store is None or process.jobs is None:
        return None
    before = previous.deps.decks if previous else None
    return Decks(process.store, documents, process.jobs, process.rng("deck ids"), before)


def _sessions(loaded: LoadedSettings, process: ProcessScope) -> BrowserSessions | None:
    options = loaded.settings.session
    if options is None:
        return None
    secrets = loaded.session_secrets or (process.session_secret,)
    tokens = Sessions(secrets, options, process.rng("sessions"))
    return BrowserSessions(tokens, loaded.settings.server, process.events)


def _parse_target(name: str) -> Target:
    provider, _, model = name.partition("/")
    return Target(provider, model)
