"""The errors that clients receive: one class for each code, with its status, its type and a suggestion.

    GatewayError
    ├── InvalidRequest 400
    │   ├── QuestionTooLong
    │   ├── SuspiciousInput
    │   ├── HostNotAllowed
    │   ├── UnreadableDocument
    │   ├── TooManyDocuments
    │   └── TooManyDecks
    ├── Unauthorized 401
    │   ├── WrongAdminToken
    │   └── SessionRequired
    ├── OriginNotAllowed 403
    ├── HttpsRequired 403
    ├── CsrfRefused 403
    ├── NotFound 404
    │   ├── ModelNotFound
    │   ├── ConversationNotFound
    │   ├── DocumentNotFound
    │   └── DeckNotFound
    ├── MethodNotAllowed 405
    ├── RequestTimeout 408
    ├── TooLarge 413
    │   └── DocumentTooLarge
    ├── CompressedBody 415
    ├── HeadTooLarge 431
    ├── UpgradeRequired 426
    ├── RateLimited 429
    ├── TooManyTurns 429
    ├── AllTargetsLimited 429
    ├── Unavailable 503
    │   ├── AllTargetsDown
    │   │   └── KeysRefused
    │   ├── DeadlineExceeded
    │   ├── Overloaded
    │   ├── FeatureUnavailable
    │   ├── ShuttingDown
    │   └── StorageUnavailable
    ├── ProviderRefused    the provider's own 400 or 422
    ├── Internal 500       a defect of the service
    └── StreamCut          only inside a stream, after its first content
        └── StreamStalled

Never 502 or 504: a CDN would replace their bodies. `type` and `code` come from this file alone.
"""

from collections.abc import Iterable, Iterator
from typing import ClassVar

from dub5.service.model import AttemptRecord

# Official SDKs sleep for a Retry-After of up to this; above it they give up or hang.
SDK_WAIT_MAX_S = 60.0


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
        """The value of `x-should-retry`: whether a target can answer after a wait that SDKs accept."""
        return self.retry_after_s is not None and self.retry_after_s <= SDK_WAIT_MAX_S


class Internal(GatewayError):
    """A defect of the service. The log has it under the error's id."""


class InvalidRequest(GatewayError):
    """The body or a header is not what the endpoint takes."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"
    suggestion = "Correct the request; sending it again unchanged cannot succeed."
    outcome = "refused"


class QuestionTooLong(InvalidRequest):
    """The last user message has more characters than the route takes."""

    code = "question_too_long"
    suggestion = "Ask a shorter question, or split it over several messages."


class SuspiciousInput(InvalidRequest):
    """The request looks like an attempt to override the model's instructions, and the route blocks those."""

    code = "suspicious_input"
    suggestion = "Rephrase the question, without instructions about the model's own instructions."


class HostNotAllowed(InvalidRequest):
    """The Host header names no host of `server.allowed_hosts`."""

    code = "host_not_allowed"
    suggestion = "Use the address that the operator of this service has published."


class UnreadableDocument(InvalidRequest):
    """The file holds no text that can be read here; the message says why, and what to do."""

    code = "unreadable_document"
    suggestion = "Files with text are read here: .pdf, .docx, .md and .txt."


class TooManyDocuments(InvalidRequest):
    """The caller has as many documents as one may have."""

    code = "too_many_documents"
    suggestion = "Delete one that is not needed any more, and upload this one again."


class TooManyDecks(InvalidRequest):
    """The caller has as many decks as one may have."""

    code = "too_many_decks"
    suggestion = "Delete one that is not needed any more, and make this one again."


class OriginNotAllowed(GatewayError):
    """A page of an origin that is not in `server.origins` asks."""

    status = 403
    type = "permission_error"
    code = "origin_not_allowed"
    suggestion = "Ask the operator of this service to add the page's origin, or call it from your server."
    outcome = "refused"


class HttpsRequired(GatewayError):
    """The request came without TLS."""

    status = 403
    type = "permission_error"
    code = "https_required"
    suggestion = "Use https:// in the base URL, and replace a key that was sent without it."
    outcome = "refused"


class Unauthorized(GatewayError):
    """The API key is missing or unknown."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    suggestion = "Send an API key of this service in the header `Authorization: Bearer <key>`."
    outcome = "refused"


class WrongAdminToken(Unauthorized):
    """The admin token is missing or wrong."""

    suggestion = (
        "Send `Authorization: Bearer <token>`, with that of admin.token_env or that printed at start."
    )


class SessionRequired(Unauthorized):
    """Conversations belong to a session or to an API key, and the request has neither."""

    code = "session_required"
    suggestion = "POST /v1/session begins a session; send its cookie or a ticket of it, or an API key."


class CsrfRefused(GatewayError):
    """A page of another site may have made a browser send this request with the session's cookie."""

    status = 403
    type = "permission_error"
    code = "csrf_refused"
    suggestion = (
        "Send it from a page of this service or of an origin in server.origins, with the content type"
        " application/json, a file as application/octet-stream; a program can leave out the cookie."
    )
    outcome = "refused"


class NotFound(GatewayError):
    """There is no such path."""

    status = 404
    type = "not_found_error"
    code = "not_found"
    suggestion = "The endpoints are POST /v1/chat/completions, POST /v1/embeddings and GET /v1/models."
    outcome = "refused"


class ModelNotFound(NotFound):
    """No route has this name."""

    code = "model_not_found"
    suggestion = "GET /v1/models lists the models of this service."


class ConversationNotFound(NotFound):
    """The caller has no conversation, or no turn, with this id."""

    code = "conversation_not_found"
    suggestion = "GET /v1/conversations lists yours; POST /v1/conversations begins one."


class DocumentNotFound(NotFound):
    """The caller has no document with this id."""

    code = "document_not_found"
    suggestion = "GET /v1/documents lists yours; POST /v1/documents uploads one."


class DeckNotFound(NotFound):
    """The caller has no deck with this id."""

    code = "deck_not_found"
    suggestion = "GET /v1/decks lists yours; POST /v1/decks makes one from a document."


class JobNotFound(NotFound):
    """The caller has no job with this id."""

    code = "job_not_found"
    suggestion = "A job is deleted some time after its end; what it has made says its state, too."


class MethodNotAllowed(GatewayError):
    """The path takes another method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"
    suggestion = "Use a method that the path takes; the header Allow lists them."
    outcome = "refused"


class RequestTimeout(GatewayError):
    """The request did not arrive whole in time. The connection is closed."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"
    suggestion = "Send the request again, without a pause in it."
    outcome = "refused"


class CompressedBody(GatewayError):
    """The body is compressed."""

    status = 415
    type = "invalid_request_error"
    code = "compressed_body"
    suggestion = "Send the body as it is, without a content-encoding."
    outcome = "refused"


class HeadTooLarge(GatewayError):
    """The head of the request is over the limit. The connection is closed."""

    status = 431
    type = "invalid_request_error"
    code = "request_head_too_large"
    suggestion = "Send fewer or shorter headers, and move what is long to the body."
    outcome = "refused"


class TooLarge(GatewayError):
    """The body is over the limit."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"
    suggestion = "Shorten the conversation, or send images as URLs."
    outcome = "refused"


class DocumentTooLarge(TooLarge):
    """The file is over the limit."""

    code = "document_too_large"
    suggestion = "A file without pictures is much smaller."


class UpgradeRequired(GatewayError):
    """The path is for WebSockets alone."""

    status = 426
    type = "invalid_request_error"
    code = "upgrade_required"
    suggestion = "Connect with a WebSocket client (RFC 6455)."
    outcome = "refused"


class TooManyTurns(GatewayError):
    """A connection has as many open turns as it may have."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_turns"
    suggestion = "Wait for the end of a turn, or stop one."
    outcome = "refused"


class RateLimited(GatewayError):
    """This client has sent too many requests, or too many unknown keys."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limited"
    suggestion = "Wait as long as Retry-After says."
    outcome = "refused"


class AllTargetsLimited(GatewayError):
    """Every provider that could answer has reached a rate limit or quota."""

    status = 429
    type = "rate_limit_error"
    code = "all_targets_limited"
    suggestion = "Wait as long as Retry-After says."
    outcome = "failed"


class Unavailable(GatewayError):
    """No provider can answer now."""

    status = 503
    type = "service_unavailable_error"
    code = "unavailable"
    suggestion = "Try again a little later (Retry-After says when); the request was not at fault."


class AllTargetsDown(Unavailable):
    """Every provider that could answer failed, or is known to be down."""

    code = "all_targets_down"


class KeysRefused(AllTargetsDown):
    """Every provider refused this service's own key or account, which only its operator can mend."""

    code = "keys_refused"
    suggestion = "Tell the operator of this service: its keys or accounts at the providers must be replaced."


class DeadlineExceeded(Unavailable):
    """The deadline passed before the first token."""

    code = "deadline_exceeded"
    suggestion = "Allow more time with the X-Deadline-Ms header, or ask for a shorter answer."

    @property
    def worth_retrying(self) -> bool:
        """False: an SDK would spend the same time again, on providers that are slow already."""
        return False


class Overloaded(Unavailable):
    """This process, or every provider that could answer, is at capacity."""

    code = "overloaded"
    outcome = "refused"


class FeatureUnavailable(Unavailable):
    """A feature is unavailable: no target that supports it can answer now.

    Requests without it are answered.
    """

    code = "feature_unavailable"
    suggestion = (
        "Send the request without it, or wait as long as Retry-After says."
        " GET /v1/models shows what is available now."
    )


class ShuttingDown(Unavailable):
    """This process is shutting down; another instance answers the next request."""

    code = "shutting_down"
    suggestion = "Send the request again: another instance will answer it."
    outcome = "refused"


class StorageUnavailable(Unavailable):
    """What was asked for is in the database, which does not answer now. Nothing that was kept is lost."""

    code = "storage_unavailable"
    suggestion = "Try again in some seconds. Questions are answered meanwhile, without what was said before."


class ProviderRefused(GatewayError):
    """The providers that were asked rejected the request itself."""

    status = 400
    type = "invalid_request_error"
    code = "provider_refused"
    suggestion = InvalidRequest.suggestion
    outcome = "refused"

    def __init__(self, message: str, status: int, *, attempts: Iterable[AttemptRecord] = ()) -> None:
        super().__init__(message, attempts=attempts)
        self.status = status  # type: ignore[misc]  # the provider's own: 400 or 422


class StreamCut(GatewayError):
    """The provider ended the stream before the answer was complete."""

    code = "stream_cut"
    suggestion = "The answer so far is incomplete. Send the request again."
    outcome = "cut"


class StreamStalled(StreamCut):
    """The provider sent nothing more in time, or the deadline passed."""

    code = "stream_stalled"


def every_error(base: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    """Yield this class and all its subclasses. Tests hold the documentation to them."""
    yield base
    for kind in base.__subclasses__():
        yield from every_error(kind)
