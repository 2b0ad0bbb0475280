"""The structure of a body before it is decoded: how deep it is nested, and how many parts it has.

check_structure       in one step, at the speed of C
structure_in_steps    the same for a large body, in steps
"""

import codecs
from itertools import accumulate

from dub5.service.errors import InvalidRequest
from dub5.service.providers.slices import Steps

COUNTED_BYTES = 2 * 1024 * 1024  # in one step
NESTED_BYTES = 128 * 1024
MIDDLE = (ord("[") + ord("]")) // 2


def check_structure(body: bytes, depth_max: int, parts_max: int) -> None:
    """Raise InvalidRequest for JSON nested too deeply, or with too many parts to decode cheaply.

    The check removes strings, then the innermost pairs of brackets, level by level, all at the speed of C: a
    Python loop over the bytes of a large body would block the event loop for all requests.
    """
    brackets = body.count(b"[") + body.count(b"{")
    few = len(body) <= parts_max or body.count(b'"') + body.count(b",") <= parts_max
    if brackets <= depth_max and few:
        return
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = unescaped.count(b'"')
    if strings + brackets > parts_max:
        raise InvalidRequest(f"The body has more than {parts_max} parts.")
    bare = b"".join(unescaped.translate(_CURLY_TO_SQUARE, _NO_STRUCTURE).split(b'"')[::2])
    if not few and bare.count(b",") > parts_max:
        raise InvalidRequest(f"The body has more than {parts_max} parts.")
    nested = bare.replace(b",", b"")
    for _ in range(depth_max):
        nested = nested.replace(b"[]", b"")
        if not nested:
            return
    raise InvalidRequest(f"The body is nested more than {depth_max} levels deep.")


_CURLY_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_STRUCTURE = bytes(set(range(256)) - set(b'[]{}",'))


def structure_in_steps(body: bytes, depth_max: int, parts_max: int) -> Steps[None]:
    """Check the structure of a large body, and its UTF-8. Raises InvalidRequest, UnicodeDecodeError."""
    brackets, others = 0, 0
    decode = None if body.isascii() else codecs.getincrementaldecoder("utf-8")().decode
    for start in range(0, len(body), COUNTED_BYTES):
        part = body[start : start + COUNTED_BYTES]
        brackets += part.count(b"[") + part.count(b"{")
        others += part.count(b'"') + part.count(b",")
        if decode is not None:
            decode(part, final=start + COUNTED_BYTES >= len(body))
        yield
    few = len(body) <= parts_max or others <= parts_max
    if brackets > depth_max or not few:
        yield from _nesting_in_steps(body, depth_max, parts_max, brackets, few)


def _nesting_in_steps(body: bytes, depth_max: int, parts_max: int, brackets: int, few: bool) -> Steps[None]:
    start = strings = commas = depth = 0
    while start < len(body):
        part = body[start : start + NESTED_BYTES]
        escapes = len(part) - len(part.rstrip(b"\\"))
        if escapes % 2:  # what is escaped belongs to it
            part = body[start : start + NESTED_BYTES + 1]
        start += len(part)
        pieces = part.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(pieces[strings % 2 :: 2]).translate(_CURLY_TO_SQUARE, _NO_STRUCTURE)
        strings += len(pieces) - 1
        commas += outside.count(b",")
        if strings + brackets > parts_max or (not few and commas > parts_max):
            raise InvalidRequest(f"The body has more than {parts_max} parts.")
        *_, depth = depths = list(accumulate(outside.replace(b",", b""), _deeper, initial=depth))
        if max(depths) > depth_max:
            raise InvalidRequest(f"The body is nested more than {depth_max} levels deep.")
        yield


def _deeper(depth: int, bracket: int) -> int:
    return depth + MIDDLE - bracket
