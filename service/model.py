"""The nouns. Everything may import them; they import nothing of ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Annotated, Any, ClassVar, Protocol

import msgspec


class Outcome(StrEnum):
    """How a request ends: exactly one of these."""

    COMPLETE = "complete"
    DEGRADED = "degraded"  # a labelled substitute
    REFUSED = (
        "refused"  # never tried: invalid, over a limit, overload; or a provider's 400 that is the caller's
    )
    FAILED = "failed"  # an honest error before the first token
    CUT = "cut"  # an honest error after it
    CANCELLED = "cancelled"  # the client left


class Priority(IntEnum):
    """Who goes first when there is not room for all."""

    HIGH = 0
    NORMAL = 1
    LOW = 2

    @property
    def label(self) -> str:
        """As settings and metrics write it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `key` is a hash of the inbound key, or "anonymous": caches and limits are kept apart by it."""

    key: str = "anonymous"
    priority: Priority = Priority.NORMAL


class Target(msgspec.Struct, frozen=True, cache_hash=True):
    """One model at one provider."""

    provider: str
    model: str

    @property
    def name(self) -> str:
        """`provider/model`, as settings, headers and metrics write it."""
        return f"{self.provider}/{self.model}"


class Message(msgspec.Struct):
    """One turn of a conversation. Fields we do not look at stay in `ChatRequest.fields`."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class StreamOptions(msgspec.Struct):
    """What a client wants to know of its stream."""

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
    """A valid request. `fields` holds every top-level field as it came, also those nobody here knows."""

    id: str
    caller: Caller
    body: ChatBody
    fields: Mapping[str, msgspec.Raw]
    cache_allowed: bool = True
    languages: str = ""  # the Accept-Language header
    operation: ClassVar[str] = "chat"

    @property
    def stream(self) -> bool:
        """Whether the client wants server-sent events."""
        return bool(self.body.stream)

    @property
    def size(self) -> int:
        """The bytes of what is asked."""
        return memoryview(self.fields["messages"]).nbytes

    @property
    def has_side_effects(self) -> bool:
        """Whether the provider is to keep the answer: then asking twice leaves two."""
        return bool(self.body.store)

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for the usage chunk at the end of its stream."""
        options = self.body.stream_options
        return bool(options and options.include_usage)


class EmbedBody(msgspec.Struct):
    """The part of an embeddings request that the service reads. `input`: a text, or a list of texts, of token numbers,
    or of lists of those."""

    model: str
    input: str | list[Any]
    encoding_format: str | None = None


class EmbedRequest(msgspec.Struct, frozen=True):
    """A valid request for embeddings."""

    id: str
    caller: Caller
    body: EmbedBody
    fields: Mapping[str, msgspec.Raw]
    operation: ClassVar[str] = "embeddings"
    stream: ClassVar[bool] = False
    has_side_effects: ClassVar[bool] = False

    @property
    def size(self) -> int:
        """The bytes of what is asked."""
        return memoryview(self.fields["input"]).nbytes

    @property
    def count(self) -> int:
        """How many vectors are wanted."""
        given = self.body.input
        return 1 if isinstance(given, str) or isinstance(given[0], int) else len(given)


AnyRequest = ChatRequest | EmbedRequest


class Usage(msgspec.Struct, frozen=True):
    """Tokens, as the provider counted them; `estimated`: as we did, because it did not."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    estimated: bool = False


class Price(msgspec.Struct, frozen=True):
    """What tokens cost, in US dollars per million."""

    prompt: Annotated[float, msgspec.Meta(ge=0)]
    completion: Annotated[float, msgspec.Meta(ge=0)] = 0.0

    def of(self, usage: Usage) -> float:
        """Dollars."""
        return (usage.prompt_tokens * self.prompt + usage.completion_tokens * self.completion) / 1e6


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """One event of an answer: `raw` is ready to go to an OpenAI client, the rest is what we had to look at."""

    raw: bytes
    has_content: bool = False
    finish_reason: str | None = None
    usage: Usage | None = None


class Chunks(Protocol):
    """A streamed answer past its commit point."""

    @property
    def usage(self) -> Usage | None:
        """What the provider counted, once it has said so."""
        ...

    async def read(self) -> list[Chunk]:
        """The chunks that are ready, at least one; none at the proper end. Raises GatewayError."""
        ...

    async def aclose(self) -> None:
        """Lets go of it, at any moment."""
        ...


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A whole JSON answer, `body` being a chat.completion object."""

    body: bytes
    usage: Usage | None = None


class AttemptRecord(msgspec.Struct, frozen=True):
    """One line of the trail: a try at one target, in seconds since the request came in."""

    target: str
    started_s: float
    ended_s: float
    reason: str  # "ok", or why not: "http_530", "first_token_timeout", "connect_refused" ...
    status: int | None = None
    code: str = ""  # the provider's own, as "1033" or "insufficient_quota"
    first_token_s: float | None = None
    maybe_billed: bool = False
    dropped: tuple[str, ...] = ()  # request fields this target's dialect does not know
    kind: str = "first"  # or "retry", "fresh", "key", "hedge", "probe": why it was made
    usage: Usage | None = None  # tokens that it used, or may have
    cost_usd: float | None = None  # of those; None without a price
    tried: bool = True  # false: passed over, nothing was sent

    @property
    def ok(self) -> bool:
        """Whether it gave the whole answer."""
        return self.reason == "ok"
