"""What a dialect is: pure translation between our nouns and one provider's bytes.

ChatRequest --encode--> EncodedRequest --(attempt/run, wire)--> status, headers, body
200 + JSON  --answer--> Reply           200 + SSE --stream().feed--> [Chunk] ... .end()
otherwise   --fault---> ProviderFault   (raised, or returned: what attempt/classify.py reads)
"""

import re
from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from dub5.service import VERSION, clock
from dub5.service.model import AnyRequest, ChatRequest, Chunk, EmbedRequest, Reply, Usage
from dub5.service.providers.error_body import read_error
from dub5.service.providers.retry_after import retry_after_s

USER_AGENT = f"dub5/{VERSION}"
MESSAGE_CHARS_MAX = 300
DROPPED_MAX = 20
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


class ProviderFault(Exception):
    """A provider answered, and it was not an answer.

    `reason` is a short name from a closed set (docs/reliability.md); `message` is the provider's own sentence,
    shortened, and goes to a caller only where the fault is the caller's.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        code: str = "",
        message: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.code = code
        self.message = message[:MESSAGE_CHARS_MAX]
        self.retry_after_s = retry_after_s


class Unsupported(Exception):
    """This dialect cannot carry a field of the request; another target may."""

    def __init__(self, param: str) -> None:
        super().__init__(param)
        self.param = param


class EncodedRequest(Struct, frozen=True):
    """A request in a provider's own words. `dropped` names the fields it has no word for."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    dropped: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"EncodedRequest({self.path})"


def trail_names(dropped: list[str]) -> tuple[str, ...]:
    """Names for the trail, which is kept and stands in a header: few, short and harmless, whatever the caller made
    up."""
    if not dropped:
        return ()
    return tuple(_UNSAFE.sub("?", name[:64]) for name in list(dict.fromkeys(dropped))[:DROPPED_MAX])


class StreamReader(Protocol):
    """Reads one stream of one dialect."""

    finished: bool  # the provider has said that the answer is whole
    ended: bool  # nothing more is to come
    fault: ProviderFault | None  # what came after the last good chunk, unless the answer was whole by then

    def feed(self, data: bytes) -> list[Chunk]:
        """The good chunks that `data` completes; then look at `fault`."""
        ...

    def end(self) -> list[Chunk]:
        """The bytes are over: last chunks to pass on; by now one of all chunks has told the usage. Raises
        ProviderFault("truncated") unless the answer is whole."""
        ...

    def usage_so_far(self) -> Usage:
        """The tokens of a stream that may not be whole: as the provider counted them, or estimated."""
        ...


class Dialect(Protocol):
    """One provider's way of speaking."""

    embeds: bool  # whether it has embeddings at all

    def encode(self, request: ChatRequest, model: str, key: str | None) -> EncodedRequest:
        """The request for `model`, authenticated with `key`. Raises Unsupported."""
        ...

    def answer(self, body: bytes, request: ChatRequest) -> Reply:
        """A whole answer as a chat.completion, with usage. Raises ProviderFault if it is none."""
        ...

    def stream(self, request: ChatRequest, model: str) -> StreamReader:
        """A reader for one streamed answer."""
        ...

    def encode_embeddings(self, request: EmbedRequest, model: str, key: str | None) -> EncodedRequest:
        """The request for vectors. Raises Unsupported."""
        ...

    def embeddings(self, body: bytes, request: EmbedRequest) -> Reply:
        """As many vectors as were wanted, as OpenAI's list of them. Raises ProviderFault."""
        ...

    def fault(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderFault:
        """What a status other than 200 means."""
        ...


def encode_request(dialect: Dialect, request: AnyRequest, model: str, key: str | None) -> EncodedRequest:
    """Either kind of request, encoded. Raises Unsupported."""
    if isinstance(request, EmbedRequest):
        return dialect.encode_embeddings(request, model, key)
    return dialect.encode(request, model, key)


def decode_reply(dialect: Dialect, request: AnyRequest, body: bytes) -> Reply:
    """The JSON answer to either kind of request. Raises ProviderFault."""
    if isinstance(request, EmbedRequest):
        return dialect.embeddings(body, request)
    return dialect.answer(body, request)


def status_fault(status: int, headers: Mapping[str, str], body: bytes) -> ProviderFault:
    """A fault from a status and whatever body came with it: JSON of any known shape, text or HTML."""
    code, message = read_error(body)
    return ProviderFault(
        f"http_{status}",
        status=status,
        code=code,
        message=message,
        retry_after_s=retry_after_s(headers, message, clock.wall()),
    )
