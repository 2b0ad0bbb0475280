"""Capabilities: the features that a request requires beyond plain chat, and the features that a target lacks.

A dialect raises `Unsupported` when it encodes a field that it does not support. So `missing_features` encodes
the smallest request for each feature, once per target, when the settings are read; nothing is sent.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec
from msgspec import Raw, Struct

from dub5.service.model import AnyRequest, Caller, ChatBody, ChatRequest
from dub5.service.providers.base import Dialect, Unsupported
from dub5.service.providers.fields import is_meant
from dub5.service.providers.usage import asked_tokens, prompt_tokens


class Feature(StrEnum):
    """A feature that a request may require."""

    TOOLS = "tools"
    VISION = "vision"
    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    LOGPROBS = "logprobs"
    LONG_CONTEXT = "long_context"  # more tokens than the smallest target of the route accepts


ANSWER_TOKENS = 1024
FEATURE_NAMES = {
    Feature.TOOLS: "tools",
    Feature.VISION: "images",
    Feature.JSON_SCHEMA: "answers by a JSON schema",
    Feature.JSON_OBJECT: "answers in JSON",
    Feature.LOGPROBS: "logprobs",
    Feature.LONG_CONTEXT: "conversations this long",
}
_TEXT = [{"role": "user", "content": "Hi"}]
_PIXEL = "data:image/png;base64,iVBORw0KGgo="
_SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
_SAMPLES: Mapping[Feature, Mapping[str, object]] = {
    Feature.TOOLS: {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    },
    Feature.VISION: {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": _PIXEL}}]}]
    },
    Feature.JSON_SCHEMA: {
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": _SCHEMA}}
    },
    Feature.JSON_OBJECT: {"response_format": {"type": "json_object"}},
    Feature.LOGPROBS: {"logprobs": True},
}


def missing_features(dialect: Dialect, model: str) -> Mapping[Feature, str]:
    """Return the features that this target lacks, each with the field that its dialect does not support."""
    found = {}
    for feature, sample in _SAMPLES.items():
        fields = {"model": model, "messages": _TEXT, **sample}
        body = msgspec.convert(fields, ChatBody)
        raw = {name: Raw(msgspec.json.encode(value)) for name, value in fields.items()}
        try:
            dialect.encode(ChatRequest("sample", Caller(), body, raw), model, None)
        except Unsupported as error:
            found[feature] = error.param
    return found


def required_features(request: AnyRequest) -> frozenset[Feature]:
    """Return the features that the request requires, except long context, which depends on the target."""
    if not isinstance(request, ChatRequest):
        return frozenset()
    found = set()
    if request.body.tools or _is_asked("functions", request):
        found.add(Feature.TOOLS)
    if any(_has_image(message.content) for message in request.body.messages):
        found.add(Feature.VISION)
    feature = _format(request)
    if feature and not (request.json_by_prompt and feature is Feature.JSON_OBJECT):
        found.add(feature)
    if request.body.logprobs:
        found.add(Feature.LOGPROBS)
    return frozenset(found)


def fits(request: AnyRequest, context_tokens: int | None) -> bool:
    """Return whether the conversation and its answer fit into `context_tokens`, by our estimate.

    Room is kept free for the answer: as much as the request asks for, at most half of the window, because
    some providers lower such a bound themselves; else a quarter of it, at most ANSWER_TOKENS.
    """
    if context_tokens is None or not isinstance(request, ChatRequest):
        return True
    asked = asked_tokens(request)
    answer_tokens = (
        min(context_tokens // 4, ANSWER_TOKENS) if asked is None else min(context_tokens // 2, asked)
    )
    return prompt_tokens(request) <= context_tokens - answer_tokens


def feature_of(param: str, request: AnyRequest) -> Feature | None:
    """Return the feature that a field of the request belongs to, or None."""
    if param == Feature.LONG_CONTEXT:
        return Feature.LONG_CONTEXT
    if param.startswith(("tool", "function", "parallel_tool")) or ".tool_calls" in param:
        return Feature.TOOLS
    if "image_url" in param:
        return Feature.VISION
    if param.startswith("response_format"):
        return (_format(request) if isinstance(request, ChatRequest) else None) or Feature.JSON_SCHEMA
    return Feature.LOGPROBS if "logprobs" in param else None


def _is_asked(name: str, request: ChatRequest) -> bool:
    """Return whether a passed-through field has a value that means something. Large ones are not read."""
    raw = request.fields.get(name)
    try:
        return raw is not None and is_meant(name, raw)
    except Unsupported:
        return False


def _has_image(content: object) -> bool:
    return isinstance(content, list) and any(part.get("type") == "image_url" for part in content)


class _Format(Struct):
    """The form of an answer; its schema is not read."""

    type: object = None


_FORMAT = msgspec.json.Decoder(_Format)


def _format(request: ChatRequest) -> Feature | None:
    try:
        kind = _FORMAT.decode(request.fields["response_format"]).type
    except (KeyError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return next((form for form in (Feature.JSON_SCHEMA, Feature.JSON_OBJECT) if form == kind), None)
