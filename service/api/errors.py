"""Errors as clients see them: one shape, on every endpoint.

{"error": {"message", "type", "code", "param", "id", "retry_after", "suggestion", "attempts": [...]}}
"""

import math
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
)

from dub5.service.config.decode_messages import validation_message
from dub5.service.errors import GatewayError, Internal, InvalidRequest, MethodNotAllowed, NotFound
from dub5.service.events import Crashed, Events
from dub5.service.telemetry.attempt_views import attempt_rows

T = TypeVar("T")


class ClientGone(Exception):
    """Nobody is there any more, or nobody who reads."""


def error_body(error: GatewayError, request_id: str) -> dict[str, Any]:
    """The error object."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "code": error.code,
            "param": error.param,
            "id": request_id,
            "retry_after": None if error.retry_after_s is None else round(error.retry_after_s, 3),
            "suggestion": error.suggestion,
            "attempts": attempt_rows(error.attempts),
        }
    }


def error_headers(error: GatewayError, request_id: str) -> dict[str, str]:
    """What SDKs obey: when, and whether at all, to try again."""
    headers = {
        "content-type": "application/json",
        "cache-control": "no-store",
        "x-request-id": request_id,
        "x-should-retry": "true" if error.worth_retrying else "false",
    }
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["retry-after-ms"] = str(math.ceil(error.retry_after_s * 1000))
    return headers


async def report_crashes(work: Awaitable[T], request_id: str, events: Events) -> T:
    """`await work`; a defect of ours becomes an Internal error that shows a person nothing of our inside."""
    try:
        return await work
    except (GatewayError, ClientGone):
        raise
    except Exception as error:
        raise report_crash(error, request_id, events) from None


def report_crash(error: Exception, request_id: str, events: Events) -> Internal:
    """Tells the log where it happened, and the client that it did."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename.rsplit('/', 2)[-1]}:{frames[-1].lineno}" if frames else "?"
    events.emit(Crashed(request_id, f"{type(error).__name__} at {place}"))
    return Internal("Something went wrong on our side.")


def exception_handler(
    events: Events, new_id: Callable[[], str]
) -> Callable[[Request[Any, Any, Any], Exception], Any]:
    """Litestar's way to us: whatever a route raises, and the paths and methods that no route has."""

    def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        request_id = new_id()
        gateway_error = _as_gateway_error(request, error, request_id, events)
        headers = error_headers(gateway_error, request_id)
        if isinstance(error, MethodNotAllowedException):
            headers["allow"] = ", ".join(sorted(_methods(request)))
        body = msgspec.json.encode(error_body(gateway_error, request_id))
        return Response(
            body, status_code=gateway_error.status, headers=headers, media_type="application/json"
        )

    return handle


def _methods(request: Request[Any, Any, Any]) -> set[str]:
    """What the path takes; a path with a parameter is one that is read."""
    found = {
        str(method)
        for route in request.app.routes
        if route.path == request.url.path
        for method in route.methods
    }
    return found or {"GET", "OPTIONS"}


OTHER_APIS = {
    "/v1/responses": "OpenAI's Responses",
    "/v1/messages": "Anthropic's Messages",
    "/v1/completions": "OpenAI's old text completions",
}


def _other_api_hint(path: str) -> str:
    """What is spoken instead, where a client knocks that speaks something else."""
    for known, whose in OTHER_APIS.items():
        if path == known or path.startswith(known + "/"):
            return (
                f": {whose} are not spoken here, OpenAI's chat completions are, at POST /v1/chat/completions"
            )
    return ""


def _as_gateway_error(
    request: Request[Any, Any, Any], error: Exception, request_id: str, events: Events
) -> GatewayError:
    match error:
        case GatewayError():
            return error
        case NotFoundException():
            return NotFound(
                f"There is nothing at {request.url.path[:200]!r}{_other_api_hint(request.url.path)}."
            )
        case MethodNotAllowedException():
            return MethodNotAllowed(f"{request.url.path[:200]!r} does not take {request.method}.")
        case HTTPException(status_code=status, extra=[{"key": str(key), "message": str(said)}, *_]) if (
            status == 400
        ):
            return InvalidRequest(f"{key}: {validation_message(said)}.", param=key)
        case HTTPException(status_code=status) if 400 <= status < 500:
            return InvalidRequest("The request could not be read.")
    return report_crash(error, request_id, events)
