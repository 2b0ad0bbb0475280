"""The recipe: how one request finds its answer.

answer    known before?            the cache: fresh, or stale and asked for anew behind it
          asked at this moment?    one call for all who ask the same
          else                     wait for a place, then ask the providers, and keep what they say
          nobody could             a labelled substitute, where the route wants one
"""

import asyncio
from collections.abc import Coroutine, Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from dub5.service import clock
from dub5.service.admission.queue import Queue
from dub5.service.cache.cache import AnswerCache, Looked, Stored
from dub5.service.cache.key import Key
from dub5.service.cache.replay import Recorded, Replayed, as_chunks, is_plain_text
from dub5.service.cache.storage import stamp_of
from dub5.service.config.settings import RouteSettings
from dub5.service.errors import GatewayError, InvalidRequest, ModelNotFound
from dub5.service.events import Shared
from dub5.service.failover.attempt import Found
from dub5.service.failover.context import Task, Whole
from dub5.service.failover.loop import Runner
from dub5.service.failover.order import order
from dub5.service.failover.rejected_content import Notices
from dub5.service.fallback.fallback import MODEL, NOBODY_COULD, Stale, Substitutes
from dub5.service.model import Asked, ChatRequest, Chunks, Reply, Target
from dub5.service.single_flight import Flights, Seat
from dub5.service.timeouts import Watch


class FromCache(StrEnum):
    """What the cache knew of a question."""

    HIT = "hit"
    STALE = "stale"  # given at once, and asked for anew
    MISS = "miss"


class Answer(Struct, frozen=True):
    """An answer: whole, or as a stream. `cache` is None where the cache had no say."""

    target: str
    reply: Reply | None = None
    stream: Chunks | None = None
    cache: FromCache | None = None
    dropped: tuple[str, ...] = ()  # of a stream, whose own try is not in the trail yet
    began_s: float = 0.0  # of that try, from the start of the request
    degraded: str | None = None  # where a substitute comes from
    shared: bool = False  # with an equal request that came before

    @property
    def cached(self) -> bool:
        """Whether no provider was asked for it."""
        return self.cache in (FromCache.HIT, FromCache.STALE)


@dataclass(frozen=True, slots=True)
class Route:
    """A model name and what stands behind it. `mark` is another where another answer may be given."""

    settings: RouteSettings
    targets: tuple[Target, ...]
    notices: Notices
    mark: str
    substitutes: Substitutes


class Gateway:
    """Answers chat requests, and requests for embeddings."""

    def __init__(
        self, routes: Mapping[str, Route], cache: AnswerCache, queue: Queue, runner: Runner, dice: Random
    ) -> None:
        self.routes = routes
        self.stands_in = any(route.settings.degraded.enabled for route in routes.values())
        self.cache = cache
        self.queue = queue
        self.runner = runner
        self._flights: Flights[Answer] = Flights(runner.means.events, runner.means.answer_bytes_max)
        self._dice = dice
        self._working: dict[asyncio.Task[None], None] = {}

    def route(self, model: str) -> Route:
        """The route of this name. Raises ModelNotFound."""
        route = self.routes.get(model)
        if route is None:
            raise ModelNotFound(f"There is no model {model[:100]!r} here.", param="model")
        return route

    async def answer(self, task: Task, route: Route) -> Answer:
        """One request in; one answer out, or a substitute that is labelled where the route wants one, or one
        GatewayError."""
        request, deadline_s = task.request, task.watch.deadline_s
        assert isinstance(request, ChatRequest), "vectors come from `embed`"
        key = self.cache.key(request, route.settings.cache, route.mark)
        stands_in = self._stands_in(task, request, route)
        try:
            if key is None:
                return _given(await self._run(task, route))
            return await self._known(task, route, key) or await self._asked_once(task, route, key)
        except NOBODY_COULD as error:
            if not stands_in:
                raise
            return await self._instead(error, request, route, key)
        finally:
            task.watch.deadline_s = deadline_s

    async def answer_unasked(self, error: GatewayError, task: Task, route: Route) -> Answer:
        """There is no room to ask anybody: an answer from the cache, or a substitute, where the route wants one. Else
        raises `error`."""
        request = task.request
        assert isinstance(request, ChatRequest), "nothing stands in for vectors"
        if not route.substitutes.may_stand_in(request):
            raise error
        key = self.cache.key(request, route.settings.cache, route.mark)
        looked = None if key is None else await self.cache.look(key, task.route, route.settings.cache)
        if looked is not None:
            return _replayed(looked, request)
        return await self._instead(error, request, route, key)

    def _stands_in(self, task: Task, request: ChatRequest, route: Route) -> bool:
        """Whether the route has a substitute for this request; then providers have only so long."""
        upstreams, substitutes = self.runner.means.upstreams, route.substitutes
        stands_in = substitutes.may_stand_in(request)
        task.stand_in = stands_in or not all(upstreams[target].carries(request) for target in route.targets)
        if stands_in:
            task.watch.deadline_s = substitutes.until_s(task.started_s, task.watch.deadline_s)
        return stands_in

    async def _known(self, task: Task, route: Route, key: Key) -> Answer | None:
        """What was answered before. A stale answer is given at once, and asked for anew."""
        looked = await self.cache.look(key, task.route, route.settings.cache)
        if looked is None:
            return None
        if not looked.fresh:
            self._in_background(self._refresh(task, route, key), f"refresh {task.request.id}")
        return _replayed(looked, task.request)

    async def _asked_once(self, task: Task, route: Route, key: Key) -> Answer:
        """A provider's answer, from one call for all who ask the same at one time."""
        if not route.settings.cache.share:
            return await self._asked(task, route, key)
        seat = await self._flights.join(_since(key, route), task, lambda own: self._asked(own, route, key))
        return _seated(seat)

    async def _asked(self, task: Task, route: Route, key: Key) -> Answer:
        """A provider's answer, which is kept where it may be."""
        options = route.settings.cache
        known = await self.cache.turn(key, task.route, options)
        if known is not None:  # another process has asked meanwhile
            return _replayed(known, task.request)
        try:
            found = await self._run(task, route)
        except BaseException:
            await self.cache.release(key)
            raise
        name = found.target.name
        if not isinstance(found, Whole):
            recorded = Recorded(
                found,
                lambda body: self.cache.keep(key, Stored(body, name), options),
                lambda: self.cache.release(key),
            )
            return replace(_given(found), stream=recorded, cache=FromCache.MISS)
        if is_plain_text(found.reply.body):
            await self.cache.keep(key, Stored(found.reply.body, name), options)
        else:
            await self.cache.release(key)
        return replace(_given(found), cache=FromCache.MISS)

    async def _run(self, task: Task, route: Route) -> Found:
        await self.queue.turn(task, self.runner.fleet, route.targets)
        return await self.runner.run(task, self._order(route, route.targets))

    async def _refresh(self, before: Task, route: Route, key: Key) -> None:
        """Asks anew for what a stale answer was given to, unless somebody else is at it. Others may join the call."""
        if not await self.cache.renew(key):
            return
        now_s = clock.now()
        watch = Watch(now_s + before.clocks.total_s)
        task = Task(before.request, before.route, before.clocks, before.notices, watch, now_s)
        task.stand_in = before.stand_in  # or those who join would wait where nobody else does
        self.runner.means.events.emit(Shared(task.request.id, task.route, "renewed"))
        try:
            answer = await self._asked_once(task, route, key)
            if answer.stream is not None:
                await _drained(answer.stream)
        except GatewayError:
            pass  # the old one is given for as long as it may be
        finally:
            await self.cache.release(key)
            watch.close()

    async def _instead(
        self, error: GatewayError, request: ChatRequest, route: Route, key: Key | None
    ) -> Answer:
        """Nobody could: a stale answer, or words of ours."""
        stale = None
        if key is not None:
            known = await self.cache.fallback(key, route.settings.name, route.settings.cache)
            stale = None if known is None else Stale(known.stored.body, known.age_s)
        found = route.substitutes.instead(error, request, stale)
        source = found.label.source
        if not request.stream:
            return Answer(MODEL, reply=Reply(found.body), degraded=source)
        return Answer(MODEL, stream=Replayed(found.chunks(with_usage=request.wants_usage)), degraded=source)

    async def embed(self, task: Task, route: Route) -> Answer:
        """Vectors, of one model only: those of two cannot be compared. The first target that embeds says which."""
        upstreams = self.runner.means.upstreams
        able = [target for target in route.targets if upstreams[target].dialect.embeds]
        if not able:
            raise InvalidRequest(f"No target behind {route.settings.name!r} makes embeddings.", param="model")
        same = [target for target in able if target.model == able[0].model]
        await self.queue.turn(task, self.runner.fleet, same)
        found = await self.runner.run(task, self._order(route, same))
        assert isinstance(found, Whole), "vectors are not streamed"
        return Answer(found.target.name, reply=found.reply)

    def _order(self, route: Route, targets: Sequence[Target]) -> list[Target]:
        fleet, now_s = self.runner.fleet, clock.now()
        return order(targets, route.settings.policy, lambda target: fleet.standing(target, now_s), self._dice)

    def _in_background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._working[task] = None
        task.add_done_callback(self._working.pop)

    async def aclose(self) -> None:
        """Ends what goes on behind the requests."""
        working = list(self._working)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)


async def _drained(stream: Chunks) -> None:
    try:
        while await stream.read():
            pass
    finally:
        await stream.aclose()


def _given(found: Found) -> Answer:
    name = found.target.name
    if isinstance(found, Whole):
        return Answer(name, reply=found.reply)
    return Answer(name, stream=found, dropped=found.dropped, began_s=found.started_s)


def _since(key: Key, route: Route) -> Hashable:
    """Equal for requests that may share a call: the same question, and nothing was invalidated in between."""
    known = key.generations or {}
    return key, *(stamp_of(known, key.place, key.route, key.caller, target.name) for target in route.targets)


def _seated(seat: Seat[Answer]) -> Answer:
    stream = None if seat.answer.stream is None else seat
    return replace(seat.answer, stream=stream, began_s=seat.began_s, shared=seat.joined)


def _replayed(looked: Looked, request: Asked) -> Answer:
    stored, cache = looked.stored, FromCache.HIT if looked.fresh else FromCache.STALE
    assert isinstance(request, ChatRequest), "vectors are not kept"
    if not request.stream:
        return Answer(stored.target, reply=Reply(stored.body), cache=cache)
    chunks = as_chunks(stored.body, with_usage=request.wants_usage)
    return Answer(stored.target, stream=Replayed(chunks), cache=cache)
