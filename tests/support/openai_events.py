"""Server-sent events of a stream in the openai dialect."""

import msgspec


def event(**fields: object) -> bytes:
    """Return one event with these fields."""
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"


def choice(delta: dict[str, object], finish: str | None = None, index: int = 0) -> dict[str, object]:
    """Return one choice of a chunk."""
    return {"index": index, "delta": delta, "finish_reason": finish}


CONTENT = event(choices=[choice({"content": "Hi"})])
STOP = event(choices=[choice({}, "stop")])
USAGE = event(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})
DONE = b"data: [DONE]\n\n"
