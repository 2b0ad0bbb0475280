"""Data model: requests, answers, targets, attempts. All modules may import it; it imports none of ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Annotated, Any, ClassVar, Protocol

import msgspec


class Outcome(StrEnum):
    """How a request ends: exactly one of these."""

    COMPLETE = "complete"
    DEGRADED = "degraded"  # a fallback answer
    REFUSED = "refused"  # invalid, over a limit or shed before an attempt; or a provider's 400
    FAILED = "failed"  # an honest error before the first token
    CUT = "cut"  # an honest error after the first token
    CANCELLED = "cancelled"  # the client disconnected


class Priority(IntEnum):
    """The priority class of a request in the queue. Lower values go first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2

    @property
    def label(self) -> str:
        """The name as settings and metrics write it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request. `key`: a hash of its API key, or "anonymous"; it separates caches, limits.

    `premium`: its requests are not counted against rate limits.
    """

    key: str = "anonymous"
    priority: Priority = Priority.NORMAL
    premium: bool = False


ANONYMOUS = Caller()


class Target(msgspec.Struct, frozen=True, cache_hash=True):
    """One model at one provider."""

    provider: str
    model: str

    @property
    def name(self) -> str:
        """`provider/model`, as settings, headers and metrics write it."""
        return f"{self.provider}/{self.model}"


class Message(msgspec.Struct):
    """One message of a conversation. Fields that the service does not read stay in `ChatRequest.fields`."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class StreamOptions(msgspec.Struct):
    """The `stream_options` of a chat request."""

    include_usage: bool | None = None


class ChatBody(msgspec.Struct):
    """The part of a chat completion request that the service reads; the rest passes through unread."""

    model: str
    messages: list[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    tools: list[dict[str, Any]] | None = None
    logprobs: bool | None = None
    store: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """A valid chat request. `fields`: every top-level field as it was received, unknown ones included."""

    id: str
    caller: Caller
    body: ChatBody
    fields: Mapping[str, msgspec.Raw]
    cache_allowed: bool = True
    languages: str = ""  # the Accept-Language header
    plain: bool = False  # to be sent without fields of our own
    json_by_prompt: bool = False  # no target has the mode that `response_format: json_object` asks for
    large: bool = False  # to be translated in steps, or it would hold up all others
    operation: ClassVar[str] = "chat"

    @property
    def stream(self) -> bool:
        """Whether the client wants server-sent events."""
        return bool(self.body.stream)

    @property
    def size(self) -> int:
        """The bytes of the request's content."""
        return memoryview(self.fields["messages"]).nbytes

    @property
    def has_side_effects(self) -> bool:
        """Whether the provider is to store the answer, so that a second attempt would store a second one."""
        return bool(self.body.store)

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for the usage chunk at the end of its stream."""
        options = self.body.stream_options
        return bool(options and options.include_usage)


class EmbedBody(msgspec.Struct):
    """The part of an embeddings request that the service reads.

    `input`: a text, or a list of texts, of token numbers, or of lists of token numbers.
    """

    model: str
    input: str | list[Any]
    encoding_format: str | None = None


class EmbedRequest(msgspec.Struct, frozen=True):
    """A valid embeddings request."""

    id: str
    caller: Caller
    body: EmbedBody
    fields: Mapping[str, msgspec.Raw]
    operation: ClassVar[str] = "embeddings"
    stream: ClassVar[bool] = False
    json_by_prompt: ClassVar[bool] = False
    large: ClassVar[bool] = False
    has_side_effects: ClassVar[bool] = False

    @property
    def size(self) -> int:
        """The bytes of the request's content."""
        return memoryview(self.fields["input"]).nbytes

    @property
    def count(self) -> int:
        """The number of requested vectors."""
        content = self.body.input
        return 1 if isinstance(content, str) or isinstance(content[0], int) else len(content)


AnyRequest = ChatRequest | EmbedRequest


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the provider counted them. `estimated`: as the service did, because the provider did not."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    estimated: bool = False


class Price(msgspec.Struct, frozen=True):
    """The price of tokens, in US dollars per million."""

    prompt: Annotated[float, msgspec.Meta(ge=0)]
    completion: Annotated[float, msgspec.Meta(ge=0)] = 0.0

    def of(self, usage: Usage) -> float:
        """Return the cost in US dollars."""
        return (usage.prompt_tokens * self.prompt + usage.completion_tokens * self.completion) / 1e6


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """One event of a stream. `raw` is ready for an OpenAI client; the service reads the other fields.

    `text`: all that the event says, where it differs only in its text from one before.
    """

    raw: bytes
    has_content: bool = False
    finish_reason: str | None = None
    usage: Usage | None = None
    text: str = ""


class Chunks(Protocol):
    """A streamed answer past its commit point."""

    @property
    def usage(self) -> Usage | None:
        """The provider's usage, once it has sent it."""
        ...

    async def read(self) -> list[Chunk]:
        """Return the chunks that are ready, at least one; none at the proper end. Raises GatewayError."""
        ...

    async def aclose(self) -> None:
        """Close the stream, at any time."""
        ...


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A complete JSON answer. `body`: a chat.completion object, or the object of an embeddings answer."""

    body: bytes
    usage: Usage | None = None


class AttemptRecord(msgspec.Struct, frozen=True):
    """One entry of the trail: an attempt at one target. Times are seconds since the request arrived."""

    target: str
    started_s: float
    ended_s: float
    reason: str  # "ok", or the failure: "http_530", "first_token_timeout", "connect_refused" ...
    status: int | None = None
    code: str = ""  # the provider's error code, as "1033" or "insufficient_quota"
    first_token_s: float | None = None
    maybe_billed: bool = False
    dropped: tuple[str, ...] = ()  # request fields that the target's dialect does not support
    kind: str = "first"  # why it was made: or "retry", "fresh", "key", "plain", "hedge", "probe"
    usage: Usage | None = None  # tokens that it used, or may have used
    cost_usd: float | None = None  # None without a price
    tried: bool = True  # False: passed over, nothing was sent

    @property
    def ok(self) -> bool:
        """Whether the attempt gave the complete answer."""
        return self.reason == "ok"
