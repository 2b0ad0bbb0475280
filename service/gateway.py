"""The recipe: how one request gets its answer. Call `Gateway.answer(context, route)`, or `embed`.

answer    in the cache?          serve it: fresh, or stale and refreshed in the background
          an equal call open?    join it: one provider call for all equal requests (single flight)
          else                   wait for a slot, then ask the providers, and store their answer
          all failed             a fallback answer, where the route wants one
"""

import asyncio
from collections.abc import Coroutine, Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from dub5.service import clock
from dub5.service.admission.intake import Intake
from dub5.service.admission.queue import Queue
from dub5.service.cache.cache import AnswerCache, CacheHit, Stored
from dub5.service.cache.key import CacheKey
from dub5.service.cache.replay import RecordingStream, ReplayedStream, as_chunks, is_plain_text
from dub5.service.cache.storage import stamp_of
from dub5.service.config.options import CacheOptions
from dub5.service.config.settings import RouteSettings
from dub5.service.errors import GatewayError, InvalidRequest, ModelNotFound
from dub5.service.events import Shared
from dub5.service.failover.attempt import ProviderAnswer
from dub5.service.failover.context import BufferedAnswer, RequestContext
from dub5.service.failover.loop import Failover
from dub5.service.failover.order import order
from dub5.service.failover.rejected_content import RejectPatterns
from dub5.service.fallback.fallback import FALLBACK_ERRORS, MODEL, Fallbacks, StaleAnswer
from dub5.service.model import AnyRequest, ChatRequest, Chunks, Reply, Target
from dub5.service.providers.features import Feature, required_features
from dub5.service.single_flight import CallSubscriber, SharedCalls
from dub5.service.timeouts import NEVER, TimedOut, Timeouts

if TYPE_CHECKING:  # loaded by name, where a document is asked about
    from dub5.service.grounding.grounding import Grounding


class FromCache(StrEnum):
    """The result of the cache lookup for an answer."""

    HIT = "hit"
    STALE = "stale"  # served at once, and refreshed in the background
    MISS = "miss"


class Answer(Struct, frozen=True):
    """An answer: a JSON reply or a stream. `cache` is None for requests that the cache does not take."""

    target: str
    reply: Reply | None = None
    stream: Chunks | None = None
    cache: FromCache | None = None
    dropped: tuple[str, ...] = ()  # of a stream, whose own attempt is not in the trail yet
    began_s: float = 0.0  # the start of that attempt, since the start of the request
    degraded: str | None = None  # the source of a fallback answer
    shared: bool = False  # with an equal request that came before

    @property
    def cached(self) -> bool:
        """Whether the answer came from the cache."""
        return self.cache is not None and self.cache is not FromCache.MISS


@dataclass(frozen=True, slots=True)
class Route:
    """A model name and its targets. `fingerprint`: another one where settings may change the answers."""

    settings: RouteSettings
    targets: tuple[Target, ...]
    reject_patterns: RejectPatterns
    fingerprint: str
    fallbacks: Fallbacks
    json_by_prompt: bool = False  # no target has a mode for JSON without a schema
    intake: Intake | None = None  # what is done to requests first; None: nothing
    grounding: "Grounding | None" = None  # the document that answers are checked against; None: there is none


class Gateway:
    """Answers chat and embeddings requests."""

    def __init__(
        self, routes: Mapping[str, Route], cache: AnswerCache, queue: Queue, failover: Failover, rng: Random
    ) -> None:
        self.routes = routes
        self.has_fallbacks = any(route.settings.degraded.enabled for route in routes.values())
        self.cache = cache
        self.queue = queue
        self.failover = failover
        self._shared_calls: SharedCalls[Answer] = SharedCalls(
            failover.dependencies.events, failover.dependencies.answer_bytes_max
        )
        self._rng = rng
        self._background: dict[asyncio.Task[None], None] = {}

    def route(self, model: str) -> Route:
        """Return the route of this name. Raises ModelNotFound."""
        route = self.routes.get(model)
        if route is None:
            raise ModelNotFound(f"There is no model {model[:100]!r} here.", param="model")
        return route

    def new_context(
        self,
        request: AnyRequest,
        route: Route,
        timeouts: Timeouts,
        started_s: float,
        *,
        deliver_whole: bool = False,
    ) -> RequestContext:
        """Return the context of a request to this route."""
        settings = route.settings
        has_fallback: bool | None = False
        if isinstance(request, ChatRequest):
            if route.json_by_prompt and Feature.JSON_OBJECT in required_features(request):
                request = replace(request, json_by_prompt=True)
            has_fallback = route.fallbacks.allowed_for(request) or None
        return RequestContext(
            request,
            settings.name,
            settings.timeouts,
            route.reject_patterns,
            timeouts,
            started_s,
            deliver_whole,
            has_fallback,
        )

    async def answer(self, context: RequestContext, route: Route) -> Answer:
        """Return one answer to one request: a provider's, the cache's, or a fallback. Raises GatewayError."""
        request, deadline_s = context.request, context.timeouts.deadline_s
        assert isinstance(request, ChatRequest), "embeddings requests go to `embed`"
        key = self.cache.key(request, route.settings.cache, route.fingerprint)
        fallback_allowed = context.has_fallback
        if fallback_allowed:  # a shorter deadline, if its settings have one
            context.timeouts.deadline_s = route.fallbacks.until_s(context.started_s, deadline_s)
        try:
            if key is None:
                return _to_answer(await self._run(context, route, route.targets))
            return await self._from_cache(context, route, key) or await self._ask_shared(context, route, key)
        except FALLBACK_ERRORS as error:
            if not fallback_allowed:
                raise
            return await self._fallback_answer(error, request, route, key)
        finally:
            context.timeouts.deadline_s = deadline_s

    async def answer_without_providers(
        self, error: GatewayError, context: RequestContext, route: Route
    ) -> Answer:
        """Answer from the cache or with a fallback when this process is at capacity, or raise `error`."""
        request = context.request
        assert isinstance(request, ChatRequest), "there is no fallback for embeddings"
        if not route.fallbacks.allowed_for(request):
            raise error
        key = self.cache.key(request, route.settings.cache, route.fingerprint)
        hit = None if key is None else await self.cache.lookup(key, context.route, route.settings.cache)
        if hit is not None:
            return _replay(hit, request)
        return await self._fallback_answer(error, request, route, key)

    async def _from_cache(self, context: RequestContext, route: Route, key: CacheKey) -> Answer | None:
        """Return the stored answer, if there is one. A stale one is refreshed in the background."""
        hit = await self.cache.lookup(key, context.route, route.settings.cache)
        if hit is None:
            return None
        if not hit.fresh:
            self._in_background(self._refresh(context, route, key), f"refresh {context.request.id}")
        return _replay(hit, context.request)

    async def _ask_shared(self, context: RequestContext, route: Route, key: CacheKey) -> Answer:
        """Return a provider's answer, from one call for all equal requests in flight."""
        if not route.settings.cache.share:
            return await self._ask_providers(context, route, key)
        subscriber = await self._shared_calls.join(
            _share_key(key, route), context, lambda own: self._ask_providers(own, route, key)
        )
        return _from_subscriber(subscriber)

    async def _ask_providers(self, context: RequestContext, route: Route, key: CacheKey) -> Answer:
        """Return a provider's answer, and store it in the cache if it may be stored."""
        options = route.settings.cache
        hit = await self._wait_for_claim(context, key, options)
        if hit is not None:  # another process has got the answer meanwhile
            return _replay(hit, context.request)
        try:
            answer = await self._run(context, route, route.targets)
        except BaseException:
            await self.cache.release(key)
            raise
        name = answer.target.name
        if not isinstance(answer, BufferedAnswer):
            recorded = RecordingStream(
                answer,
                lambda body: self.cache.keep(key, Stored(body, name), options),
                lambda: self.cache.release(key),
            )
            return replace(_to_answer(answer), stream=recorded, cache=FromCache.MISS)
        if is_plain_text(answer.reply.body):
            await self.cache.keep(key, Stored(answer.reply.body, name), options)
        else:
            await self.cache.release(key)
        return replace(_to_answer(answer), cache=FromCache.MISS)

    async def _wait_for_claim(
        self, context: RequestContext, key: CacheKey, options: CacheOptions
    ) -> CacheHit | None:
        """Wait for the answer of another process, until the deadline: failover says that it has passed."""
        try:
            wait = self.cache.wait_for_claim(key, context.route, options)
            return await context.timeouts.run("cache", NEVER, wait)
        except TimedOut:
            return None

    async def _run(self, context: RequestContext, route: Route, targets: Sequence[Target]) -> ProviderAnswer:
        fleet, now_s = self.failover.fleet, clock.now()
        if not self.queue.may_pass(fleet, targets, now_s):
            await self.queue.wait(context, fleet, targets)
            now_s = clock.now()
        if len(targets) > 1:
            caller = context.request.caller
            scores = {target: fleet.score(target, now_s, caller) for target in targets}
            targets = order(targets, route.settings.policy, scores, self._rng)
        return await self.failover.run(context, targets, now_s)

    async def _refresh(self, before: RequestContext, route: Route, key: CacheKey) -> None:
        """Refresh a stale answer, unless another request does. Equal requests may join the call."""
        if not await self.cache.claim_refresh(key):
            return
        now_s = clock.now()
        timeouts = Timeouts(now_s + before.timeout_options.total_s)
        context = self.new_context(before.request, route, timeouts, now_s)
        self.failover.dependencies.events.emit(Shared(context.request.id, context.route, "renewed"))
        try:
            answer = await self._ask_shared(context, route, key)
            if answer.stream is not None:
                await _drain(answer.stream)
        except GatewayError:
            pass  # the stale answer is served until its time is over
        finally:
            await self.cache.release(key)
            timeouts.close()

    async def _fallback_answer(
        self, error: GatewayError, request: ChatRequest, route: Route, key: CacheKey | None
    ) -> Answer:
        """Return the fallback answer for this error: a stale answer, or a text."""
        stale = None
        if key is not None:
            hit = await self.cache.stale_if_error(key, route.settings.name, route.settings.cache)
            stale = None if hit is None else StaleAnswer(hit.stored.body, hit.age_s)
        fallback = route.fallbacks.fallback_for(error, request, stale)
        source = fallback.label.source
        if not request.stream:
            return Answer(MODEL, reply=Reply(fallback.body), degraded=source)
        return Answer(
            MODEL, stream=ReplayedStream(fallback.chunks(with_usage=request.wants_usage)), degraded=source
        )

    async def embed(self, context: RequestContext, route: Route) -> Answer:
        """Return embeddings of one model only: vectors of two models cannot be compared. Raises GatewayError.

        The model is that of the first target that supports embeddings.
        """
        upstreams = self.failover.dependencies.upstreams
        embedders = [target for target in route.targets if upstreams[target].dialect.embeds]
        if not embedders:
            raise InvalidRequest(f"Model {route.settings.name!r} does not support embeddings.", param="model")
        same_model = [target for target in embedders if target.model == embedders[0].model]
        answer = await self._run(context, route, same_model)
        assert isinstance(answer, BufferedAnswer), "embeddings are not streamed"
        return Answer(answer.target.name, reply=answer.reply)

    def _in_background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._background[task] = None
        task.add_done_callback(self._background.pop)

    async def aclose(self) -> None:
        """Cancel the refreshes in the background."""
        background = list(self._background)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)


async def _drain(stream: Chunks) -> None:
    try:
        while await stream.read():
            pass
    finally:
        await stream.aclose()


def _to_answer(answer: ProviderAnswer) -> Answer:
    name = answer.target.name
    if isinstance(answer, BufferedAnswer):
        return Answer(name, reply=answer.reply)
    return Answer(name, stream=answer, dropped=answer.dropped, began_s=answer.started_s)


def _share_key(key: CacheKey, route: Route) -> Hashable:
    """Return equal keys for equal requests that may share a call: no answer was invalidated in between."""
    generations = key.generations or {}
    return key, *(
        stamp_of(generations, key.digest, key.route, key.caller, target.name) for target in route.targets
    )


def _from_subscriber(subscriber: CallSubscriber[Answer]) -> Answer:
    stream = None if subscriber.answer.stream is None else subscriber
    return replace(subscriber.answer, stream=stream, began_s=subscriber.began_s, shared=subscriber.joined)


def _replay(hit: CacheHit, request: AnyRequest) -> Answer:
    stored, cache = hit.stored, FromCache.HIT if hit.fresh else FromCache.STALE
    assert isinstance(request, ChatRequest), "embeddings are not stored"
    if not request.stream:
        return Answer(stored.target, reply=Reply(stored.body), cache=cache)
    chunks = as_chunks(stored.body, with_usage=request.wants_usage)
    return Answer(stored.target, stream=ReplayedStream(chunks), cache=cache)
