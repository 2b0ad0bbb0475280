"""Error bodies: reads code, message and status from JSON of any shape, and from the text and pages of edges.

{"error": {"message", "type", "code"}}            OpenAI, Groq, OpenRouter (code may be a number)
{"error": {"type", "details": {"error_code"}}}    Anthropic
{"message", "code", "type"} | {"detail": ...} | {"error": "...", "status"}      Mistral, FastAPI, Pollinations
[{"error": {"code", "message", "details": [{"@type": ".../google.rpc.RetryInfo", "retryDelay"}]}}]   Gemini
{"cloudflare_error": true, "error_code": 1033} | error code: 1033 | ... errorCode:1033 ...
{"error": {"message": "Provider returned error", "metadata": {"raw": "{...}"}}}     OpenRouter
{"success": false, "errors": [{"code", "message"}]} | "litellm.X: ... {...}"        other gateways

A gateway wraps the error of the provider behind it, as an object or as text. The innermost error that has a
message is the one that is read; what it lacks, the wrapper says. Call `read_error(body)`.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

CODE_PATTERN = re.compile(r"[A-Za-z0-9_.:-]{1,64}")  # codes go into logs and trails, so only safe ones pass
EDGE_CODE = re.compile(rb"error code: (\d{3,4})\b|errorCode[\"']?:\s*[\"']?(\d{4})\b")
EDGE_BYTES = 4096
EDGE_STATUS = 530  # that of Cloudflare's codes of four digits
BLOCKED = re.compile(rb"(?i)(?:request|you|access)\b[^<]{0,30}\bblocked|web application firewall|malicious")
BLOCKED_CODE = (
    "request_blocked"  # by a firewall in front of the provider, which answers with a page of its own
)
STATUS_PATTERN = re.compile(r"[45]\d\d")
NUMBER_MAX = 10**18  # larger ones are no code, status or time, and costly to write as text
RETRY_DELAY = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")

BYTES_MAX = 64 * 1024  # of an error that is decoded; of a longer one the beginning is searched
DEPTH_MAX = 24  # objects, lists and texts around an error
VALUES_MAX = 100  # looked at in one body
LISTED_MAX = 3  # of one list
REPR_CHARS_MAX = 4096  # of an error that was printed by Python
STARTS_MAX = 3  # braces in a text that may begin an error
PLAIN_CHARS_MAX = 1000

MESSAGES: Final = ("message", "msg", "detail", "error_message", "errorMessage") + (
    ("error_description", "error")  # the last one is often the name of the status
)
CODES: Final = ("error_code", "code", "type", "__type")
NO_CODES: Final = frozenset({"error", "errors", "failed", "None", "null", "none", "object", "0", "200"})
STATUSES: Final = ("status", "status_code", "statusCode", "raw_status_code", "code")
TRUSTED: Final = ("error", "errors", "detail")  # an object there is no part of the request
WRAPPERS: Final = (*TRUSTED, "message", "msg", "details", "metadata", "raw", "response", "body")
TEXTS: Final = frozenset({*MESSAGES, "errors", "raw"})  # their texts are messages, not only what they hold
# What repeats the request is never searched: a caller could write an error there.
ECHOES: Final = frozenset(
    ("input", "request", "messages", "prompt", "param", "params", "ctx", "loc", "headers", "user", "model")
    + ("flagged_input", "content", "tools", "user_id")
)
_SAID = re.compile(rb'"(?:message|msg|detail|error)"\s*:\s*"((?:[^"\\]|\\.){1,2000})"')
_CODED = re.compile(rb'"(?:error_code|code|type)"\s*:\s*"?([A-Za-z0-9_.:-]{1,64})"?\s*[,}]')
_START = re.compile(r"\{|\[\s*[\[{\"']")
_JSON = json.JSONDecoder()


class ErrorBody(Struct, frozen=True):
    """What an error body says, empty or None where it says nothing.

    `status`: the one that the body names. `quoted`: code or status stood where the request may be repeated.
    `plain`: the body is no JSON. `headers`: of the provider behind a gateway.
    """

    code: str = ""
    message: str = ""
    status: int | None = None
    wait_s: float | None = None
    quoted: bool = False
    plain: bool = False
    headers: Mapping[str, str] = {}


class _Reader:
    """One search for the error in a body, bounded in depth and in values."""

    def __init__(self) -> None:
        self._left = VALUES_MAX

    def read(self, value: object, depth: int = 0, *, quoted: bool = False) -> ErrorBody:
        """Return what the value says, and what the errors within it say better."""
        self._left -= 1
        if depth > DEPTH_MAX or self._left < 0:
            return ErrorBody()
        if isinstance(value, str):
            return self._text(value, depth, quoted)
        if isinstance(value, list):
            found = (self.read(one, depth + 1, quoted=quoted) for one in value[:LISTED_MAX])
            return next((one for one in found if one.message or one.code), ErrorBody())
        if not isinstance(value, dict):
            return ErrorBody()
        own = _own(value, quoted)
        inner = [self.read(child, depth + 1, quoted=quoted or not sure) for child, sure in _children(value)]
        texts = [value.get(name) for name in MESSAGES]
        nothing = ErrorBody()
        said = next((one for one in inner if one.message and one.message not in texts), nothing)
        coded = said if said.code else next((one for one in inner if one.code), own)
        coded = own if said.message and not said.code and own.code else coded
        stated = next((one for one in (own, *inner) if one.status is not None), nothing)
        return ErrorBody(
            coded.code,
            said.message or own.message,
            stated.status,
            next((one.wait_s for one in (own, *inner) if one.wait_s is not None), None),
            quoted or coded.quoted or stated.quoted,
            headers=next((one.headers for one in (own, *inner) if one.headers), {}),
        )

    def _text(self, text: str, depth: int, quoted: bool) -> ErrorBody:
        """Return the error that stands in a text, or the text."""
        for value in _objects_in(text):
            found = self.read(value, depth + 1, quoted=True)
            if found.message:
                return found
        if text.lstrip()[:1] in ("{", "["):  # cut off
            return _search(text.encode("utf-8", "replace"), quoted=True)
        return ErrorBody(message=text, quoted=quoted)


def read_error(body: bytes) -> ErrorBody:
    """Return what the body says; of an HTML page only the code is read."""
    beginning = body[:EDGE_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n")
    if len(body) <= BYTES_MAX:
        try:
            return _Reader().read(msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf")))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    if beginning[:1] in (b"{", b"["):
        return _odd_json(body[:BYTES_MAX])
    if found := EDGE_CODE.search(body[:EDGE_BYTES]):
        code = (found[1] or found[2]).decode()
        return ErrorBody(code, status=int(code) if len(code) == 3 else EDGE_STATUS, plain=True)
    if BLOCKED.search(body[:EDGE_BYTES]):
        return ErrorBody(BLOCKED_CODE, plain=True)
    if beginning[:1] == b"<" or len(body) > BYTES_MAX:
        return ErrorBody(plain=True)
    try:
        text = body.decode().strip()
    except UnicodeDecodeError:
        return ErrorBody(plain=True)
    read = _Reader().read(text)
    if read.message == text and (len(text) > PLAIN_CHARS_MAX or not "".join(text.split()).isprintable()):
        return ErrorBody(plain=True)
    return msgspec.structs.replace(read, plain=read.message == text)


def _own(error: dict[str, Any], quoted: bool) -> ErrorBody:
    """Return what one object says itself."""
    details, metadata = error.get("details"), error.get("metadata")
    codes = (*_detail_codes(details), *(error.get(name) for name in CODES), _name(error.get("status")))
    statuses = (_status(error.get(name)) for name in STATUSES)
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    return ErrorBody(
        next(filter(None, map(_code, codes)), ""),
        _message(error),
        next((status for status in statuses if status is not None), None),
        _retry_delay(details),
        quoted,
        headers=_headers(headers),
    )


def _message(error: dict[str, Any]) -> str:
    """Return the message, after the place that it speaks of (FastAPI's `loc`)."""
    texts = (error.get(name) for name in MESSAGES)
    message = next((text for text in texts if isinstance(text, str) and text), "")
    where = error.get("loc")
    place = ".".join(_short(part) for part in where if part != "body") if isinstance(where, list) else ""
    return f"{place}: {message}" if place and message else message


def _children(error: dict[str, Any]) -> Iterator[tuple[object, bool]]:
    """Yield the values that may hold the wrapped error, and whether they are no part of the request."""
    others = [name for name in error if name not in WRAPPERS and name not in ECHOES]
    silent = not _message(error)
    for name in (*WRAPPERS, *others):
        child = error.get(name)
        if isinstance(child, str) and name not in TEXTS:
            yield from ((one, False) for one in _objects_in(child) if silent or _is_error(one))
        elif name == "details" and isinstance(child, list):
            continue  # help and links, not errors
        elif child and (silent or name in WRAPPERS or _is_error(child)):
            yield child, name in TRUSTED


def _is_error(value: object) -> bool:
    """Return whether this looks like an error, and not like help."""
    return isinstance(value, dict) and (
        "error" in value or "errors" in value or ("message" in value and ("code" in value or "type" in value))
    )


def _objects_in(text: str) -> Iterator[object]:
    """Yield the objects in a text, and lists of them, that are written in JSON, or printed by Python."""
    if "{" not in text or len(text) > BYTES_MAX:
        return
    end = 0
    for _ in range(STARTS_MAX):
        if (start := _START.search(text, end)) is None:
            return
        try:
            value, end = _JSON.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            value, end = _printed(text[start.start() :]), start.start() + 1
        if isinstance(value, dict | list):
            yield value


def _printed(text: str) -> object:
    """Return the object, or the JSON, that begins a text as Python prints it; None if there is none."""
    text = text[: max(text.rfind("}"), text.rfind("]")) + 1]
    if len(text) > REPR_CHARS_MAX:
        return None
    try:
        if "\\" in text:
            return _JSON.raw_decode(text.replace("\\'", "'").replace("\\\\", "\\"))[0]
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text) if "'" in text else None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _odd_json(body: bytes) -> ErrorBody:
    """Return what JSON says that is broken off, or holds half a character or NaN."""
    try:
        return _Reader().read(json.loads(body.removeprefix(b"\xef\xbb\xbf")))
    except (ValueError, RecursionError):
        return _search(body, quoted=False)


def _search(body: bytes, *, quoted: bool) -> ErrorBody:
    """Return the first message and code in JSON that is broken off."""
    said, coded = _SAID.search(body), _CODED.search(body)
    try:
        message = json.loads(b'"' + said[1] + b'"', strict=False) if said else ""
    except ValueError:
        message = ""
    code = _code(coded[1].decode()) if coded and message else ""
    return ErrorBody(code, message, _status(code), quoted=True if code else quoted)


def _detail_codes(details: object) -> Iterator[object]:
    """Yield the codes in an error's details: Anthropic's, and Gemini's where it speaks of the key."""
    if isinstance(details, dict):
        yield details.get("error_code")
    for detail in _list(details):
        if (reason := _short(detail.get("reason"))).startswith("API_KEY_"):
            yield reason


def _retry_delay(details: object) -> float | None:
    """Return the seconds of a RetryInfo in the details of an error (Gemini), or None."""
    for detail in _list(details):
        if found := RETRY_DELAY.fullmatch(_short(detail.get("retryDelay"))):
            return float(found[1])
    return None


def _headers(given: object) -> Mapping[str, str]:
    """Return the headers of the provider behind a gateway, which it may repeat in its error."""
    if not isinstance(given, dict):
        return {}
    return {name.lower(): _short(value) for name, value in given.items() if isinstance(name, str)}


def _list(details: object) -> list[dict[str, object]]:
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []


def _code(value: object) -> str:
    text = _short(value)
    return text if CODE_PATTERN.fullmatch(text) and text not in NO_CODES else ""


def _status(value: object) -> int | None:
    """Return the HTTP status of an error that a field holds, or None."""
    text = _short(value)
    return int(text) if STATUS_PATTERN.fullmatch(text) else None


def _name(status: object) -> str:
    """Return a status that is a word."""
    return status if isinstance(status, str) and not STATUS_PATTERN.fullmatch(status) else ""


def _short(value: object) -> str:
    """Return a text, or a number of few digits as a text; else nothing."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < NUMBER_MAX:
        return str(value)
    return value if isinstance(value, str) else ""
