"""What is wrong with a body that is not JSON, in words that help to correct it. Entry: `unreadable`."""

import re

import msgspec

from dub5.service.errors import CompressedBody, GatewayError, InvalidRequest
from dub5.service.providers.slices import Steps

COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
FIRST, SECOND = rb"\\u[dD][89abAB]..", rb"\\u[dD][c-fC-F].."
# One escape that is the first half without the second, or the second without the first. The bytes that all of
# them begin with are found quickly.
HALF_A_PAIR = re.compile(
    rb"\\u[dD](?:[89abAB]..(?!%s)|(?<!%s\\u[dD])[c-fC-F]..)" % (SECOND, FIRST), re.DOTALL
)
ESCAPE_BYTES = 6
SEARCHED_BYTES = 512 * 1024  # in one step
MALFORMED = "JSON is malformed: "


def compressed(encoding: str) -> CompressedBody:
    """Return the error for a body with this content-encoding."""
    return CompressedBody(f"The body is compressed ({encoding}).")


def unreadable(body: bytes, error: msgspec.DecodeError | UnicodeDecodeError) -> Steps[GatewayError]:
    """Return the error for a body that the decoder refused with `error`."""
    for magic, name in COMPRESSED.items():
        if body.startswith(magic):
            return compressed(name)
    return InvalidRequest(f"The body is not valid JSON: {(yield from _reason(body, error))}.")


def _reason(body: bytes, error: msgspec.DecodeError | UnicodeDecodeError) -> Steps[str]:
    if not body:
        return "it is empty"
    if body[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in body[:2]:
        return "it must be UTF-8, and looks like UTF-16"
    if isinstance(error, UnicodeDecodeError):
        return "its text is not UTF-8"
    text = str(error)
    if (start := (yield from _half_a_pair(body))) is not None:
        escape = body[start : start + ESCAPE_BYTES].decode("ascii", "replace")
        return f"{escape} at byte {start} is half of a character, without its other half"
    if not text.startswith(MALFORMED):
        return "it ends too early"
    return text.removeprefix(MALFORMED)


def _half_a_pair(body: bytes) -> Steps[int | None]:
    """Return where a half of a character is, or None."""
    for start in range(0, len(body), SEARCHED_BYTES):
        end = start + SEARCHED_BYTES  # a match may end later, and be seen to be one later still
        half = HALF_A_PAIR.search(body, start, end + 2 * ESCAPE_BYTES)
        if half is not None and half.start() < end:
            return half.start()
        yield
    return None
