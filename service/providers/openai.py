"""The OpenAI dialect, for OpenAI and compatible providers. It is our own format, so chunks pass unchanged."""

from collections.abc import Mapping

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from dub5.service.config.settings import NO_OVERRIDES, DialectOverrides
from dub5.service.model import ChatRequest, Chunk, EmbedRequest, Reply, Usage
from dub5.service.providers.base import (
    USER_AGENT,
    EncodedRequest,
    ProviderFault,
    event_fault,
    may_end_empty,
    status_fault,
    trail_names,
)
from dub5.service.providers.embeddings import reply_with_vectors
from dub5.service.providers.fields import apply_overrides
from dub5.service.providers.sse import EventTooLong, SseDecoder
from dub5.service.providers.usage import (
    add_usage,
    calls_chars,
    estimate,
    parse_usage,
    prompt_chars,
    text_chars,
    usage_json,
)

DONE = b"[DONE]"
WITH_USAGE = Raw(b'{"include_usage":true}')


class _Part(Struct):
    content: str | list[object] | None = None
    refusal: str | None = None
    tool_calls: list[object] | None = None
    function_call: object = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    def has_content(self) -> bool:
        return bool(
            self.content
            or self.tool_calls
            or self.refusal
            or self.function_call
            or self.reasoning_content
            or self.reasoning
        )

    def chars(self) -> int:
        """Count the characters, for an estimate of the tokens."""
        chars = text_chars(self.content)
        for more in (self.refusal, self.reasoning_content or self.reasoning):
            if more:
                chars += len(more)
        return chars + calls_chars(self.tool_calls) if self.tool_calls else chars


class _Choice(Struct):
    index: int = 0
    delta: _Part | None = None
    message: _Part | None = None
    finish_reason: str | None = None


class _Body(Struct):
    choices: list[_Choice] | UnsetType | None = UNSET
    usage: object = None  # read leniently: odd counts must not cost a good answer
    error: object = None


_BODY = msgspec.json.Decoder(_Body)
_OPTIONS = msgspec.json.Decoder(dict[str, Raw])


class OpenAIDialect:
    """The dialect of `/chat/completions`."""

    path = "/chat/completions"
    embeddings_path = "/embeddings"
    embeds = True

    def __init__(self, event_bytes_max: int, overrides: DialectOverrides = NO_OVERRIDES) -> None:
        self.event_bytes_max = event_bytes_max
        self.overrides = overrides

    def encode(self, request: ChatRequest, model: str, key: str | None) -> EncodedRequest:
        fields, dropped = apply_overrides(request.fields, self.overrides)
        fields["model"] = Raw(msgspec.json.encode(model))
        if request.stream and "stream_options" not in self.overrides.drops:
            fields["stream_options"] = _with_include_usage(fields.get("stream_options"))
        return EncodedRequest(self.path, msgspec.json.encode(fields), self.headers(key), trail_names(dropped))

    def headers(self, key: str | None) -> dict[str, str]:
        """Return the headers of a call."""
        return {**self.overrides.headers, **json_headers(key)}

    def answer(self, body: bytes, request: ChatRequest) -> Reply:
        parsed = decode_body(body)
        if not parsed.choices:
            raise ProviderFault("empty_answer")
        complete, has_content = True, may_end_empty(parsed.choices[0].finish_reason, request)
        for choice in parsed.choices:
            if choice.finish_reason == "error":
                raise ProviderFault("error_in_answer")
            complete = complete and bool(choice.finish_reason)  # "" does not count as a reason
            has_content = has_content or (choice.message is not None and choice.message.has_content())
        if not has_content:
            raise ProviderFault("empty_answer")
        if not complete:
            raise ProviderFault("truncated")
        if (usage := parse_usage(parsed.usage)) is not None:
            return Reply(body, usage)
        answer_chars = sum(c.message.chars() for c in parsed.choices if c.message)
        usage = estimate(prompt_chars(request), answer_chars)
        return Reply(add_usage(body, usage), usage)

    def stream(self, request: ChatRequest, model: str) -> "OpenAIStream":
        return OpenAIStream(request, self.event_bytes_max)

    def encode_embeddings(self, request: EmbedRequest, model: str, key: str | None) -> EncodedRequest:
        fields, dropped = apply_overrides(request.fields, self.overrides)
        fields["model"] = Raw(msgspec.json.encode(model))
        return EncodedRequest(
            self.embeddings_path, msgspec.json.encode(fields), self.headers(key), trail_names(dropped)
        )

    def embeddings(self, body: bytes, request: EmbedRequest) -> Reply:
        return reply_with_vectors(body, request)

    def fault(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderFault:
        return status_fault(status, headers, body)


class OpenAIStream:
    """A stream reader that relays chunks unchanged, except a usage chunk that the client did not request."""

    def __init__(self, request: ChatRequest, event_bytes_max: int) -> None:
        self.finished = False
        self.ended = False
        self.fault: ProviderFault | None = None
        self._request = request
        self._keep_usage = request.wants_usage
        self._usage: Usage | None = None
        self._answer_chars = 0
        self._last = b""
        self._sse = SseDecoder(event_bytes_max)
        self._choices = request.body.n or 1
        self._seen: set[int] = set()
        self._finished_choices: set[int] = set()  # choices that have a finish reason

    def feed(self, data: bytes) -> list[Chunk]:
        chunks: list[Chunk] = []
        try:
            for _, payload in self._sse.feed(data):
                if self.ended or payload[:6] == DONE:
                    self.ended = True
                    break
                if (chunk := self.chunk(payload)) is not None:
                    chunks.append(chunk)
        except EventTooLong:
            self.fault = ProviderFault("event_too_long")
        except ProviderFault as fault:
            self.fault = fault
        if self.fault is not None and self.finished:
            self.fault, self.ended = None, True  # the answer is complete: the fault came after it
        return chunks

    def end(self) -> list[Chunk]:
        if not self.finished:
            raise ProviderFault("truncated")
        if self._usage is not None:
            return []
        self._usage = self.usage_so_far()
        return [Chunk(self.usage_chunk(self._usage) if self._keep_usage else b"", usage=self._usage)]

    def usage_so_far(self) -> Usage:
        return self._usage or estimate(prompt_chars(self._request), self._answer_chars)

    def usage_chunk(self, usage: Usage) -> bytes:
        """Build the chunk of a stream that holds only its usage."""
        head = _OPTIONS.decode(self._last)  # as Raw: an unread field may hold an invalid value such as 1e999
        return sse_event(msgspec.json.encode({**head, "choices": [], "usage": usage_json(usage)}))

    def chunk(self, payload: bytes) -> Chunk | None:
        """Decode one event to a chunk; None if it is not for the client. Raises ProviderFault."""
        parsed = decode_body(payload)
        finish, content = None, False
        for choice in parsed.choices or ():
            if choice.delta is not None and choice.delta.has_content():
                content = True
                self._answer_chars += choice.delta.chars()
            if choice.finish_reason == "error":
                raise ProviderFault("error_event")
            self._seen.add(choice.index)
            if choice.finish_reason:  # some servers write "" into every chunk
                finish = choice.finish_reason
                self._finished_choices.add(choice.index)
        if finish or self.finished:  # a choice may begin after the end of another
            all_finished = self._finished_choices == self._seen
            self.finished = all_finished and len(self._finished_choices) >= self._choices
        if parsed.choices:
            self._last = payload
        usage = None
        if parsed.usage is not None:
            usage = parse_usage(parsed.usage)
            self._usage = usage or self._usage
        if not parsed.choices and parsed.usage is not None and (usage is None or not self._keep_usage):
            return Chunk(b"", usage=usage)
        return Chunk(sse_event(payload), content, finish, usage)


def decode_body(body: bytes) -> _Body:
    """Decode a completion or a chunk. Raises ProviderFault for an error or an unknown shape."""
    try:
        parsed = _BODY.decode(body)
        if not body.isascii():
            body.decode()  # msgspec does not check the strings that it skips; clients will
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if body[:1] == b"[" and (fault := event_fault(body)).message:  # a list of errors: Gemini
            raise fault from None
        raise ProviderFault("not_json" if body[:1] not in (b"{", b"[") else "garbled") from None
    if parsed.error is not None:
        raise event_fault(body)
    if parsed.choices is UNSET:
        raise ProviderFault("garbled")
    return parsed


def sse_event(payload: bytes) -> bytes:
    """Encode a payload as one server-sent event."""
    if b"\n" in payload:
        payload = payload.replace(b"\n", b"\ndata: ")
    return b"data: " + payload + b"\n\n"


def sse_payload(raw: bytes) -> bytes:
    """Return the payload that `sse_event` encoded."""
    return raw[len(b"data: ") : -2].replace(b"\ndata: ", b"\n")


def json_headers(key: str | None) -> dict[str, str]:
    """Return the headers of a JSON call, authenticated with `key`."""
    headers = {"content-type": "application/json", "user-agent": USER_AGENT}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    return headers


def _with_include_usage(options: Raw | None) -> Raw:
    """Return the client's stream options with `include_usage` set."""
    if options is None:
        return WITH_USAGE
    try:
        given = _OPTIONS.decode(options)
    except (msgspec.DecodeError, UnicodeDecodeError):  # null
        return WITH_USAGE
    return Raw(msgspec.json.encode({**given, "include_usage": Raw(b"true")}))
