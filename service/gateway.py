"""The recipe: how one request finds its answer."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from service import clock
from service.answers.cache import AnswerCache, Stored
from service.answers.key import Key
from service.answers.replay import Recorded, Replayed, as_chunks, is_plain_text
from service.attempt.notice import Notices
from service.attempt.run import Runner
from service.attempt.tries import Task, Whole
from service.chat import ChatRequest, Chunks, Reply, Target
from service.errors import InvalidRequest, ModelNotFound
from service.options import CacheOptions
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


@dataclass(frozen=True, slots=True)
class Route:
    """A model name and what stands behind it. `mark` is another where another answer may be given."""

    settings: RouteSettings
    targets: tuple[Target, ...]
    notices: Notices
    mark: str


class Gateway:
    """Answers chat requests, and requests for embeddings."""

    def __init__(
        self, routes: Mapping[str, Route], cache: AnswerCache, queue: Queue, runner: Runner, dice: Random
    ) -> None:
        self.routes = routes
        self.cache = cache
        self.queue = queue
        self.runner = runner
        self._dice = dice

    def route(self, model: str) -> Route:
        """The route of this name. Raises ModelNotFound."""
        route = self.routes.get(model)
        if route is None:
            raise ModelNotFound(f"There is no model {model[:100]!r} here.", param="model")
        return route

    async def answer(self, task: Task, route: Route) -> Answer:
        """One request in; one answer out, or one GatewayError."""
        request, options = task.request, route.settings.cache
        assert isinstance(request, ChatRequest), "vectors come from `embed`"
        key = self.cache.key(request, options, route.mark)
        if key is not None:
            known = await self.cache.look(key, task.route, options)
            if known is not None and known.fresh:
                return _replayed(known.stored, request)

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


def _replayed(stored: Stored, request: ChatRequest) -> Answer:
    if not request.stream:
        return Answer(stored.target, reply=Reply(stored.body), cached=True)
    chunks = as_chunks(stored.body, with_usage=request.wants_usage)
    return Answer(stored.target, stream=Replayed(chunks), cached=True)
