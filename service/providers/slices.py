"""Slices: work on a large request, in steps that each take a few milliseconds.

A function that may take long is a generator: it yields between its steps, and returns its result.
`finish(steps)` makes them all at once, `in_turns(steps)` lets the event loop run in between.

`decode_lazily` decodes JSON and leaves large texts as they are (Raw): nobody looks into them, and they go out
as they came.
"""

import asyncio
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

T = TypeVar("T")
Steps = Generator[None, None, T]
LARGE_BYTES = 256 * 1024  # requests above it are handled in steps
TEXT_BYTES = 64 * 1024  # values above it are left as they are
TEXTS = frozenset({"content", "text", "refusal", "url", "image_url", "arguments", "description"})
SLICE_BYTES = 256 * 1024
ITEM_BYTES = 400  # what the handling of one more item costs, in bytes of text
LIST = msgspec.json.Decoder(list[Raw])  # whose values are not decoded
_FIELDS = msgspec.json.Decoder(dict[str, Raw])


def finish(steps: Steps[T]) -> T:
    """Make all steps, and return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


async def in_turns(steps: Steps[T]) -> T:
    """Make all steps, each in a turn of the event loop of its own, and return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        await asyncio.sleep(0)


class StepSize:
    """The cost of a step so far: whether it is long enough."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = 0

    def is_over(self, size: int = 0) -> bool:
        """Count one more item of this size. Return whether the step is long enough."""
        self._bytes += size + ITEM_BYTES
        if self._bytes < SLICE_BYTES:
            return False
        self._bytes = 0
        return True


def decode_lazily(raw: Raw, levels: int, pace: StepSize | None = None, name: str = "") -> Steps[Any]:
    """Decode a value; large texts, and large values below `levels`, stay Raw. Raises as msgspec does.

    `name`: of the field. Only texts that nobody compares stay Raw.
    """
    size, pace = memoryview(raw).nbytes, pace or StepSize()
    if size <= TEXT_BYTES:
        value = msgspec.json.decode(raw)
        if pace.is_over(size):
            yield
        return value
    first = bytes(memoryview(raw)[:1])
    if not levels or (first == b'"' and name in TEXTS):
        return raw
    yield
    if first not in (b"[", b"{"):
        return msgspec.json.decode(raw)
    if first == b"[":
        values: list[Any] = []
        for one in LIST.decode(raw):
            values.append((yield from decode_lazily(one, levels - 1, pace, name)))
        return values
    fields: dict[str, Any] = {}
    for field, one in _FIELDS.decode(raw).items():
        fields[field] = yield from decode_lazily(one, levels - 1, pace, field)
    return fields


def encode_list(values: Iterable[Any]) -> Steps[Raw]:
    """Encode a list of JSON values."""
    pace = StepSize()
    parts: list[bytes | memoryview] = [b"["]
    some: list[Any] = []
    for value in values:
        some.append(value)
        if pace.is_over(ITEM_BYTES):
            parts += (memoryview(msgspec.json.encode(some))[1:-1], b",")
            some = []
            yield
    parts.append(memoryview(msgspec.json.encode(some))[1:])
    if not some and len(parts) > 2:
        parts[-2:] = [b"]"]
    yield
    return Raw(b"".join(parts))


def in_full(value: Any) -> Any:
    """Return a value that was left as it is, decoded."""
    return msgspec.json.decode(value) if isinstance(value, Raw) else value


def is_blank_text(value: Any) -> bool:
    """Return whether a text, decoded or not, holds nothing but white space."""
    if isinstance(value, Raw):
        beginning = bytes(memoryview(value)[:TEXT_BYTES])
        if beginning.translate(None, b'" \\ntrf'):
            return False
        value = in_full(value)
    return not value.strip()
