"""The Anthropic Messages dialect: translates answers to OpenAI's format (requests: anthropic_request.py).

text, thinking, tool_use blocks -> content, reasoning_content, tool_calls
content_block_delta ...         -> chat.completion.chunk; complete only after a stop reason and message_stop
stop_reason, usage              -> finish_reason, usage (cache writes and cache reads count as prompt tokens)
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from dub5.service import clock
from dub5.service.config.settings import NO_OVERRIDES, DialectOverrides
from dub5.service.model import ChatRequest, Chunk, EmbedRequest, Reply, Usage
from dub5.service.providers.anthropic_request import OLD_VERSION, translate
from dub5.service.providers.base import (
    EncodedRequest,
    ProviderFault,
    Unsupported,
    add_several,
    cut_fault,
    event_fault,
    may_end_empty,
    refusal_or,
    status_fault,
    trail_names,
)
from dub5.service.providers.fields import apply_overrides, overrides_in_steps
from dub5.service.providers.finish import finish_meaning
from dub5.service.providers.loose import decode_loosely
from dub5.service.providers.openai import DONE, json_headers, sse_event
from dub5.service.providers.quota_left import ANTHROPIC_QUOTA
from dub5.service.providers.slices import Steps, finish
from dub5.service.providers.sse import ANSWER_NAMES, BOM, EventTooLong, SseDecoder
from dub5.service.providers.text_form import FORMS_MAX, TextForm, learn
from dub5.service.providers.usage import (
    asked_tokens,
    estimate,
    prompt_tokens,
    token_count,
    usage_json,
)
from dub5.service.tokens import ascii_chars

ANSWER_EVENTS = frozenset(
    ("message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta")
    + ("message_stop", "error")
)
PIECES = frozenset(("delta", "content_block", "text", "thinking", "partial_json"))  # they hold the answer


class _Block(Struct):
    """A content block, or its delta."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: object = None
    partial_json: str | None = None
    stop_reason: object = None


class _Tokens(Struct):
    """Token counts, read leniently: an odd count must not cost a good answer."""

    input_tokens: object = None
    output_tokens: object = None
    cache_creation_input_tokens: object = None
    cache_read_input_tokens: object = None


class _Message(Struct):
    id: str | None = None
    model: str | None = None
    content: list[_Block] | None = None
    stop_reason: object = None
    usage: _Tokens | None = None
    type: object = ""


class _Kind(Struct):
    type: object = None
    error: object = None


class _Event(Struct):
    type: str = ""
    index: int | None = 0
    message: _Message | None = None
    delta: _Block | None = None
    content_block: _Block | None = None
    usage: _Tokens | None = None


_MESSAGE = msgspec.json.Decoder(_Message)
_EVENT = msgspec.json.Decoder(_Event)
_KIND = msgspec.json.Decoder(_Kind)


class AnthropicDialect:
    """The dialect of `/v1/messages`."""

    path = "/v1/messages"
    models_path = "/v1/models"
    embeds = False
    quota_headers = ANTHROPIC_QUOTA

    def __init__(
        self,
        event_bytes_max: int,
        api_version: str | None,
        max_tokens: int,
        overrides: DialectOverrides = NO_OVERRIDES,
        output_tokens: Mapping[str, int] = {},
        context_tokens: Mapping[str, int] = {},
    ) -> None:
        self.event_bytes_max = event_bytes_max
        self.api_version = api_version or OLD_VERSION
        self.max_tokens = max_tokens
        self.overrides = overrides
        self.output_tokens = output_tokens
        self.context_tokens = context_tokens

    def _answer_tokens_max(self, request: ChatRequest, model: str) -> int:
        """Return how long an answer may be, as the format requires a bound: as long as the model's can be."""
        longest, context = self.output_tokens.get(model, self.max_tokens), self.context_tokens.get(model)
        if context is None:
            return longest
        return max(1, min(longest, context - prompt_tokens(request)))

    def encode(self, request: ChatRequest, model: str, key: str | None) -> EncodedRequest:
        return finish(self.encode_in_steps(request, model, key))

    def encode_in_steps(self, request: ChatRequest, model: str, key: str | None) -> Steps[EncodedRequest]:
        fields, dropped = (
            (yield from overrides_in_steps(request.fields, self.overrides))
            if request.large
            else apply_overrides(request.fields, self.overrides)
        )
        longest = self._answer_tokens_max(request, model)
        body, left_out = yield from translate(fields, model, self.api_version, longest)
        return EncodedRequest(
            self.path,
            msgspec.json.encode(body),
            self.headers(key),
            trail_names(dropped + left_out),
            None if asked_tokens(request) else longest,
        )

    def answer(self, body: bytes, request: ChatRequest) -> Reply:
        body = body.removeprefix(BOM)
        try:
            message = _MESSAGE.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            message = decode_loosely(body, _Message, PIECES | {"content"})
        if message.type == "error":
            raise event_fault(body)
        finish = finish_meaning(message.stop_reason, "error_in_answer")
        if finish is None:
            raise ProviderFault("truncated") if message.content else refusal_or("truncated", body)
        parts = _message_parts(message.content or [])
        if not any(parts.values()) and not may_end_empty(finish, request):
            raise ProviderFault("empty_answer")
        usage = _usage(message.usage) or estimate(prompt_tokens(request), ascii_chars(str(parts)))
        return Reply(_completion(message, parts, finish, _usage_object(usage, message.usage)), usage)

    def stream(self, request: ChatRequest, model: str) -> "AnthropicStream":
        return AnthropicStream(request, model, self.event_bytes_max)

    def encode_embeddings(self, request: EmbedRequest, model: str, key: str | None) -> EncodedRequest:
        raise Unsupported("input")

    def embeddings(self, body: bytes, request: EmbedRequest) -> Reply:
        raise ProviderFault("garbled")

    def fault(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderFault:
        return status_fault(status, headers, body)

    def headers(self, key: str | None) -> dict[str, str]:
        """Return the headers of a call."""
        headers = {**self.overrides.headers, **json_headers(None), "anthropic-version": self.api_version}
        if key is not None and self.api_version == OLD_VERSION:
            headers["x-api-key"] = key
        elif key is not None:
            headers["authorization"] = f"Bearer {key}"
        return headers


class AnthropicStream:
    """A stream reader: Messages events in, chat completion chunks out."""

    def __init__(self, request: ChatRequest, model: str, event_bytes_max: int) -> None:
        self.finished = False
        self.ended = False
        self.fault: ProviderFault | None = None
        self._has_stop_reason = False
        self._unreadable: ProviderFault | None = None  # an event that was skipped: it may explain a bad end
        self._sse = SseDecoder(event_bytes_max)
        self._request = request
        self._head = {"id": "chatcmpl-" + request.id, "created": int(clock.wall()), "model": model}
        self._tokens = _Tokens()
        self._answer_chars = 0
        self._calls: dict[int, int] = {}  # index of a tool_use block -> index of the tool call
        self._without_arguments: set[int] = set()  # tool_use blocks whose first argument has not come yet
        self._event_bytes_max = event_bytes_max
        self._form: TextForm | None = None  # of the last text
        self._forms_left = FORMS_MAX
        self._around = (b"", b"")  # the text of a chunk in the form that it is translated to

    def feed(self, data: bytes) -> list[Chunk]:
        form = self._form
        if form is not None and self._sse.between_events:
            if text := form.text(data):
                return [self._same_form(text)]
            if events := form.several(data):
                return [self._same_form(text) for _, text in events]
        chunks: list[Chunk] = []
        try:
            for name, payload in self._sse.feed(data):
                if self.ended:
                    break
                try:
                    if payload[:1] != b"{" and self.is_other(payload, name):
                        continue
                    if (chunk := self.chunk(payload, name)) is not None:
                        chunks.append(chunk)
                except ProviderFault as fault:
                    add_several(self, payload, name, fault, chunks)
        except EventTooLong:
            self.fault = ProviderFault("event_too_long")
        except ProviderFault as fault:
            self.fault = fault
        return chunks

    def end(self) -> list[Chunk]:
        if not self.finished:
            raise self._unreadable or cut_fault(self._sse.rest())
        usage = self.usage_so_far()
        raw = self._frame([], _usage_object(usage, self._tokens)) if self._request.wants_usage else b""
        return [Chunk(raw, usage=usage)]

    def usage_so_far(self) -> Usage:
        counted = _usage(self._tokens)
        if counted is not None and self.finished:
            return counted
        guess = estimate(prompt_tokens(self._request), self._answer_chars)
        if counted is None:
            return guess
        completion = max(
            counted.completion_tokens, guess.completion_tokens
        )  # Anthropic counts them at the end
        return Usage(counted.prompt_tokens, completion, counted.prompt_tokens + completion, estimated=True)

    def is_other(self, payload: bytes, name: bytes) -> bool:
        """Return whether an event holds no object, such as a sign of life, or another dialect's end."""
        payload = payload.strip()
        if payload[:1] == b"{":
            return False
        if name == b"error":
            raise event_fault(payload)
        if any(name in payload for name in ANSWER_NAMES):
            raise ProviderFault("garbled")  # words, in a frame of another form
        if payload and payload[:1] != b":" and payload[:6] != DONE and self._unreadable is None:
            self._unreadable = refusal_or("garbled" if payload[:1] == b"[" else "not_json", payload)
        return True

    def chunk(self, payload: bytes, name: bytes) -> Chunk | None:
        try:
            event = _EVENT.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if kind := _other_kind(payload):
                self._note_other(payload, name, kind)
                return None
            event = decode_loosely(payload, _Event, PIECES)
        index = event.index or 0
        match event.type:
            case "message_start" if event.message is not None:
                self._form = None
                self._count(event.message.usage)
                self._head["model"] = event.message.model or self._head["model"]
                return self._delta({"role": "assistant", "content": ""})
            case "content_block_start" if event.content_block is not None:
                if event.content_block.type == "tool_use":
                    return self._call(index, event.content_block)
                return self._content(index, event.content_block)
            case "content_block_delta" if event.delta is not None:
                if self._forms_left and (event.delta.text or event.delta.thinking):
                    self._learn(event.delta, payload, name)
                return self._content(index, event.delta)
            case "content_block_stop" if index in self._without_arguments:
                # OpenAI clients expect an object as arguments, even for a tool without parameters.
                return self._arguments(index, "{}")
            case "message_delta":
                self._count(event.usage)
                reason = event.delta.stop_reason if event.delta else None
                if (finish := finish_meaning(reason, "error_event")) is not None:
                    self._has_stop_reason = True
                    return self._delta({}, finish)
            case "message_stop":
                self.finished, self.ended, self._form = self._has_stop_reason, True, None
            case "error":
                raise event_fault(payload)
            case kind if kind not in ANSWER_EVENTS:
                self._note_other(payload, name, kind)
        return None

    def _note_other(self, payload: bytes, name: bytes, kind: str) -> None:
        """Look at an event of another form: it may explain a bad end. Raises ProviderFault for an error."""
        if name == b"error":
            raise event_fault(payload)
        if kind == "ping" or self._unreadable is not None:
            return
        fault = refusal_or("garbled", payload)
        if fault.message and _KIND.decode(payload).error:
            raise fault
        if fault.message or not kind:
            self._unreadable = fault

    def _content(self, index: int, delta: _Block) -> Chunk | None:
        if delta.text:
            self._answer_chars += ascii_chars(delta.text)
            return self._delta({"content": delta.text}, content=True)
        if delta.thinking:
            self._answer_chars += ascii_chars(delta.thinking)
            return self._delta({"reasoning_content": delta.thinking}, content=True)
        if delta.partial_json and index in self._calls:
            return self._arguments(index, delta.partial_json)
        return None

    def _learn(self, delta: _Block, payload: bytes, name: bytes) -> None:
        """Learn the form of an event with a text, and that of its translation."""
        field, translated = ("text", "content") if delta.text else ("thinking", "reasoning_content")
        text_of = lambda other: getattr(_EVENT.decode(other).delta, field)
        self._forms_left -= 1
        line = b"event: %s\n" % name if name else b""
        form = learn(line + b"data: ", payload, field, self._event_bytes_max, text_of)
        if form is not None:
            chunk = self._delta({translated: ""}, content=True)
            before, key, after = chunk.raw.rpartition(b'"%s":' % translated.encode())
            self._form, self._around = form, (before + key, after.removeprefix(b'""'))

    def _same_form(self, text: str) -> Chunk:
        """Return the chunk of an event in the form that was learned."""
        before, after = self._around
        self._answer_chars += len(text) if text.isascii() else ascii_chars(text)
        self._has_stop_reason = False  # it was none: the answer goes on
        return Chunk(before + msgspec.json.encode(text) + after, True, None, None, text)

    def _call(self, index: int, block: _Block) -> Chunk:
        """Return the first chunk of a tool call; its arguments mostly follow piece by piece."""
        number = self._calls.setdefault(index, len(self._calls))
        arguments = msgspec.json.encode(block.input).decode() if block.input else ""
        if not arguments:
            self._without_arguments.add(index)
        self._answer_chars += ascii_chars(block.name or "") + ascii_chars(arguments)
        function = {"name": block.name or "", "arguments": arguments}
        call = {"index": number, "id": block.id or "", "type": "function", "function": function}
        return self._delta({"tool_calls": [call]}, content=True)

    def _arguments(self, index: int, piece: str) -> Chunk:
        self._without_arguments.discard(index)
        self._answer_chars += ascii_chars(piece)
        call = {"index": self._calls[index], "function": {"arguments": piece}}
        return self._delta({"tool_calls": [call]}, content=True)

    def _delta(self, delta: dict[str, Any], finish: str | None = None, content: bool = False) -> Chunk:
        if content:
            self._has_stop_reason = False  # it was none: the answer goes on
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return Chunk(self._frame([choice], None), content, finish)

    def _frame(self, choices: list[dict[str, Any]], usage: object) -> bytes:
        body = {**self._head, "object": "chat.completion.chunk", "choices": choices, "usage": usage}
        return sse_event(msgspec.json.encode(body))

    def _count(self, counted: _Tokens | None) -> None:
        """Update the token counts: the later event holds the final ones, and an omitted count stays."""
        for name in _Tokens.__struct_fields__ if counted is not None else ():
            if token_count(getattr(counted, name)):
                setattr(self._tokens, name, getattr(counted, name))


def _other_kind(payload: bytes) -> str:
    """Return the type of an event of an unknown shape, if no part of an answer has it. Raises nothing."""
    try:
        kind = _KIND.decode(payload).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return kind if isinstance(kind, str) and kind not in ANSWER_EVENTS else ""


def _usage(counted: _Tokens | None) -> Usage | None:
    """Return the usage in OpenAI's terms (the prompt includes cached tokens); None without a count."""
    if counted is None:
        return None
    cached = (counted.cache_creation_input_tokens, counted.cache_read_input_tokens)
    prompt = sum(map(token_count, (counted.input_tokens, *cached)))
    completion = token_count(counted.output_tokens)
    return Usage(prompt, completion, prompt + completion) if prompt or completion else None


def _usage_object(usage: Usage, counted: _Tokens | None) -> dict[str, Any]:
    """Return OpenAI's usage object, with the tokens that Anthropic's cache served."""
    cached = token_count(counted.cache_read_input_tokens) if counted else 0
    return usage_json(usage) | ({"prompt_tokens_details": {"cached_tokens": cached}} if cached else {})


def _message_parts(blocks: list[_Block]) -> dict[str, Any]:
    """Return text, reasoning and tool calls as the fields of an OpenAI message."""
    parts: dict[str, Any] = {"content": "".join(b.text or "" for b in blocks if b.type == "text") or None}
    if thoughts := "".join(b.thinking or "" for b in blocks if b.type == "thinking"):
        parts["reasoning_content"] = thoughts
    calls = [
        {
            "id": b.id or "",
            "type": "function",
            "function": {"name": b.name or "", "arguments": msgspec.json.encode(b.input or {}).decode()},
        }
        for b in blocks
        if b.type == "tool_use"
    ]
    return parts | ({"tool_calls": calls} if calls else {})


def _completion(message: _Message, parts: dict[str, Any], finish: str, usage: dict[str, Any]) -> bytes:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "refusal": None, **parts},
        "logprobs": None,
        "finish_reason": finish,
    }
    return msgspec.json.encode(
        {
            "id": "chatcmpl-" + (message.id or ""),
            "object": "chat.completion",
            "created": int(clock.wall()),
            "model": message.model or "",
            "choices": [choice],
            "usage": usage,
        }
    )
