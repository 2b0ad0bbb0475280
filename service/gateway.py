"""The recipe: how one request finds its answer."""

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from service import clock
from service.answers.cache import AnswerCache, Stored
from service.answers.degraded import MODEL, NOBODY_COULD, Stale, Substitutes
from service.answers.key import Key
from service.answers.replay import Recorded, Replayed, as_chunks, is_plain_text
from service.answers.single_flight import Flights, Seat
from service.answers.storage import stamp_of
from service.attempt.notice import Notices
from service.attempt.run import Runner
from service.attempt.tries import Task, Whole
from service.chat import ChatRequest, Chunks, Reply, Target
from service.errors import GatewayError, InvalidRequest, ModelNotFound
from service.options import CacheOptions, DegradedOptions
from service.policy.queue import Queue
from service.routing.router import order
from service.settings import RouteSettings


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: whole, or as a stream. `cached` is None where the cache had no say."""

    target: str
    reply: Reply | None = None
    stream: Chunks | None = None
    cached: bool | None = None
    dropped: tuple[str, ...] = ()  # of a stream, whose own try is not in the trail yet
    began_s: float = 0.0  # of that try, from the start of the request
    degraded: str | None = None  # where a substitute comes from
    shared: bool = False  # with an equal request that came before


@dataclass(frozen=True, slots=True)
class Route:
    """A model name and what stands behind it. `mark` is another where another answer may be given."""

    settings: RouteSettings
    targets: tuple[Target, ...]
    notices: Notices
    mark: str
    substitutes: Substitutes = Substitutes(DegradedOptions())


class Gateway:
    """Answers chat requests, and requests for embeddings."""

    def __init__(
        self, routes: Mapping[str, Route], cache: AnswerCache, queue: Queue, runner: Runner, dice: Random
    ) -> None:
        self.routes = routes
        self.cache = cache
        self.queue = queue
        self.runner = runner
        self._flights: Flights[Answer] = Flights(runner.means.events, runner.means.answer_bytes_max)
        self._dice = dice

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
        upstreams, substitutes = self.runner.means.upstreams, route.substitutes
        stands_in = substitutes.may_stand_in(request)
        task.stand_in = stands_in or not all(upstreams[target].carries(request) for target in route.targets)
        if stands_in:
            task.watch.deadline_s = substitutes.until_s(task.started_s, deadline_s)
        try:
            return await self._found(task, route)
        except NOBODY_COULD as error:
            if not stands_in:
                raise
            return await self._instead(error, request, route)
        finally:
            task.watch.deadline_s = deadline_s

    async def _instead(self, error: GatewayError, request: ChatRequest, route: Route) -> Answer:
        """Nobody could: a stale answer, or words of ours."""
        options, stale = route.settings.cache, None
        if route.substitutes.wants_stale(request):
            key = self.cache.key(request, options, route.mark)
            known = None if key is None else await self.cache.fallback(key, route.settings.name, options)
            stale = None if known is None else Stale(known.stored.body, known.age_s)
        found = route.substitutes.instead(error, request, stale)
        source = found.label.source
        if not request.stream:
            return Answer(MODEL, reply=Reply(found.body), degraded=source)
        return Answer(MODEL, stream=Replayed(found.chunks(with_usage=request.wants_usage)), degraded=source)

    async def _found(self, task: Task, route: Route) -> Answer:
        request, options = task.request, route.settings.cache
        assert isinstance(request, ChatRequest), "vectors come from `embed`"
        key = self.cache.key(request, options, route.mark)
        if key is not None:
            known = await self.cache.look(key, task.route, options)
            if known is not None and known.fresh:
                return _replayed(known.stored, request)
        if key is None or not options.share:
            return await self._asked(task, route, key)
        asked = lambda own: self._asked(own, route, key)
        return _seated(await self._flights.join(_since(key, route), task, asked))

    async def _asked(self, task: Task, route: Route, key: Key | None) -> Answer:
        """A provider's answer, which is kept."""
        options = route.settings.cache
        async with self.queue.turn(task, self.runner.fleet, route.targets):
            found = await self.runner.run(task, self._order(route, route.targets))

        name, cached = found.target.name, None if key is None else False
        if not isinstance(found, Whole):
            if key is None:
                return Answer(name, stream=found, dropped=found.dropped, began_s=found.started_s)
            recorded = Recorded(found, self._keep(key, name, options))
            return Answer(
                name, stream=recorded, cached=cached, dropped=found.dropped, began_s=found.started_s
            )
        if key is not None and is_plain_text(found.reply.body):
            await self.cache.keep(key, Stored(found.reply.body, name), options)
        return Answer(name, reply=found.reply, cached=cached)

    async def embed(self, task: Task, route: Route) -> Answer:
        """Vectors, of one model only: those of two cannot be compared. The first target that embeds says which."""
        upstreams = self.runner.means.upstreams
        able = [target for target in route.targets if upstreams[target].dialect.embeds]
        if not able:
            raise InvalidRequest(f"No target behind {route.settings.name!r} makes embeddings.", param="model")
        same = [target for target in able if target.model == able[0].model]
        async with self.queue.turn(task, self.runner.fleet, same):
            found = await self.runner.run(task, self._order(route, same))
        assert isinstance(found, Whole), "vectors are not streamed"
        return Answer(found.target.name, reply=found.reply)

    def _order(self, route: Route, targets: Sequence[Target]) -> list[Target]:
        fleet, now_s = self.runner.fleet, clock.now()
        return order(targets, route.settings.policy, lambda target: fleet.standing(target, now_s), self._dice)

    def _keep(self, key: Key, target: str, options: CacheOptions) -> Callable[[bytes], Awaitable[None]]:
        return lambda body: self.cache.keep(key, Stored(body, target), options)


def _since(key: Key, route: Route) -> Hashable:
    """Equal for requests that may share a call: the same question, and nothing was invalidated in between."""
    known = key.generations or {}
    return key, *(stamp_of(known, key.place, key.route, key.caller, target.name) for target in route.targets)


def _seated(seat: Seat[Answer]) -> Answer:
    stream = None if seat.answer.stream is None else seat
    return replace(seat.answer, stream=stream, began_s=seat.began_s, shared=seat.joined)


def _replayed(stored: Stored, request: ChatRequest) -> Answer:
    if not request.stream:
        return Answer(stored.target, reply=Reply(stored.body), cached=True)
    chunks = as_chunks(stored.body, with_usage=request.wants_usage)
    return Answer(stored.target, stream=Replayed(chunks), cached=True)
