"""The HTTP routes of the service: every path in one place."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response, post, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery
from litestar.types import ASGIApp

from dub5.service.api.chat import ApiDependencies, Exchange
from dub5.service.api.embeddings import EmbeddingExchange
from dub5.service.api.errors import no_such_path
from dub5.service.api.ops import Ops
from dub5.service.api.page import PageFile
from dub5.service.errors import ModelNotFound, NotFound
from dub5.service.ids import is_id
from dub5.service.telemetry.metrics import CONTENT_TYPE, Metrics

T = TypeVar("T")
Current = Callable[[], T]  # returns the current object; a reload of the settings replaces it
HttpRequest = Request[Any, Any, Any]
JSON = "application/json"
NO_STORE = {"cache-control": "no-store"}
get_or_head = partial(route, http_method=["GET", "HEAD"])  # servers leave out the body for HEAD


def part_of(part: T | None, request: HttpRequest, id_: str | None, missing: Callable[[], NotFound]) -> T:
    """Return a part of the service. Raises NotFound where there is none, `missing()` for what is no id."""
    if part is None:
        raise no_such_path(request.scope["path"])
    if id_ is not None and not is_id(id_):
        raise missing()
    return part


def routes(
    deps: Current[ApiDependencies], ops: Current[Ops], metrics: Metrics, page: Mapping[str, PageFile]
) -> list[HTTPRouteHandler]:
    """Create all handlers."""
    return [
        *_chat_routes(deps, ops),
        *_health_routes(ops),
        *_monitoring_routes(deps, ops, metrics),
        *_page_routes(page),
    ]


def _chat_routes(deps: Current[ApiDependencies], ops: Current[Ops]) -> list[HTTPRouteHandler]:
    @post("/v1/chat/completions", status_code=200)
    async def chat() -> ASGIApp:
        """Complete a conversation, as JSON or as server-sent events."""
        return Exchange(deps())

    @post("/v1/embeddings", status_code=200)
    async def embeddings() -> ASGIApp:
        """Embed texts as vectors."""
        return EmbeddingExchange(deps())

    @get_or_head("/v1/models")
    async def models(request: HttpRequest) -> Response[bytes]:
        """List the models."""
        _check_caller(deps(), request)
        return json_response(ops().models())

    @get_or_head("/v1/models/{name:path}")
    async def model(request: HttpRequest, name: FromPath[str]) -> Response[bytes]:
        """Return one model."""
        _check_caller(deps(), request)
        found = ops().model(name.removeprefix("/"))
        if found is None:
            raise ModelNotFound(f"There is no model {name.removeprefix('/')[:100]!r} here.", param="model")
        return json_response(found)

    @get_or_head("/v1/offline")
    async def offline(request: HttpRequest) -> Response[bytes]:
        """Return the offline pack: answers for a client that cannot reach the service."""
        _check_caller(deps(), request)
        found = ops().offline
        headers = {"etag": found.etag, "cache-control": "private, max-age=300", "vary": "authorization"}
        if request.headers.get("if-none-match") == found.etag:
            return Response(b"", status_code=304, headers=headers, media_type=JSON)
        return Response(found.body, headers=headers, media_type=JSON)

    return [chat, embeddings, models, model, offline]


def _health_routes(ops: Current[Ops]) -> list[HTTPRouteHandler]:
    @get_or_head("/livez")
    async def livez() -> Response[bytes]:
        """Return 200 while this process runs. It checks nothing else, so load cannot make it fail."""
        return json_response({"status": "ok"})

    @get_or_head("/readyz")
    async def readyz() -> Response[bytes]:
        """Return whether this instance accepts new requests: 200 or 503."""
        return json_response({"status": "ok" if ops().ready() else "draining"}, 200 if ops().ready() else 503)

    @get_or_head("/health")
    async def health(deep: FromQuery[bool] = False) -> Response[bytes]:
        """Return the health, with `?deep=true` of each component: 200 or 503."""
        if not deep:
            return json_response(ops().health(), 200 if ops().ready() else 503)
        healthy, report = ops().deep_health()
        return json_response(report, 200 if healthy else 503)

    return [livez, readyz, health]


def _monitoring_routes(
    deps: Current[ApiDependencies], ops: Current[Ops], metrics: Metrics
) -> list[HTTPRouteHandler]:
    @get_or_head("/status")
    async def status(request: HttpRequest) -> Response[bytes]:
        """Return targets, counters, recent requests and incidents."""
        _check_caller(deps(), request)
        return json_response(ops().status())

    @get_or_head("/metrics")
    async def scrape(request: HttpRequest) -> Response[bytes]:
        """Return the metrics as Prometheus text."""
        _check_caller(deps(), request)
        return Response(metrics.scrape(), media_type=CONTENT_TYPE)

    return [status, scrape]


def _page_routes(page: Mapping[str, PageFile]) -> list[HTTPRouteHandler]:
    @get_or_head("/")
    async def index(request: HttpRequest) -> Response[bytes]:
        """Serve the page."""
        return _serve_file(request, page, "index.html")

    @get_or_head("/web/{name:str}")
    async def asset(request: HttpRequest, name: FromPath[str]) -> Response[bytes]:
        """Serve the page's scripts, styles and pictures."""
        return _serve_file(request, page, name)

    @get_or_head("/openapi.json")
    async def openapi(request: HttpRequest) -> Response[bytes]:
        """Serve the OpenAPI document of this service."""
        return _serve_file(request, page, "openapi.json")

    return [index, asset, openapi]


def _serve_file(request: HttpRequest, page: Mapping[str, PageFile], name: str) -> Response[bytes]:
    file = page.get(name)
    if file is None:
        raise NotFound(f"The page has no file {name[:100]!r}.")
    if request.headers.get("if-none-match") == file.etag:
        return Response(b"", status_code=304, headers=file.headers, media_type=file.media_type)
    return Response(file.body, headers=file.headers, media_type=file.media_type)


def _check_caller(deps: ApiDependencies, request: HttpRequest) -> None:
    """Raise Unauthorized or RateLimited if caller keys are set and the request has no valid one."""
    deps.callers.identify(request.headers.get("authorization", ""), request.scope)


def json_response(value: object, status: int = 200, more: Mapping[str, str] = {}) -> Response[bytes]:
    """Return a JSON answer that nobody stores. `more`: headers beside."""
    headers = {**NO_STORE, **more}
    return Response(msgspec.json.encode(value), status_code=status, media_type=JSON, headers=headers)
