"""Conversion between the two shapes of an answer: the chunks of a stream, and a chat.completion object.

RecordingStream  passes a stream through, and stores its answer once it is complete
ReplayedStream   serves a stored answer as a stream
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from dub5.service.model import Chunk, Chunks, Usage
from dub5.service.providers.openai import sse_event, sse_payload
from dub5.service.providers.usage import parse_usage, usage_json

RECORDED_BYTES_MAX = 1024 * 1024
PIECE_CHARS = 400  # the content of a replayed chunk: several chunks, so that clients see the answer grow


def assemble(payloads: Iterable[bytes | str], counted: Usage | None = None) -> bytes | None:
    """Return a chat.completion from the chunks of a finished stream, or None if it is more than plain text.

    A string is the text of a chunk that is otherwise like one before. `counted`: the usage, in case the
    client did not ask for the usage chunk.
    """
    head: dict[str, Any] = {}
    text: list[str] = []
    usage = finish = None
    try:
        for payload in payloads:
            if isinstance(payload, str):
                text.append(payload)
                continue
            chunk = msgspec.json.decode(payload)
            head = head or {name: chunk[name] for name in ("id", "created", "model") if name in chunk}
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices") or ():
                delta = choice.get("delta") or {}
                if choice.get("index", 0) != 0 or any(
                    delta.get(name) for name in delta if name not in _PLAIN
                ):
                    return None
                text.append(delta.get("content") or "")
                finish = choice.get("finish_reason") or finish
        content = "".join(text)
    except NOT_OURS:
        return None
    if finish not in _WHOLE:
        return None
    usage = usage or (usage_json(counted) if counted else None)
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return msgspec.json.encode({**head, "object": "chat.completion", "choices": [choice], "usage": usage})


NOT_OURS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError, AttributeError)
_PLAIN = frozenset({"role", "content"})
_WHOLE = ("stop", "length")


def is_plain_text(completion: bytes) -> bool:
    """Return whether a chat.completion is complete and holds only the text of one choice."""
    try:
        choices = msgspec.json.decode(completion)["choices"]
        message = choices[0]["message"]
        plain = isinstance(message["content"], str) and not any(
            message[name] for name in message if name not in _PLAIN
        )
        return plain and len(choices) == 1 and choices[0]["finish_reason"] in _WHOLE
    except NOT_OURS:
        return False


def as_chunks(completion: bytes, *, with_usage: bool) -> list[Chunk]:
    """Return the chunks of a stream that has this chat.completion as its answer."""
    whole = msgspec.json.decode(completion)
    head = {name: whole[name] for name in ("id", "created", "model") if name in whole}
    choice = whole["choices"][0]
    text = choice["message"]["content"] or ""
    pieces = [text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS)]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": p} for p in pieces)]
    chunks = [_chunk(head, delta, None) for delta in deltas]
    chunks.append(_chunk(head, {}, choice["finish_reason"]))
    if with_usage:
        chunks.append(Chunk(_frame(head, [], whole.get("usage")), usage=parse_usage(whole.get("usage"))))
    return chunks


def _chunk(head: dict[str, Any], delta: dict[str, Any], finish: str | None) -> Chunk:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return Chunk(_frame(head, [choice], None), bool(delta.get("content")), finish)


def _frame(head: dict[str, Any], choices: list[dict[str, Any]], usage: object) -> bytes:
    body = {**head, "object": "chat.completion.chunk", "choices": choices, "usage": usage}
    return sse_event(msgspec.json.encode(body))


class ReplayedStream:
    """A stored answer, as a stream."""

    usage: Usage | None = None

    def __init__(self, chunks: list[Chunk]) -> None:
        self._chunks = chunks

    async def read(self) -> list[Chunk]:
        """Return all chunks at the first call, none after that."""
        chunks, self._chunks = self._chunks, []
        return chunks

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""


class RecordingStream:
    """A stream that passes its answer to `keep` once it is complete. `on_close` is called at every end."""

    def __init__(
        self,
        source: Chunks,
        keep: Callable[[bytes], Awaitable[None]],
        on_close: Callable[[], Awaitable[None]],
    ) -> None:
        self._source = source
        self._keep = keep
        self._on_close = on_close
        self._payloads: list[bytes | str] = []
        self._bytes = 0

    @property
    def usage(self) -> Usage | None:
        """The usage that the source counted."""
        return self._source.usage

    async def read(self) -> list[Chunk]:
        """Return the source's next chunks. Raises what the source raises; then nothing is stored."""
        chunks = await self._source.read()
        for chunk in chunks:
            if chunk.raw and self._bytes <= RECORDED_BYTES_MAX:
                self._payloads.append(chunk.text or sse_payload(chunk.raw))
                self._bytes += len(chunk.raw)
        if not chunks and self._bytes <= RECORDED_BYTES_MAX:
            body = assemble(self._payloads, self._source.usage)
            if body is not None:
                await self._keep(body)
        return chunks

    async def aclose(self) -> None:
        """Close the source."""
        try:
            await self._source.aclose()
        finally:
            await self._on_close()
