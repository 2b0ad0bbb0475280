"""Server-sent events of a stream in the anthropic dialect, and the two versions that read them."""

import msgspec

from dub5.service.model import Chunk
from dub5.service.providers.anthropic import AnthropicDialect
from tests.support.dialect_requests import request

OLD = AnthropicDialect(event_bytes_max=10_000, api_version=None, max_tokens=4096)
NEW = AnthropicDialect(event_bytes_max=10_000, api_version="2026-10-21", max_tokens=4096)


def event(kind: str, **fields: object) -> bytes:
    """Return one event of this type."""
    return f"event: {kind}\ndata: ".encode() + msgspec.json.encode({"type": kind, **fields}) + b"\n\n"


START = event(
    "message_start",
    message={"id": "msg_1", "model": "claude-sim", "content": [], "usage": {"input_tokens": 5}},
)
STOP = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2})
END = event("message_stop")


async def read(data: bytes, **fields: object) -> list[Chunk]:
    """Return the chunks that the older version makes of a stream. Raises the ProviderFault in it."""
    reader = OLD.stream(request(stream=True, **fields), "claude")
    chunks = reader.feed(data)
    if reader.fault is not None:
        raise reader.fault
    return chunks + reader.end()
