"""Error bodies: reads code and message from JSON of every shape in use, and from Cloudflare's text and pages.

{"error": {"message", "type", "code"}}        OpenAI, Groq, OpenRouter (code may be a number)
{"error": {"type", "details": {"error_code"}}}    Anthropic
{"message", "code", "type"} | {"detail": ...} | {"error": "...", "status"}      Mistral, Pollinations
{"cloudflare_error": true, "error_code": 1033} | error code: 1033 | ... errorCode:1033 ...
"""

import re
from typing import TypeVar

import msgspec

T = TypeVar("T")
CODE_PATTERN = re.compile(r"[A-Za-z0-9_.:-]{1,64}")  # codes go into logs and trails, so only safe ones pass
EDGE_CODE = re.compile(rb"error code: (\d{3,4})\b|errorCode[\"']?:\s*[\"']?(\d{4})\b")
EDGE_BYTES = 4096


class _Details(msgspec.Struct):
    error_code: object = None


class _Detail(msgspec.Struct):
    message: object = None
    type: object = None
    code: object = None
    details: object = None


class _Body(msgspec.Struct):
    error: object = None
    message: object = None
    type: object = None
    code: object = None
    detail: object = None
    error_code: object = None


_BODY = msgspec.json.Decoder(_Body)


def read_error(body: bytes) -> tuple[str, str]:
    """Return code and message, empty where the body has none; of an HTML page only the code is read."""
    try:
        parsed = _BODY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = EDGE_CODE.search(body[:EDGE_BYTES])
        return ((found[1] or found[2]).decode(), "") if found else ("", "")
    if isinstance(parsed.error, str):
        return _code(parsed.code), parsed.error
    inner = _lenient(parsed.error, _Detail) or _Detail(parsed.message, parsed.type, parsed.code)
    special = _lenient(inner.details, _Details)
    message = inner.message if isinstance(inner.message, str) else _sentence(parsed.detail)
    for candidate in (special.error_code if special else None, parsed.error_code, inner.code, inner.type):
        if code := _code(candidate):
            return code, message
    return "", message


def _lenient(value: object, kind: type[T]) -> T | None:
    return msgspec.convert(value, kind) if isinstance(value, dict) else None


def _code(value: object) -> str:
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return text if CODE_PATTERN.fullmatch(text) else ""


def _sentence(detail: object) -> str:
    """Return the sentence in Mistral's `detail`: a string, or a list of locations with a sentence each."""
    if isinstance(detail, str):
        return detail
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        where = detail[0].get("loc")
        place = ".".join(str(part) for part in where if part != "body") if isinstance(where, list) else ""
        return f"{place}: {detail[0].get('msg', '')}" if place else str(detail[0].get("msg", ""))
    return ""
