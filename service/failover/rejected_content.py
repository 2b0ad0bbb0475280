"""RejectPatterns: finds notices that are no answers: "This API is being deprecated ..." in a 200.

A route with patterns holds back the beginning of an answer until it can be judged: 200 characters, or 300 ms
after the first content, whichever comes first. Other routes hold nothing back.
"""

import re
from collections.abc import Iterable

import msgspec

from dub5.service.model import Chunk
from dub5.service.providers.openai import sse_payload

JUDGED_CHARS = 200
JUDGED_S = 0.3


class RejectPatterns:
    """The patterns of one route; letter case does not matter.

    They match anywhere in an answer's beginning.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [re.compile(pattern, re.IGNORECASE) for pattern in patterns]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def match(self, beginning: str) -> bool:
        """Return whether a pattern matches the beginning of an answer."""
        return any(pattern.search(beginning[:JUDGED_CHARS]) for pattern in self._patterns)


def text_so_far(chunks: Iterable[Chunk]) -> str:
    """Return the text of a stream so far."""
    return "".join(_text(sse_payload(chunk.raw), "delta") for chunk in chunks if chunk.has_content)


def reply_text(body: bytes) -> str:
    """Return the text of a JSON answer."""
    return _text(body, "message")


def _text(payload: bytes, part: str) -> str:
    try:
        content = msgspec.json.decode(payload)["choices"][0][part]["content"]
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError):
        return ""
    return content if isinstance(content, str) else ""
