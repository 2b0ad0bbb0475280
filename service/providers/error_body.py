"""Error bodies: reads code and message from JSON of every shape in use, and from Cloudflare's text and pages.

{"error": {"message", "type", "code"}}        OpenAI, Groq, OpenRouter (code may be a number)
{"error": {"type", "details": {"error_code"}}}    Anthropic
{"message", "code", "type"} | {"detail": ...} | {"error": "...", "status"}      Mistral, Pollinations
[{"error": {"code", "message", "details": [{"@type": ".../google.rpc.RetryInfo", "retryDelay"}]}}]   Gemini
{"cloudflare_error": true, "error_code": 1033} | error code: 1033 | ... errorCode:1033 ...
"""

import re
from typing import TypeVar

import msgspec

T = TypeVar("T")
CODE_PATTERN = re.compile(r"[A-Za-z0-9_.:-]{1,64}")  # codes go into logs and trails, so only safe ones pass
EDGE_CODE = re.compile(rb"error code: (\d{3,4})\b|errorCode[\"']?:\s*[\"']?(\d{4})\b")
EDGE_BYTES = 4096
BLOCKED = re.compile(rb"(?i)(?:request|you|access)\b[^<]{0,30}\bblocked|web application firewall|malicious")
BLOCKED_CODE = (
    "request_blocked"  # by a firewall in front of the provider, which answers with a page of its own
)
RETRY_DELAY = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")


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
_BODIES = msgspec.json.Decoder(list[_Body])


def read_error(body: bytes) -> tuple[str, str]:
    """Return code and message, empty where the body has none; of an HTML page only the code is read."""
    try:
        parsed = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = EDGE_CODE.search(body[:EDGE_BYTES])
        if found is None and BLOCKED.search(body[:EDGE_BYTES]):
            return BLOCKED_CODE, ""
        return ((found[1] or found[2]).decode(), "") if found else ("", "")
    if isinstance(parsed.error, str):
        return _code(parsed.code), parsed.error
    inner = _lenient(parsed.error, _Detail) or _Detail(parsed.message, parsed.type, parsed.code)
    special = _lenient(inner.details, _Details) or _key_fault(inner.details)
    message = inner.message if isinstance(inner.message, str) else _sentence(parsed.detail)
    for candidate in (special.error_code if special else None, parsed.error_code, inner.code, inner.type):
        if code := _code(candidate):
            return code, message
    return "", message


def read_retry_delay(body: bytes) -> float | None:
    """Return the seconds of a RetryInfo in the details of an error (Gemini), or None."""
    if b"retryDelay" not in body:
        return None
    try:
        inner = _lenient(_decode(body).error, _Detail)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    for detail in _list(inner.details if inner else None):
        if found := RETRY_DELAY.fullmatch(str(detail.get("retryDelay"))):
            return float(found[1])
    return None


def _decode(body: bytes) -> _Body:
    """Decode an error, or the first one of a list."""
    if body.lstrip()[:1] != b"[":
        return _BODY.decode(body)
    return next(iter(_BODIES.decode(body)), _Body())


def _list(details: object) -> list[dict[str, object]]:
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []


def _key_fault(details: object) -> _Details | None:
    """Return the reason of an ErrorInfo (Gemini) that speaks of the key, as the error's code."""
    reasons = [str(detail.get("reason", "")) for detail in _list(details)]
    return next((_Details(reason) for reason in reasons if reason.startswith("API_KEY_")), None)


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
