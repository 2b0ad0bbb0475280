"""The dialect (adapter) protocol: pure translation between our model and one provider's bytes, without I/O.

ChatRequest --encode--> EncodedRequest --(failover/attempt, wire)--> status, headers, body
200 + JSON  --answer--> Reply           200 + SSE --stream().feed--> [Chunk] ... .end()
otherwise   --fault---> ProviderFault   (raised or returned; resilience/classify.py classifies it)
"""

import re
from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from dub5.service import VERSION, clock
from dub5.service.model import AnyRequest, ChatRequest, Chunk, EmbedRequest, Reply, Usage
from dub5.service.providers.error_body import ErrorBody, read_error
from dub5.service.providers.quota_left import QuotaHeaders
from dub5.service.providers.rate_limit_size import CODE as TOO_LARGE
from dub5.service.providers.rate_limit_size import exceeds_full_bucket
from dub5.service.providers.retry_after import LONGEST_S, retry_after_s
from dub5.service.providers.slices import Steps, in_turns
from dub5.service.providers.sse import split_objects

USER_AGENT = f"dub5/{VERSION}"
MESSAGE_CHARS_MAX = 300
DROPPED_MAX = 20
NAME_CHARS_MAX = 64
BLANK = b" \t\r\n\xef\xbb\xbf"  # what may stand before JSON
_UNSAFE = re.compile(r"[^][A-Za-z0-9_.-]")


class ProviderFault(Exception):
    """A provider responded, but not with a valid answer.

    `reason` is a short name from a closed set (docs/use/reasons.md). `message` is the provider's sentence,
    shortened; callers receive it only where the fault is theirs. `told_status`: inside a 200, the status that
    the error names. `quoted`: code or status stood where the provider may have repeated the request.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        code: str = "",
        message: str = "",
        retry_after_s: float | None = None,
        told_status: int | None = None,
        quoted: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.code = code
        # Half of a character could not be sent to anybody.
        self.message = message[:MESSAGE_CHARS_MAX].encode("utf-8", "replace").decode()
        self.retry_after_s = retry_after_s
        self.told_status = told_status
        self.quoted = quoted


class Unsupported(Exception):
    """The dialect does not support a field of the request; another target may.

    `param` is safe in a header: callers choose the names of fields.
    """

    def __init__(self, param: str) -> None:
        super().__init__(param)
        self.param = _UNSAFE.sub("?", param[:NAME_CHARS_MAX])


class EncodedRequest(Struct, frozen=True):
    """A request in a provider's format. `dropped` names the fields that the format lacks.

    `answer_tokens_max`: the bound on the answer that the format requires, where the client set none.
    """

    path: str
    body: bytes
    headers: Mapping[str, str]
    dropped: tuple[str, ...] = ()
    answer_tokens_max: int | None = None

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the provider does not get or give, as the trail names it."""
        bound = self.answer_tokens_max
        return self.dropped if bound is None else (*self.dropped, f"answer-over-{bound}-tokens")

    def __repr__(self) -> str:
        return f"EncodedRequest({self.path})"


def trail_names(dropped: list[str]) -> tuple[str, ...]:
    """Return at most DROPPED_MAX short and safe names: callers choose them, and the trail is a header."""
    if not dropped:
        return ()
    return tuple(
        _UNSAFE.sub("?", name[:NAME_CHARS_MAX]) for name in list(dict.fromkeys(dropped))[:DROPPED_MAX]
    )


class StreamReader(Protocol):
    """The reader of one stream in one dialect."""

    finished: bool  # the provider has declared the answer complete
    ended: bool  # no more chunks will come
    fault: ProviderFault | None  # what followed the last good chunk, unless the answer was complete by then

    def feed(self, data: bytes) -> list[Chunk]:
        """Return the good chunks that `data` completes; read `fault` afterwards."""
        ...

    def end(self) -> list[Chunk]:
        """Return the last chunks, after the last byte; one chunk of the stream then holds the usage.

        Raises ProviderFault("truncated") unless the answer is complete.
        """
        ...

    def usage_so_far(self) -> Usage:
        """Return the tokens of a possibly incomplete stream: the provider's count, or an estimate."""
        ...


class Dialect(Protocol):
    """One provider's request and response format (an adapter)."""

    embeds: bool  # whether the provider has embeddings
    models_path: str  # of the list of models, which costs nothing
    quota_headers: tuple[QuotaHeaders, ...]  # the limits of which each answer says what is left

    def headers(self, key: str | None) -> Mapping[str, str]:
        """Return the headers of a call, authenticated with `key`."""
        ...

    def encode(self, request: ChatRequest, model: str, key: str | None) -> EncodedRequest:
        """Encode the request for `model`, authenticated with `key`. Raises Unsupported."""
        ...

    def encode_in_steps(self, request: ChatRequest, model: str, key: str | None) -> Steps[EncodedRequest]:
        """Encode a large request in steps, of which each takes a few milliseconds. Raises Unsupported."""
        ...

    def answer(self, body: bytes, request: ChatRequest) -> Reply:
        """Decode a complete answer to a chat.completion with usage. Raises ProviderFault if it is invalid."""
        ...

    def stream(self, request: ChatRequest, model: str) -> StreamReader:
        """Create a reader for one streamed answer."""
        ...

    def encode_embeddings(self, request: EmbedRequest, model: str, key: str | None) -> EncodedRequest:
        """Encode an embeddings request. Raises Unsupported."""
        ...

    def embeddings(self, body: bytes, request: EmbedRequest) -> Reply:
        """Decode one vector per input to OpenAI's list. Raises ProviderFault."""
        ...

    def fault(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderFault:
        """Return the fault that a status other than 200 means."""
        ...


def encode_request(dialect: Dialect, request: AnyRequest, model: str, key: str | None) -> EncodedRequest:
    """Encode either kind of request. Raises Unsupported."""
    if isinstance(request, EmbedRequest):
        return dialect.encode_embeddings(request, model, key)
    return dialect.encode(request, model, key)


async def encode_large(dialect: Dialect, request: AnyRequest, model: str, key: str | None) -> EncodedRequest:
    """Encode a large request, and let the event loop run in between. Raises Unsupported."""
    if isinstance(request, EmbedRequest):
        return dialect.encode_embeddings(request, model, key)
    return await in_turns(dialect.encode_in_steps(request, model, key))


def decode_reply(dialect: Dialect, request: AnyRequest, body: bytes) -> Reply:
    """Decode the JSON answer to either kind of request. Raises ProviderFault."""
    if isinstance(request, EmbedRequest):
        return dialect.embeddings(body, request)
    return dialect.answer(body, request)


def status_fault(status: int, headers: Mapping[str, str], body: bytes) -> ProviderFault:
    """Build a fault from a status and its body: JSON of any known shape, text or HTML."""
    error = read_error(body)
    message = "" if error.plain and status == 404 else error.message  # a wrong address has many texts
    return ProviderFault(
        f"http_{status}",
        status=status,
        code=TOO_LARGE if exceeds_full_bucket(status, headers, message) else error.code,
        message=message,
        retry_after_s=_wait_s(error, headers),
        quoted=error.quoted,
    )


def event_fault(body: bytes, reason: str = "error_event") -> ProviderFault:
    """Build a fault from an error inside a 200; `reason` where it is no error in the dialect's own form."""
    error = read_error(body)
    return ProviderFault(
        reason,
        code=error.code,
        message=error.message,
        retry_after_s=_wait_s(error, {}),
        told_status=error.status,
        quoted=error.quoted,
    )


def refusal_or(reason: str, body: bytes) -> ProviderFault:
    """Build the fault of a 200 that is no answer: the error that it holds, else `reason`."""
    if body.lstrip(BLANK)[:1] not in (b"{", b"["):
        return event_fault(body, reason)
    fault = event_fault(body)
    return fault if fault.message else ProviderFault(reason)


def cut_fault(rest: bytes) -> ProviderFault:
    """Build the fault of a stream that is no whole answer. `rest`: its last line, if that has no end."""
    is_event = rest.lstrip(BLANK)[:1] not in (b"{", b"[")
    return ProviderFault("truncated") if is_event else refusal_or("truncated", rest)


def _wait_s(error: ErrorBody, headers: Mapping[str, str]) -> float | None:
    """Return how long to wait, as the headers, the message, the body or a provider behind it say."""
    wait_s = retry_after_s(headers, error.message, clock.wall() if headers else 0.0)
    if wait_s is None and error.wait_s is not None:
        return min(error.wait_s, LONGEST_S)
    return retry_after_s(error.headers, "", clock.wall()) if wait_s is None and error.headers else wait_s


class ObjectReader(Protocol):
    """What a stream reader does with the parts of an event."""

    ended: bool

    def is_other(self, payload: bytes, name: bytes) -> bool:
        """Return whether an event holds no object, such as an end or a sign of life. Raises ProviderFault."""
        ...

    def chunk(self, payload: bytes, name: bytes) -> Chunk | None:
        """Read an object. Raises ProviderFault."""
        ...


def add_several(
    reader: ObjectReader, payload: bytes, name: bytes, fault: ProviderFault, chunks: list[Chunk]
) -> None:
    """Add the chunks of an event that holds several objects. Raises `fault` if it does not."""
    parts = split_objects(payload) if fault.reason == "garbled" else []
    if parts in ([], [payload]):
        raise fault
    for part in parts:
        if reader.ended:
            return
        is_object = part[:1] == b"{" or not reader.is_other(part, name)
        if is_object and (chunk := reader.chunk(part, name)) is not None:
            chunks.append(chunk)


def may_end_empty(finish_reason: str | None, request: AnyRequest) -> bool:
    """Return whether an answer without content is honest.

    A content filter ended it, thinking used up its tokens, or it began with one of the stop sequences.
    """
    if finish_reason == "stop":
        return isinstance(request, ChatRequest) and bool(request.body.stop)
    return finish_reason in ("content_filter", "length")
