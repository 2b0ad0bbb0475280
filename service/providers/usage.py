"""Tokens: as the provider counted them, or estimated and marked so.

An estimate is one token for each four characters of text, rounded up: of the messages and tools for the prompt, of
text, reasoning, refusals and tool calls for the answer. It is rough (right within a factor of two for English, too low
for most other languages), and better than nothing only because it says what it is.
"""

from typing import Any

import msgspec
from msgspec import Raw

from dub5.service.model import AnyRequest, ChatRequest, EmbedRequest, Usage

CHARS_PER_TOKEN = 4
TOKENS_MAX = 2**53
_FIELDS = msgspec.json.Decoder(dict[str, Raw])


def parse_usage(said: object) -> Usage | None:
    """A provider's count, as far as it makes sense; None if it counted nothing."""
    if not isinstance(said, dict):
        return None
    prompt, completion = token_count(said.get("prompt_tokens")), token_count(said.get("completion_tokens"))
    total = token_count(said.get("total_tokens"))
    if not (prompt or completion or total):
        return None
    return Usage(prompt, completion, total or prompt + completion, said.get("estimated") is True)


def token_count(count: object) -> int:
    """A count that can be added up, whatever it was."""
    return min(count, TOKENS_MAX) if isinstance(count, int) and count > 0 else 0


def usage_json(usage: Usage) -> dict[str, Any]:
    """The usage object of an answer."""
    counts = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    return {**counts, "estimated": True} if usage.estimated else counts


def estimate(prompt_chars: int, answer_chars: int) -> Usage:
    """The estimate for so many characters."""
    prompt, completion = (-(-chars // CHARS_PER_TOKEN) for chars in (prompt_chars, answer_chars))
    return Usage(prompt, completion, prompt + completion, estimated=True)


def prompt_chars(request: ChatRequest) -> int:
    """The characters of what was asked."""
    chars = len(bytes(request.fields.get("tools", b"")))
    for message in request.body.messages:
        chars += text_chars(message.content) + calls_chars(message.tool_calls)
    return chars


def estimate_prompt(request: AnyRequest) -> Usage:
    """The estimate for a request that brought no answer."""
    if isinstance(request, EmbedRequest):
        return estimate(input_chars(request.body.input), 0)
    return estimate(prompt_chars(request), 0)


def input_chars(given: object) -> int:
    """Characters of texts to embed; a token number counts as the four that a token is taken for."""
    if isinstance(given, list):
        return sum(map(input_chars, given))
    return len(given) if isinstance(given, str) else CHARS_PER_TOKEN


def text_chars(content: object) -> int:
    """The characters of a text, or of the text in a list of parts."""
    if isinstance(content, str):
        return len(content)
    if not isinstance(content, list):
        return 0
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return sum(len(text) for text in texts if isinstance(text, str))


def calls_chars(calls: object) -> int:
    """The characters of tool calls: names and arguments."""
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
    """A JSON answer that lacks its usage, with it; every other field as it came."""
    return msgspec.json.encode({**_FIELDS.decode(body), "usage": usage_json(usage)})
