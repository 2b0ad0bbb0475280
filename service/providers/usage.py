"""Token usage: the provider's count, or an estimate that is marked as one.

An estimate is one token per four characters of text, rounded up: messages and tools for the prompt; text,
reasoning, refusals and tool calls for the answer. It is rough: right within a factor of two for English, too
low for most other languages. So every estimate is labelled `estimated`.
"""

from typing import Any

import msgspec
from msgspec import Raw

from dub5.service.model import AnyRequest, ChatRequest, EmbedRequest, Usage

CHARS_PER_TOKEN = 4
TOKENS_MAX = 2**53
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
    """Return the count as a non-negative int that can be summed; 0 for anything else. 12.0 counts as 12."""
    if isinstance(count, int):
        return min(count, TOKENS_MAX) if count > 0 else 0
    return int(min(count, TOKENS_MAX)) if isinstance(count, float) and count > 0 else 0


def usage_json(usage: Usage) -> dict[str, Any]:
    """Return OpenAI's usage object."""
    counts = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    return {**counts, "estimated": True} if usage.estimated else counts


def estimate(prompt_chars: int, answer_chars: int) -> Usage:
    """Estimate the usage from the characters of prompt and answer."""
    prompt, completion = (-(-chars // CHARS_PER_TOKEN) for chars in (prompt_chars, answer_chars))
    return Usage(prompt, completion, prompt + completion, estimated=True)


def prompt_chars(request: ChatRequest) -> int:
    """Count the characters of the messages and tools."""
    chars = len(bytes(request.fields.get("tools", b"")))
    for message in request.body.messages:
        chars += text_chars(message.content) + calls_chars(message.tool_calls)
    return chars


def asked_tokens(request: ChatRequest) -> int | None:
    """Return how long the request lets its answer be, in tokens; None if it does not say."""
    return request.body.max_completion_tokens or request.body.max_tokens


def estimate_prompt(request: AnyRequest) -> Usage:
    """Estimate the usage of a request without an answer."""
    if isinstance(request, EmbedRequest):
        return estimate(input_chars(request.body.input), 0)
    return estimate(prompt_chars(request), 0)


def input_chars(given: object) -> int:
    """Count the characters of texts to embed; a token number counts as CHARS_PER_TOKEN."""
    if isinstance(given, list):
        return sum(map(input_chars, given))
    return len(given) if isinstance(given, str) else CHARS_PER_TOKEN


def text_chars(content: object) -> int:
    """Count the characters of a text, or of the text in a list of parts."""
    if isinstance(content, str):
        return len(content)
    if not isinstance(content, list):
        return 0
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return sum(len(text) for text in texts if isinstance(text, str))


def calls_chars(calls: object) -> int:
    """Count the characters of tool calls: names and arguments."""
    if not isinstance(calls, list):
        return 0
    functions = (call.get("function") for call in calls if isinstance(call, dict))
    return sum(
        len(value)
        for function in functions
        if isinstance(function, dict)
        for value in (function.get("name"), function.get("arguments"))
        if isinstance(value, str)
    )


def add_usage(body: bytes, usage: Usage) -> bytes:
    """Add the usage to a JSON answer; every other field stays as it came."""
    return msgspec.json.encode({**_FIELDS.decode(body), "usage": usage_json(usage)})
