"""Rate limits that one request alone exceeds: told from those that others have used up, by the headers.

anthropic-ratelimit-input-tokens-limit: 80000      x-ratelimit-limit-tokens: 30000
anthropic-ratelimit-input-tokens-remaining: 80000  x-ratelimit-remaining-tokens: 30000

A refusal for tokens while every bucket of tokens is full is the size's: waiting does not help. The message
must speak of this request, because buckets of other spans, and limits of concurrency, have no headers.
"""

import re
from collections.abc import Mapping

CODE = "request_too_large"
_BUCKET = re.compile(r"(anthropic-ratelimit-(?:input-|output-)?tokens-|x-ratelimit-)limit(-tokens|)")


def exceeds_full_bucket(status: int, headers: Mapping[str, str], message: str) -> bool:
    """Return whether a request is refused for its size though no token of the limit is in use."""
    words = message.lower()
    if status != 429 or "request would exceed" not in words or "token" not in words:
        return False
    buckets = [found for name in headers if "token" in name and (found := _BUCKET.fullmatch(name))]
    return bool(buckets) and all(
        _number(headers.get(f"{found[1]}remaining{found[2]}", "")) >= _number(headers[found[0]]) > 0
        for found in buckets
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
