"""The Mistral dialect: OpenAI's with other fields, usage on the last chunk, sometimes content in parts."""

import re

import msgspec
from msgspec import Raw

from dub5.service.model import ChatRequest, Chunk, EmbedRequest, Reply
from dub5.service.providers.base import EncodedRequest, Unsupported, trail_names
from dub5.service.providers.conversation import BEGIN, GO_ON, is_blank, pair_calls
from dub5.service.providers.fields import (
    JsonObject,
    apply_overrides,
    decode_field,
    decode_in_steps,
    is_large,
    is_meant,
    overrides_in_steps,
    pop_fields,
)
from dub5.service.providers.openai import OpenAIDialect, OpenAIStream
from dub5.service.providers.slices import Steps, StepSize, encode_list, finish

# The fields that the chat endpoint accepts; any other field is answered with 422.
CHAT_FIELDS = frozenset(
    ("model", "messages", "stream", "temperature", "top_p", "max_tokens", "min_tokens", "stop", "random_seed")
    + ("n", "response_format", "tools", "tool_choice", "parallel_tool_calls", "presence_penalty", "top_k")
    + ("frequency_penalty", "repetition_penalty", "logprobs", "top_logprobs", "prompt_logprobs")
    + ("top_prompt_logprobs", "reasoning_effort", "prompt_mode", "guardrails", "safe_prompt", "prediction")
    + ("metadata", "prompt_cache_key", "service_tier")
)
RENAMED = {"max_completion_tokens": "max_tokens", "seed": "random_seed"}
REFUSED = frozenset({"functions", "function_call", "audio", "modalities", "web_search_options"})
MESSAGE_FIELDS = {  # the fields of a message by role; any other field is answered with 422
    "system": frozenset({"role", "content"}),
    "user": frozenset({"role", "content"}),
    "assistant": frozenset({"role", "content", "tool_calls", "prefix"}),
    "tool": frozenset({"role", "content", "tool_call_id", "name"}),
}
CALL_FIELDS = frozenset({"id", "type", "function", "index"})
FUNCTION_FIELDS = frozenset({"name", "arguments"})
PART_TYPES = frozenset({"text", "image_url", "document_url", "reference", "thinking"})
ID_PATTERN = re.compile(r"[A-Za-z0-9]{9}")  # anything else is answered with 400, code 3280
EMBED_FIELDS = frozenset({"model", "input", "metadata", "output_dimension", "output_dtype"})
EMBED_RENAMED = {"dimensions": "output_dimension"}
TO_TRANSLATE = re.compile(rb'"content": ?\[|"tool_calls"|"model_length"')


class MistralDialect(OpenAIDialect):
    """The differences from the OpenAI dialect."""

    def encode(self, request: ChatRequest, model: str, key: str | None) -> EncodedRequest:
        return finish(self.encode_in_steps(request, model, key))

    def encode_in_steps(self, request: ChatRequest, model: str, key: str | None) -> Steps[EncodedRequest]:
        given, dropped = (
            (yield from overrides_in_steps(request.fields, self.overrides))
            if request.large
            else apply_overrides(request.fields, self.overrides)
        )
        fields: dict[str, Raw] = {}
        pace = StepSize()
        for name, raw in given.items():
            if pace.is_over():
                yield
            there = RENAMED.get(name, name)
            if there in CHAT_FIELDS:
                if there == name or bytes(raw) != b"null":
                    fields[there] = raw
            elif name == "stream_options":  # Mistral always sends usage
                options = (
                    (yield from decode_in_steps(name, raw)) if is_large(raw) else decode_field(name, raw)
                )
                dropped += [f"{name}.{n}" for n in options or () if n != "include_usage"]
            elif is_meant(name, raw):
                if name in REFUSED:
                    raise Unsupported(name)
                dropped.append(name)
        if request.body.tools and "tools" in given:
            tools, large = (yield from decode_in_steps("tools", given["tools"])), is_large(given["tools"])
            if large:
                yield
            fields["tools"] = Raw(msgspec.json.encode([_tool(tool) for tool in tools]))
            if large:
                yield
        fields["model"] = Raw(msgspec.json.encode(model))
        messages = yield from decode_in_steps("messages", given["messages"])
        messages = yield from _messages(messages, dropped)
        fields["messages"] = yield from encode_list(messages)
        yield
        return EncodedRequest(self.path, msgspec.json.encode(fields), self.headers(key), trail_names(dropped))

    def answer(self, body: bytes, request: ChatRequest) -> Reply:
        return super().answer(_as_openai(body), request)

    def stream(self, request: ChatRequest, model: str) -> "MistralStream":
        return MistralStream(request, self.event_bytes_max)

    def encode_embeddings(self, request: EmbedRequest, model: str, key: str | None) -> EncodedRequest:
        given, dropped = apply_overrides(request.fields, self.overrides)
        if not isinstance(request.body.input, str) and not isinstance(request.body.input[0], str):
            raise Unsupported("input")  # token numbers of a different tokenizer
        fields: dict[str, Raw] = {}
        for name, raw in given.items():
            there = EMBED_RENAMED.get(name, name)
            if there in EMBED_FIELDS:
                fields[there] = raw
            elif name == "encoding_format":
                continue  # reply_with_vectors converts the answer
            elif is_meant(name, raw):
                dropped.append(name)
        fields["model"] = Raw(msgspec.json.encode(model))
        return EncodedRequest(
            self.embeddings_path, msgspec.json.encode(fields), self.headers(key), trail_names(dropped)
        )


class MistralStream(OpenAIStream):
    """A stream of Mistral's chunks."""

    def chunk(self, payload: bytes, name: bytes = b"") -> Chunk | None:
        return super().chunk(_as_openai(payload), name)


def _messages(messages: list[JsonObject], dropped: list[str]) -> Steps[list[JsonObject]]:
    """Return the messages with only the fields that each role may have, in an order that is taken.

    Raises Unsupported.
    """
    pace = StepSize()
    for index, message in enumerate(messages):
        if pace.is_over():
            yield
        if message["role"] == "developer":
            message["role"] = "system"
        known = MESSAGE_FIELDS.get(message["role"])
        if known is None:
            raise Unsupported(f"messages[{index}].role")
        if message.get("refusal"):
            message["content"] = _with_refusal(message, f"messages[{index}].refusal")
        dropped += pop_fields(message, message.keys() - known)
        for number, part in enumerate(_parts(message)):
            if pace.is_over():
                yield
            if part.get("type") == "refusal":
                part["type"], part["text"] = "text", part.pop("refusal", "")
            if not isinstance(kind := part.get("type"), str) or kind not in PART_TYPES:
                raise Unsupported(f"messages[{index}].content[{number}].type")
            if kind == "text" or kind == "image_url":
                dropped += pop_fields(part, part.keys() - {"type", kind}, "messages.content.")
        for number, call in enumerate(message.get("tool_calls") or ()):
            if pace.is_over():
                yield
            _take_known(call, f"messages[{index}].tool_calls[{number}]", dropped)
    paired = yield from pair_calls(messages, ID_PATTERN, "", 9)
    kept = []
    for message in paired:
        if pace.is_over():
            yield
        if not _is_empty_turn(message):
            kept.append(message)
    yield
    return _in_order(kept)


def _with_refusal(message: JsonObject, path: str) -> str | Raw | list[JsonObject]:
    """Return what an assistant said and refused to say."""
    refusal, content = message.pop("refusal"), message.get("content")
    if not isinstance(refusal, str | Raw):
        raise Unsupported(path)
    if not content:
        return refusal
    said = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return [*said, {"type": "text", "text": refusal}]


def _take_known(call: JsonObject, path: str, dropped: list[str]) -> None:
    """Leave out of a call what another provider has put there."""
    function = call.get("function")
    if not isinstance(function, dict):
        raise Unsupported(f"{path}.type")
    dropped += pop_fields(call, call.keys() - CALL_FIELDS, "messages.tool_calls.")
    dropped += pop_fields(function, function.keys() - FUNCTION_FIELDS, "messages.tool_calls.function.")
    function["arguments"] = function.get("arguments") or "{}"


def _in_order(messages: list[JsonObject]) -> list[JsonObject]:
    """Return the turns in an order that the endpoint takes: system turns first, no user after a tool.

    A last turn of the assistant is marked as one to be continued.
    """
    ordered = [message for message in messages if message["role"] == "system"]
    if len(ordered) == len(messages) and messages:  # instructions alone: the last one is the user's turn
        ordered[-1]["role"] = "user"
        return ordered
    for message in messages:
        before = ordered[-1]["role"] if ordered else "system"
        if message["role"] == "user" and before == "tool":
            ordered.append({"role": "assistant", "content": GO_ON})
        elif message["role"] == "assistant" and before == "system":
            ordered.append({"role": "user", "content": BEGIN})
        if message["role"] != "system":
            ordered.append(message)
    if not ordered:
        raise Unsupported("messages")
    if ordered[-1]["role"] == "assistant":
        ordered[-1]["prefix"] = True
    return ordered


def _is_empty_turn(message: JsonObject) -> bool:
    """Return whether this is a turn of the assistant without anything in it, which the endpoint rejects."""
    said = not is_blank(message.get("content")) or message.get("tool_calls")
    return message["role"] == "assistant" and not said


def _tool(tool: JsonObject) -> JsonObject:
    """Return the tool with explicit parameters, which the endpoint requires for every function."""
    function = tool.get("function")
    if not isinstance(function, dict) or function.get("parameters"):
        return tool
    return {**tool, "function": {**function, "parameters": {"type": "object", "properties": {}}}}


def _parts(message: JsonObject) -> list[JsonObject]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def _as_openai(body: bytes) -> bytes:
    """Translate Mistral's answer to OpenAI's format: content parts, tool calls, one finish reason."""
    if not TO_TRANSLATE.search(body):
        return body
    try:
        parsed = msgspec.json.decode(body)
        for choice in parsed["choices"]:
            if choice.get("finish_reason") == "model_length":
                choice["finish_reason"] = "length"
            part = choice.get("delta") or choice.get("message")
            if isinstance(part.get("content"), list):
                _flatten(part)
            for index, call in enumerate(part.get("tool_calls") or ()):
                _complete(call)
                if "message" in choice:  # in a stream, an index counts over all chunks
                    call.setdefault("index", index)
        return msgspec.json.encode(parsed)
    except (msgspec.DecodeError, UnicodeError, RecursionError, LookupError, TypeError, AttributeError):
        return body  # an unknown shape: OpenAI's decoder names the fault


def _flatten(part: JsonObject) -> None:
    """Join the text parts to `content`, and the thinking parts to `reasoning_content`."""
    pieces = part["content"]
    thoughts = [t for p in pieces if p.get("type") == "thinking" for t in p.get("thinking", ())]
    part["content"] = "".join(p.get("text", "") for p in pieces if p.get("type") == "text")
    if thoughts:
        part["reasoning_content"] = "".join(t.get("text", "") for t in thoughts)


def _complete(call: JsonObject) -> None:
    """Add the fields of a tool call that OpenAI's clients expect."""
    call.setdefault("type", "function")
    function = call["function"]
    if isinstance(function.get("arguments"), dict):
        function["arguments"] = msgspec.json.encode(function["arguments"]).decode()
