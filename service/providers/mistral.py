"""Mistral: OpenAI's shape with its own list of fields, usage on the last chunk, content sometimes in parts."""

from collections.abc import Mapping

import msgspec
from msgspec import Raw

from service.chat import ChatRequest, Chunk, Reply
from service.providers.base import Call, ProviderFault, named, status_fault
from service.providers.openai import OpenAI, OpenAIStream, bearer, frame, payload_of

# What its chat endpoint takes; any other field is answered with 422.
KNOWN = frozenset(
    ("model", "messages", "stream", "temperature", "top_p", "max_tokens", "stop", "random_seed", "n")
    + ("response_format", "tools", "tool_choice", "parallel_tool_calls", "presence_penalty")
    + ("frequency_penalty", "safe_prompt", "prediction", "prompt_mode", "metadata")
)
RENAMED = {"max_completion_tokens": "max_tokens", "seed": "random_seed"}
SILENT = frozenset({"stream_options"})  # usage comes anyway: nothing is lost


class Mistral(OpenAI):
    """The differences from OpenAI, and nothing else."""

    def encode(self, request: ChatRequest, model: str, key: str | None) -> Call:
        fields: dict[str, Raw] = {}
        dropped: list[str] = []
        for name, value in request.fields.items():
            name_there = RENAMED.get(name, name)
            if name_there in KNOWN:
                fields[name_there] = value
            elif name not in SILENT and bytes(value) != b"null":
                dropped.append(name)
        fields["model"] = Raw(msgspec.json.encode(model))
        return Call(self.path, msgspec.json.encode(fields), bearer(key), named(dropped))

    def answer(self, body: bytes) -> Reply:
        return super().answer(_flat(body))

    def stream(self, request: ChatRequest, model: str) -> "MistralStream":
        return MistralStream(request, self.event_bytes_max)

    def fault(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderFault:
        return status_fault(status, headers, body)


class MistralStream(OpenAIStream):
    """Usage rides on the chunk with the finish reason; a client that asked for it gets a chunk of its own."""

    def __init__(self, request: ChatRequest, event_bytes_max: int) -> None:
        super().__init__(request, event_bytes_max)
        self._last: Chunk | None = None

    def chunk(self, payload: bytes) -> Chunk | None:
        chunk = super().chunk(_flat(payload))
        if chunk is not None and chunk.usage is not None:
            self._last = chunk
        return chunk

    def end(self) -> list[Chunk]:
        super().end()
        if not self._keep_usage or self._last is None:
            return []
        said = msgspec.json.decode(payload_of(self._last.raw))
        return [Chunk(frame(msgspec.json.encode({**said, "choices": []})), usage=self._last.usage)]


def _flat(body: bytes) -> bytes:
    """Content given as a list of parts becomes OpenAI's: text as text, thinking as `reasoning_content`."""
    if b'"content":[' not in body and b'"content": [' not in body:
        return body
    try:
        parsed = msgspec.json.decode(body)
        for choice in parsed["choices"]:
            part = choice.get("delta") or choice.get("message")
            if isinstance(part.get("content"), list):
                _flatten(part)
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return body  # not what we know: the decoder after us names the fault
    return msgspec.json.encode(parsed)


def _flatten(part: dict[str, object]) -> None:
    pieces = part["content"]
    assert isinstance(pieces, list)
    text = "".join(p.get("text", "") for p in pieces if p.get("type") == "text")
    thoughts = [t for p in pieces if p.get("type") == "thinking" for t in p.get("thinking", ())]
    part["content"] = text
    if thoughts:
        part["reasoning_content"] = "".join(t.get("text", "") for t in thoughts)
