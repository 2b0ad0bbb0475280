"""Anthropic Messages, translated both ways.

messages, system turns    -> system + alternating user/assistant turns
content_block_delta ...   -> chat.completion.chunk; whole only after message_stop
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from service import clock
from service.chat import ChatRequest, Chunk, Message, Reply, Usage
from service.providers.base import Call, ProviderFault, Unsupported, named, status_fault
from service.providers.error_body import read_error
from service.providers.openai import TOKENS_MAX, bearer, frame
from service.providers.sse import EventTooLong, SseDecoder

OLD_VERSION = "2023-06-01"
FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
TRANSLATED = frozenset(
    ("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "stop")
    + ("temperature", "top_p", "n")
)
CANNOT = ("tools", "functions", "response_format", "logprobs")  # leaving these out would change the answer
NOTHING: tuple[object, ...] = (None, False, [], {"type": "text"})
SAMPLING = ("temperature", "top_p")  # answered with 400 by versions after OLD_VERSION


class _Text(Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""
    stop_reason: str | None = None


class _Tokens(Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Message(Struct):
    id: str = ""
    model: str = ""
    content: list[_Text] | None = None
    stop_reason: str | None = None
    usage: _Tokens | None = None
    type: str = ""


class _Event(Struct):
    type: str = ""
    message: _Message | None = None
    delta: _Text | None = None
    content_block: _Text | None = None
    usage: _Tokens | None = None


_MESSAGE = msgspec.json.Decoder(_Message)
_EVENT = msgspec.json.Decoder(_Event)


class Anthropic:
    """The dialect of `/v1/messages`."""

    path = "/v1/messages"

    def __init__(self, event_bytes_max: int, api_version: str | None, max_tokens: int) -> None:
        self.event_bytes_max = event_bytes_max
        self.api_version = api_version or OLD_VERSION
        self.max_tokens = max_tokens

    def encode(self, request: ChatRequest, model: str, key: str | None) -> Call:
        body = request.body
        for param in CANNOT:
            if param in request.fields and _decoded(request.fields[param]) not in NOTHING:
                raise Unsupported(param)
        if (body.n or 1) != 1:
            raise Unsupported("n")
        dropped = [f for f, raw in request.fields.items() if f not in TRANSLATED and bytes(raw) != b"null"]
        call: dict[str, Any] = {
            "model": model,
            "max_tokens": body.max_completion_tokens or body.max_tokens or self.max_tokens,
            "messages": _turns(body.messages),
        }
        if system := "\n\n".join(_text(m) for m in body.messages if m.role in ("system", "developer")):
            call["system"] = system
        if body.stop:
            call["stop_sequences"] = [body.stop] if isinstance(body.stop, str) else body.stop
        for param in SAMPLING:
            value = getattr(body, param)
            if value is None:
                continue
            if self.api_version != OLD_VERSION:
                dropped.append(param)
            else:
                call[param] = min(value, 1.0)  # OpenAI allows up to 2
        if request.stream:
            call["stream"] = True
        return Call(self.path, msgspec.json.encode(call), self._headers(key), named(dropped))

    def answer(self, body: bytes) -> Reply:
        try:
            message = _MESSAGE.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ProviderFault("not_json" if body[:1] != b"{" else "garbled") from None
        if message.type == "error":
            code, said = read_error(body)
            raise ProviderFault("error_event", code=code, message=said)
        if not message.stop_reason:
            raise ProviderFault("truncated")
        finish = FINISH.get(message.stop_reason, "stop")
        text = "".join(part.text for part in message.content or () if part.type == "text")
        if not text and finish != "content_filter":
            raise ProviderFault("empty_answer")
        usage = _usage(message.usage)
        return Reply(_completion(message, text, finish, usage), usage)

    def stream(self, request: ChatRequest, model: str) -> "AnthropicStream":
        return AnthropicStream(request, model, self.event_bytes_max)

    def fault(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderFault:
        return status_fault(status, headers, body)

    def _headers(self, key: str | None) -> dict[str, str]:
        headers = bearer(None) | {"anthropic-version": self.api_version}
        if key is not None and self.api_version == OLD_VERSION:
            headers["x-api-key"] = key
        elif key is not None:
            headers["authorization"] = f"Bearer {key}"
        return headers


class AnthropicStream:
    """Messages events in, chat completion chunks out."""

    def __init__(self, request: ChatRequest, model: str, event_bytes_max: int) -> None:
        self.finished = False
        self.ended = False
        self.fault: ProviderFault | None = None
        self._said_why = False  # a stop reason came
        self._sse = SseDecoder(event_bytes_max)
        self._keep_usage = request.wants_usage
        self._head = {"id": "chatcmpl-" + request.id, "created": int(clock.wall()), "model": model}
        self._usage = _Tokens()

    def feed(self, data: bytes) -> list[Chunk]:
        chunks: list[Chunk] = []
        try:
            for _, payload in self._sse.feed(data):
                if self.ended:
                    break
                if (chunk := self._chunk(payload)) is not None:
                    chunks.append(chunk)
        except EventTooLong:
            self.fault = ProviderFault("event_too_long")
        except ProviderFault as fault:
            self.fault = fault
        return chunks

    def end(self) -> list[Chunk]:
        if not self.finished:
            raise ProviderFault("truncated")
        if not self._keep_usage:
            return []
        usage = _usage(self._usage)
        return [Chunk(self._frame([], msgspec.to_builtins(usage)), usage=usage)]

    def _chunk(self, payload: bytes) -> Chunk | None:
        try:
            event = _EVENT.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ProviderFault("not_json" if payload[:1] != b"{" else "garbled") from None
        match event.type:
            case "message_start" if event.message is not None:
                self._count(event.message.usage)
                self._head["model"] = event.message.model or self._head["model"]
                return self._delta({"role": "assistant", "content": ""})
            case "content_block_start" if event.content_block is not None:
                return self._content(event.content_block)
            case "content_block_delta" if event.delta is not None:
                return self._content(event.delta)
            case "message_delta":
                self._count(event.usage)
                reason = event.delta.stop_reason if event.delta else None
                if reason:
                    self._said_why = True
                    return self._delta({}, FINISH.get(reason, "stop"))
            case "message_stop":
                self.finished, self.ended = self._said_why, True
                return Chunk(b"", usage=_usage(self._usage))
            case "error":
                code, message = read_error(payload)
                raise ProviderFault("error_event", code=code, message=message)
        return None

    def _content(self, delta: _Text) -> Chunk | None:
        if delta.text:
            return self._delta({"content": delta.text}, content=True)
        if delta.thinking:
            return self._delta({"reasoning_content": delta.thinking}, content=True)
        return None

    def _delta(self, delta: dict[str, str], finish: str | None = None, content: bool = False) -> Chunk:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return Chunk(self._frame([choice], None), content, finish)

    def _frame(self, choices: list[dict[str, Any]], usage: object) -> bytes:
        return frame(
            msgspec.json.encode(
                {**self._head, "object": "chat.completion.chunk", "choices": choices, "usage": usage}
            )
        )

    def _count(self, tokens: _Tokens | None) -> None:
        if tokens is not None:
            self._usage.input_tokens = tokens.input_tokens or self._usage.input_tokens
            self._usage.output_tokens = tokens.output_tokens or self._usage.output_tokens


def _decoded(raw: msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "unreadable"


def _turns(messages: list[Message]) -> list[dict[str, Any]]:
    """User and assistant turns; neighbours of one role are joined, as the endpoint wants them to alternate."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.role in ("system", "developer"):
            continue
        if message.role not in ("user", "assistant") or message.tool_calls:
            raise Unsupported("messages")
        text = _text(message)
        if turns and turns[-1]["role"] == message.role:
            turns[-1]["content"] += "\n\n" + text
        else:
            turns.append({"role": message.role, "content": text})
    return turns


def _text(message: Message) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    if any(part.get("type") != "text" for part in message.content):
        raise Unsupported("messages")
    return "".join(str(part.get("text", "")) for part in message.content)


def _usage(tokens: _Tokens | None) -> Usage:
    given, made = (tokens.input_tokens or 0, tokens.output_tokens or 0) if tokens else (0, 0)
    given, made = (min(max(count, 0), TOKENS_MAX) for count in (given, made))
    return Usage(given, made, given + made)


def _completion(message: _Message, text: str, finish: str, usage: Usage) -> bytes:
    said = {"role": "assistant", "content": text, "refusal": None}
    return msgspec.json.encode(
        {
            "id": "chatcmpl-" + message.id,
            "object": "chat.completion",
            "created": int(clock.wall()),
            "model": message.model,
            "choices": [{"index": 0, "message": said, "logprobs": None, "finish_reason": finish}],
            "usage": usage,
        }
    )
