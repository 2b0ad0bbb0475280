"""Every path the service answers, in one place."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response, get, head, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery
from litestar.types import ASGIApp

from dub5.service.api.chat import Desk, Exchange
from dub5.service.api.embeddings import Embedding
from dub5.service.api.ops import Ops
from dub5.service.api.page import File
from dub5.service.errors import ModelNotFound, NotFound
from dub5.service.telemetry.metrics import CONTENT_TYPE, Metrics

T = TypeVar("T")
Now = Callable[[], T]  # a reload of the settings puts another one in its place
Asked = Request[Any, Any, Any]
JSON = "application/json"


def routes(
    desk: Now[Desk], ops: Now[Ops], metrics: Metrics, page: Mapping[str, File]
) -> list[HTTPRouteHandler]:
    """The handlers, each closed over what it reads."""
    return [
        *_chat_routes(desk, ops),
        *_health_routes(ops),
        *_watching_routes(desk, ops, metrics),
        *_page_routes(page),
    ]


def _chat_routes(desk: Now[Desk], ops: Now[Ops]) -> list[HTTPRouteHandler]:
    @post("/v1/chat/completions", status_code=200)
    async def chat() -> ASGIApp:
        """Answers a conversation, as JSON or as server-sent events."""
        return Exchange(desk())

    @post("/v1/embeddings", status_code=200)
    async def embeddings() -> ASGIApp:
        """Turns texts into vectors."""
        return Embedding(desk())

    @get("/v1/models")
    async def models(request: Asked) -> Response[bytes]:
        """The models that can be asked."""
        _known(desk(), request)
        return _json(ops().models())

    @get("/v1/models/{name:path}")
    async def model(request: Asked, name: FromPath[str]) -> Response[bytes]:
        """One of them."""
        _known(desk(), request)
        found = ops().model(name.removeprefix("/"))
        if found is None:
            raise ModelNotFound(f"There is no model {name.removeprefix('/')[:100]!r} here.", param="model")
        return _json(found)

    @get("/v1/offline")
    async def offline(request: Asked) -> Response[bytes]:
        """What a client may keep, to answer when it cannot reach us."""
        _known(desk(), request)
        found = ops().offline
        headers = {"etag": found.etag, "cache-control": "private, max-age=300", "vary": "authorization"}
        if request.headers.get("if-none-match") == found.etag:
            return Response(b"", status_code=304, headers=headers, media_type=JSON)
        return Response(found.body, headers=headers, media_type=JSON)

    return [chat, embeddings, models, model, offline]


def _health_routes(ops: Now[Ops]) -> list[HTTPRouteHandler]:
    @get("/livez")
    async def livez() -> Response[bytes]:
        """Whether this process runs. Looks at nothing else, so that load cannot make it fail."""
        return _json({"status": "ok"})

    @get("/readyz")
    async def readyz() -> Response[bytes]:
        """Whether new requests should come here: 200 or 503."""
        return _json({"status": "ok" if ops().ready() else "draining"}, 200 if ops().ready() else 503)

    @get("/health")
    async def health(deep: FromQuery[bool] = False) -> Response[bytes]:
        """Shallow, or with `?deep=true` for each component: 200 or 503."""
        if not deep:
            return _json(ops().health(), 200 if ops().ready() else 503)
        well, report = ops().deep_health()
        return _json(report, 200 if well else 503)

    @head("/livez")
    async def livez_head() -> Response[None]:
        """The same for monitors that want no body."""
        return Response(None, media_type="text/plain")

    @head(["/readyz", "/health"])
    async def readyz_head() -> Response[None]:
        """The same: 200 or 503."""
        return Response(None, status_code=200 if ops().ready() else 503, media_type="text/plain")

    return [livez, readyz, health, livez_head, readyz_head]


def _watching_routes(desk: Now[Desk], ops: Now[Ops], metrics: Metrics) -> list[HTTPRouteHandler]:
    @get("/status")
    async def status(request: Asked) -> Response[bytes]:
        """What happens now: targets, counts, the last requests and incidents."""
        _known(desk(), request)
        return _json(ops().status())

    @get("/metrics")
    async def scrape(request: Asked) -> Response[bytes]:
        """For Prometheus."""
        _known(desk(), request)
        return Response(metrics.scrape(), media_type=CONTENT_TYPE)

    return [status, scrape]


def _page_routes(page: Mapping[str, File]) -> list[HTTPRouteHandler]:
    @get("/")
    async def index(request: Asked) -> Response[bytes]:
        """The page."""
        return _served(request, page, "index.html")

    @get("/web/{name:str}")
    async def asset(request: Asked, name: FromPath[str]) -> Response[bytes]:
        """The page's scripts, styles and pictures."""
        return _served(request, page, name)

    return [index, asset]


def _served(request: Asked, page: Mapping[str, File], name: str) -> Response[bytes]:
    file = page.get(name)
    if file is None:
        raise NotFound(f"The page has no file {name[:100]!r}.")
    if request.headers.get("if-none-match") == file.etag:
        return Response(b"", status_code=304, headers=file.headers, media_type=file.media_type)
    return Response(file.body, headers=file.headers, media_type=file.media_type)


def _known(desk: Desk, request: Asked) -> None:
    """Raises Unauthorized where keys are set and the caller has none."""
    desk.callers.identify(request.headers.get("authorization", ""))


def _json(value: object, status: int = 200) -> Response[bytes]:
    headers = {"cache-control": "no-store"}
    return Response(msgspec.json.encode(value), status_code=status, media_type=JSON, headers=headers)
