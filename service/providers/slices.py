"""Slices: work on a large request, in steps that each take a few milliseconds.

A function that may take long is a generator: it yields between its steps, and returns its result.
`finish(steps)` makes them all at once, `in_turns(steps)` lets the event loop run in between.

`decode_lazily` decodes JSON and leaves large texts as they are (Raw): nobody looks into them, and they go out
as they came. `in_full` decodes such a text.
"""

import asyncio
import re
from collections.abc import Generator, Iterable, Sequence
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
_BLANK = b'" \\ntrf'  # what blank text may be written with
_FIRST_HALF = re.compile(rb"\\u[dD][89abAB]..", re.DOTALL)  # of a character that is written as two escapes
_ESCAPE_BYTES = 6


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
    if not levels or (first == b'"' and name in TEXTS and _may_have_words(raw)):
        return raw
    yield
    if first == b'"':
        return (yield from in_full(raw))
    if first not in (b"[", b"{"):
        return msgspec.json.decode(raw)
    if first == b"[":
        return (yield from _decode_list(raw, levels, pace, name))
    fields: dict[str, Any] = {}
    for field, one in _FIELDS.decode(raw).items():
        fields[field] = yield from decode_lazily(one, levels - 1, pace, field)
    return fields


def _decode_list(raw: Raw, levels: int, pace: StepSize, name: str) -> Steps[list[Any]]:
    values: list[Any] = []
    small: list[Raw] = []  # they are decoded together, which is much quicker
    for one in LIST.decode(raw):
        size = memoryview(one).nbytes
        if size <= TEXT_BYTES:
            small.append(one)
            if not pace.is_over(size):
                continue
        values += msgspec.json.decode(b"[%s]" % b",".join(small))
        small = []
        yield
        if size > TEXT_BYTES:
            values.append((yield from decode_lazily(one, levels - 1, pace, name)))
    values += msgspec.json.decode(b"[%s]" % b",".join(small))
    return values


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


def in_full(value: Any) -> Steps[Any]:
    """Return a text, decoded if it was left as it is."""
    if not isinstance(value, Raw):
        return value
    text, start, pieces = memoryview(value)[1:-1], 0, []
    while start < text.nbytes:
        end = _cut(text, start)
        pieces.append(msgspec.json.decode(b'"%s"' % text[start:end]))
        start = end
        yield
    return "".join(pieces)


def _cut(text: memoryview, start: int) -> int:
    """Return where a piece of a text that is written as JSON may end: not within a character."""
    piece = bytes(text[start : start + SLICE_BYTES])
    end = len(piece)
    if start + end == text.nbytes:
        return text.nbytes
    last = piece.rfind(b"\\", end - 2 * _ESCAPE_BYTES)
    if last >= 0 and _begins_escape(piece, last):
        first = last - _ESCAPE_BYTES
        in_two = _FIRST_HALF.match(piece, first) and _begins_escape(piece, first)
        return start + (first if in_two else last)
    while end and text[start + end] & 0xC0 == 0x80:  # in the middle of a UTF-8 sequence
        end -= 1
    return start + end


def _begins_escape(piece: bytes, place: int) -> bool:
    """Return whether the backslash there is not escaped itself."""
    before = piece[: place + 1]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 1


def joined(texts: Sequence[str | Raw], between: str = "") -> str | Raw:
    """Return the texts as one, which stays as it is written if one of them does."""
    decoded = [text for text in texts if isinstance(text, str)]
    if len(decoded) == len(texts):
        return between.join(decoded)
    if len(texts) == 1:
        return texts[0]
    parts: list[bytes | memoryview] = [b'"']
    for text in texts:
        parts.append(memoryview(text if isinstance(text, Raw) else msgspec.json.encode(text))[1:-1])
        parts.append(msgspec.json.encode(between)[1:-1])
    parts[-1] = b'"'
    return Raw(b"".join(parts))


def is_blank_text(value: Any) -> bool:
    """Return whether a text, decoded or not, holds nothing but white space."""
    return not isinstance(value, Raw) and not value.strip()


def _may_have_words(raw: Raw) -> bool:
    return bool(bytes(memoryview(raw)[:TEXT_BYTES]).translate(None, _BLANK))
