"""Error responses: one shape on every endpoint.

{"error": {"message", "type", "code", "param", "id", "retry_after", "suggestion", "attempts": [...]}}
"""

import math
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
)
from litestar.utils import normalize_path

from dub5.service.config.decode_messages import validation_message
from dub5.service.errors import (
    GatewayError,
    Internal,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestTimeout,
)
from dub5.service.events import Events, crash_of
from dub5.service.telemetry.attempt_views import attempt_rows

T = TypeVar("T")
SENTENCE_ENDS = (".", "!", "?")
PARAMETER = re.compile(r"\{\w+:(\w+)\}")
REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class ClientGone(Exception):
    """The client has disconnected, or no longer reads."""


def request_id(headers: Mapping[str, str], own: str) -> str:
    """Return the caller's `x-request-id` where it is well formed, else our own."""
    given = headers.get("x-request-id")
    return given if given is not None and REQUEST_ID.fullmatch(given) else own


def error_body(error: GatewayError, request_id: str) -> dict[str, Any]:
    """Return the error object."""
    return {
        "error": {
            "message": _message(error),
            "type": error.type,
            "code": error.code,
            "param": error.param,
            "id": request_id,
            "retry_after": None if error.retry_after_s is None else round(error.retry_after_s, 3),
            "suggestion": error.suggestion,
            "attempts": attempt_rows(error.attempts),
        }
    }


def _message(error: GatewayError) -> str:
    """Return the message with the suggestion, because most SDKs show the message alone."""
    message = error.message.rstrip()  # perhaps a provider's words, which may lack an end
    return f"{message}{'' if message[-1:] in SENTENCE_ENDS else '.'} {error.suggestion}"


def error_headers(error: GatewayError, request_id: str) -> dict[str, str]:
    """Return the headers that tell SDKs whether and when to retry."""
    headers = {
        "content-type": "application/json",
        "cache-control": "no-store",
        "x-request-id": request_id,
        "x-should-retry": "true" if error.worth_retrying else "false",
    }
    if error.status == RequestTimeout.status:
        headers["connection"] = "close"  # the rest of the request may still come
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["retry-after-ms"] = str(math.ceil(error.retry_after_s * 1000))
    return headers


async def report_crashes(work: Awaitable[T], request_id: str, events: Events) -> T:
    """Return `await work`; raise Internal, without details, for an unexpected exception."""
    try:
        return await work
    except (GatewayError, ClientGone):
        raise
    except Exception as error:
        raise report_crash(error, request_id, events) from None


def report_crash(error: Exception, request_id: str, events: Events) -> Internal:
    """Emit Crashed with the place of the exception, and return the client's error."""
    events.emit(crash_of(error, request_id))
    return Internal("An internal error occurred.")


def exception_handler(
    events: Events, new_id: Callable[[], str]
) -> Callable[[Request[Any, Any, Any], Exception], Any]:
    """Create Litestar's exception handler, for what a route raises, and for unknown paths and methods."""

    def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        id_ = request_id(request.headers, new_id())
        gateway_error = _as_gateway_error(request, error, id_, events)
        headers = error_headers(gateway_error, id_)
        if isinstance(error, MethodNotAllowedException):
            headers["allow"] = ", ".join(sorted(_methods(request)))
        body = msgspec.json.encode(error_body(gateway_error, id_))
        return Response(
            body, status_code=gateway_error.status, headers=headers, media_type="application/json"
        )

    return handle


def _methods(request: Request[Any, Any, Any]) -> set[str]:
    """Return the methods of the path."""
    path = normalize_path(request.scope["path"])  # the router, too, takes `/v1//models/` for `/v1/models`
    same = {str(method) for route in request.app.routes if route.path == path for method in route.methods}
    return same or {
        str(method)
        for route in request.app.routes
        if "{" in route.path and _form_of(route.path).fullmatch(path)
        for method in route.methods
    }


@cache
def _form_of(path: str) -> re.Pattern[str]:
    """Return the form of the paths that a route with parameters takes."""
    return re.compile(PARAMETER.sub(lambda found: ".+" if found[1] == "path" else "[^/]+", path))


OTHER_APIS = {
    "/v1/responses": "OpenAI's Responses API",
    "/v1/messages": "Anthropic's Messages API",
    "/v1/completions": "OpenAI's legacy completions API",
}


API_PATHS = ("/v1/chat/completions", "/v1/embeddings", "/v1/models")


def _path_hint(path: str) -> str:
    """Return a hint for the path of an unsupported API, or of a base URL without /v1, or with too much."""
    for known, api in OTHER_APIS.items():
        if path == known or path.startswith(known + "/"):
            return f": {api} is not supported; use POST /v1/chat/completions"
    for known in API_PATHS:
        if path.lower().rstrip("/").endswith(known.removeprefix("/v1")):
            return f". It would be {known}: the base URL of a client must end with /v1, and have it once"
    return ""


def no_such_path(path: str, hint: str = "") -> NotFound:
    """Return the error for a path that does not exist, or not for this client."""
    return NotFound(f"The path {path[:200]!r} does not exist{hint}.")


def _as_gateway_error(
    request: Request[Any, Any, Any], error: Exception, request_id: str, events: Events
) -> GatewayError:
    match error:
        case GatewayError():
            return error
        case NotFoundException():
            path = request.scope["path"]
            return no_such_path(path, _path_hint(path))
        case MethodNotAllowedException():
            known = " and ".join(sorted(_methods(request) - {"OPTIONS"}))
            return MethodNotAllowed(f"{request.scope['path'][:200]!r} takes {known}, not {request.method}.")
        case HTTPException(status_code=400, extra=[{"key": str(key), "message": str(text)}, *_]):
            return InvalidRequest(f"{key}: {validation_message(text)}.", param=key)
        case HTTPException(status_code=status) if 400 <= status < 500:
            return InvalidRequest("The request could not be read.")
        case UnicodeDecodeError() if not _is_text(request.scope["query_string"]):  # raised by Litestar
            return InvalidRequest("The query of the address is not UTF-8 text.")
    return report_crash(error, request_id, events)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
