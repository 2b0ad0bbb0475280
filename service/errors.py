"""What clients are told.

    GatewayError
    ├── InvalidRequest 400      ├── RateLimited 429 ── AllTargetsLimited
    ├── Unauthorized 401        ├── Unavailable 503
    ├── NotFound 404            │   ├── AllTargetsDown   ├── DeadlineExceeded
    │   └── ModelNotFound       │   ├── Overloaded       ├── FeatureUnavailable
    ├── MethodNotAllowed 405    │   └── ShuttingDown
    ├── TooLarge 413            ├── ProviderRefused (the provider's own 400, 422)
    │                           └── Internal 500 (a defect of ours)
    └── StreamCut, StreamStalled: only ever inside a stream, after its first content

Never 502 or 504: a CDN in front would replace their bodies. `type` and `code` come from this table alone.
"""

from collections.abc import Iterable, Iterator
from typing import ClassVar

from dub5.service.model import AttemptRecord

SDK_WAIT_MAX_S = (
    60.0  # official SDKs sleep at least this long for a Retry-After; above it they give up or hang
)


class GatewayError(Exception):
    """An honest end without an answer. `message` is for a person, `suggestion` says what to do next."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    suggestion: ClassVar[str] = "Try again. If it happens again, report the error id."
    outcome: ClassVar[str] = "failed"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        attempts: Iterable[AttemptRecord] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.attempts = tuple(attempts)

    @property
    def worth_retrying(self) -> bool:
        """What `x-should-retry` tells an SDK: true only if a target can answer within the wait."""
        return self.retry_after_s is not None and self.retry_after_s <= SDK_WAIT_MAX_S


class Internal(GatewayError):
    """A defect of ours. The log has it under the error's id."""


class InvalidRequest(GatewayError):
    """The body or a header is not what the endpoint takes."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"
    suggestion = "Correct the request; sending it again unchanged cannot succeed."
    outcome = "refused"


class Unauthorized(GatewayError):
    """No key, or one that is not known here."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    suggestion = "Send a key of this service as `Authorization: Bearer <key>`."
    outcome = "refused"


class NotFound(GatewayError):
    """No such path."""

    status = 404
    type = "not_found_error"
    code = "not_found"
    suggestion = "Chat is at POST /v1/chat/completions, vectors are at POST /v1/embeddings, the models at GET /v1/models."
    outcome = "refused"


class ModelNotFound(NotFound):
    """No route has this name."""

    code = "model_not_found"
    suggestion = "GET /v1/models lists the models that can be asked."


class MethodNotAllowed(GatewayError):
    """The path exists, with another method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"
    suggestion = "Use the method that the Allow header names."
    outcome = "refused"


class TooLarge(GatewayError):
    """The body is over the limit."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"
    suggestion = "Shorten the conversation, or send images as links."
    outcome = "refused"


class RateLimited(GatewayError):
    """Too many requests, by a limit of ours."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limited"
    suggestion = "Wait as long as Retry-After says."
    outcome = "refused"


class AllTargetsLimited(RateLimited):
    """Every provider that could answer has a rate limit or quota in force."""

    code = "all_targets_limited"
    outcome = "failed"


class Unavailable(GatewayError):
    """Nobody can answer now."""

    status = 503
    type = "service_unavailable_error"
    code = "unavailable"
    suggestion = "Try again a little later (Retry-After says when); the request was not at fault."


class AllTargetsDown(Unavailable):
    """Every provider that could answer failed, or is known to be down."""

    code = "all_targets_down"


class DeadlineExceeded(Unavailable):
    """The time the caller allowed ran out before the first token."""

    code = "deadline_exceeded"
    suggestion = "Allow more time with the X-Deadline-Ms header, or ask for a shorter answer."

    @property
    def worth_retrying(self) -> bool:
        """Not by itself: an SDK would spend the same time again, on providers that are slow as it is."""
        return False


class Overloaded(Unavailable):
    """More requests are open than this process takes, or than all providers do."""

    code = "overloaded"
    outcome = "refused"


class FeatureUnavailable(Unavailable):
    """Only targets that do not answer now have what the request needs; the others answer requests without it."""

    code = "feature_unavailable"
    suggestion = (
        "Ask without it, or wait as long as Retry-After says. GET /v1/models shows what is available now."
    )


class ShuttingDown(Unavailable):
    """This process is about to end; another one answers the next call."""

    code = "shutting_down"
    suggestion = "Send the request again: another instance will answer it."
    outcome = "refused"


class ProviderRefused(GatewayError):
    """A provider found the request itself at fault; another one would too."""

    status = 400
    type = "invalid_request_error"
    code = "provider_refused"
    suggestion = InvalidRequest.suggestion
    outcome = "refused"

    def __init__(self, message: str, status: int, *, attempts: Iterable[AttemptRecord] = ()) -> None:
        super().__init__(message, attempts=attempts)
        self.status = status  # type: ignore[misc]  # the provider's own: 400 or 422


class StreamCut(GatewayError):
    """The provider ended the stream before the answer was whole."""

    code = "stream_cut"
    suggestion = "The text so far is not the whole answer. Ask again."
    outcome = "cut"


class StreamStalled(StreamCut):
    """The provider sent nothing more, or the caller's time ran out."""

    code = "stream_stalled"


def every_error(base: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    """All kinds of error, for the documentation and its test."""
    yield base
    for kind in base.__subclasses__():
        yield from every_error(kind)
