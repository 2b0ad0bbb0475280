"""What is wrong with a body that is not JSON, in words that help to correct it. Entry: `unreadable`."""

import re

import msgspec

from dub5.service.errors import CompressedBody, GatewayError, InvalidRequest

COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
FIRST, SECOND = rb"\\u[dD][89abAB]..", rb"\\u[dD][c-fC-F].."
HALF_A_PAIR = re.compile(rb"%s(?!%s)|(?<!%s)%s" % (FIRST, SECOND, FIRST, SECOND), re.DOTALL)
MALFORMED = "JSON is malformed: "


def compressed(encoding: str) -> CompressedBody:
    """Return the error for a body with this content-encoding."""
    return CompressedBody(f"The body is compressed ({encoding}).")


def unreadable(body: bytes, error: msgspec.DecodeError | UnicodeDecodeError) -> GatewayError:
    """Return the error for a body that the decoder refused with `error`."""
    for magic, name in COMPRESSED.items():
        if body.startswith(magic):
            return compressed(name)
    return InvalidRequest(f"The body is not valid JSON: {_reason(body, error)}.")


def _reason(body: bytes, error: msgspec.DecodeError | UnicodeDecodeError) -> str:
    if not body:
        return "it is empty"
    if body[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in body[:2]:
        return "it must be UTF-8, and looks like UTF-16"
    if isinstance(error, UnicodeDecodeError):
        return "its text is not UTF-8"
    text = str(error)
    if half := HALF_A_PAIR.search(body):
        escape = body[half.start() : half.start() + 6].decode("ascii", "replace")
        return f"{escape} at byte {half.start()} is half of a character, without its other half"
    if not text.startswith(MALFORMED):
        return "it ends too early"
    return text.removeprefix(MALFORMED)
