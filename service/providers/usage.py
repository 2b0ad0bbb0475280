"""Token usage: the provider's count, or an estimate that is marked as one.

An estimate goes by the kinds of characters (tokens.py): of messages and tools for the prompt; of text,
reasoning, refusals and tool calls for the answer, which is counted as it comes. Every estimate is labelled
`estimated`.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

from dub5.service.model import AnyRequest, ChatRequest, EmbedRequest, Usage
from dub5.service.tokens import ASCII_CHARS, ascii_chars, estimate_tokens

TOKENS_MAX = 100_000_000  # of one answer; a larger number is no count, and would spend a budget for a day
_FIELDS = msgspec.json.Decoder(dict[str, Raw])


def parse_usage(value: object) -> Usage | None:
    """Return a provider's usage, with invalid counts as 0; None if all are 0."""
    if not isinstance(value, dict):
        return None
    prompt, completion = token_count(value.get("prompt_tokens")), token_count(value.get("completion_tokens"))
    total = token_count(value.get("total_tokens"))
    if not (prompt or completion or total):
        return None
    return Usage(prompt, completion, total or prompt + completion, value.get("estimated") is True)


def token_count(count: object) -> int:
    """Return the count as a non-negative int; 0 for anything that is none. 12.0 counts as 12."""
    if type(count) is int:  # as nearly always
        return count if 0 < count <= TOKENS_MAX else 0
    return int(count) if isinstance(count, float) and 0 < count <= TOKENS_MAX else 0


def usage_json(usage: Usage) -> dict[str, Any]:
    """Return OpenAI's usage object."""
    counts = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    return {**counts, "estimated": True} if usage.estimated else counts


def estimate(prompt_tokens: int, answer_chars: int) -> Usage:
    """Estimate the usage. `answer_chars`: the answer's, as `ascii_chars` counts them."""
    completion = -(-answer_chars // ASCII_CHARS)
    return Usage(prompt_tokens, completion, prompt_tokens + completion, estimated=True)


def prompt_tokens(request: ChatRequest) -> int:
    """Estimate the tokens of the messages and tools."""
    texts = [bytes(request.fields.get("tools", b"")).decode("utf-8", "replace")]
    for message in request.body.messages:
        texts += texts_of(message.content)
        texts += call_texts(message.tool_calls)
    return estimate_tokens(texts)


def asked_tokens(request: ChatRequest) -> int | None:
    """Return how long the request lets its answer be, in tokens; None if it does not say."""
    return request.body.max_completion_tokens or request.body.max_tokens


def estimate_prompt(request: AnyRequest) -> Usage:
    """Estimate the usage of a request without an answer."""
    if isinstance(request, EmbedRequest):
        return estimate(input_tokens(request.body.input), 0)
    return estimate(prompt_tokens(request), 0)


def input_tokens(given: object) -> int:
    """Estimate the tokens of what is to be embedded: texts, or token numbers."""
    if not isinstance(given, list):
        return estimate_tokens([given]) if isinstance(given, str) else 1
    texts = [one for one in given if isinstance(one, str)]
    return estimate_tokens(texts) + sum(input_tokens(one) for one in given if not isinstance(one, str))


def texts_of(content: object) -> list[str]:
    """Return the text of a message, or the text in its list of parts."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        return []
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return [text for text in texts if isinstance(text, str)]


def call_texts(calls: object) -> Iterator[str]:
    """Yield the names and arguments of tool calls."""
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            values = (function.get("name"), function.get("arguments"))
            yield from (value for value in values if isinstance(value, str))


def text_chars(content: object) -> int:
    """Count the characters of a text or its parts, as `ascii_chars` does."""
    return sum(map(ascii_chars, texts_of(content)))


def calls_chars(calls: object) -> int:
    """Count the characters of tool calls: names and arguments."""
    return sum(map(ascii_chars, call_texts(calls)))


def add_usage(body: bytes, usage: Usage) -> bytes:
    """Add the usage to a JSON answer; every other field stays as it came."""
    return msgspec.json.encode({**_FIELDS.decode(body), "usage": usage_json(usage)})
