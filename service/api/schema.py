"""Request parsing: turns a body into a ChatRequest, or raises InvalidRequest with a sentence for people."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from dub5.service.api.structure import check_structure, structure_in_steps
from dub5.service.api.unreadable import compressed, unreadable
from dub5.service.config.decode_messages import field_path, validation_message
from dub5.service.config.settings import DeliveryName
from dub5.service.errors import GatewayError, InvalidRequest
from dub5.service.model import Caller, ChatBody, ChatRequest, Message
from dub5.service.providers.fields import LEVELS
from dub5.service.providers.slices import LIST, TEXT_BYTES, Steps, StepSize, decode_lazily

T = TypeVar("T")
_FIELDS = msgspec.json.Decoder(dict[str, Raw])
_BODY = msgspec.json.Decoder(ChatBody)
_TOOLS = msgspec.json.Decoder(list[dict[str, Raw]] | None)

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
DEADLINE_MS_MAX = 86_400_000
BOM = b"\xef\xbb\xbf"
WHOLE_NUMBERS = frozenset({"max_tokens", "max_completion_tokens", "n"})
AS_FRACTION = re.compile(rb"-?\d{1,15}(?=[.eE])(\.\d{1,15})?([eE][+]?\d{1,2})?")
JSON_PARTS_MAX = (
    500_000  # quotes, arrays and objects; also commas: far above any conversation, far below harmful sizes
)


def parse_chat(
    request_id: str, caller: Caller, headers: Mapping[str, str], body: bytes, json_depth_max: int
) -> ChatRequest:
    """Parse a chat request. Raises InvalidRequest."""
    parsed, fields = read_json(headers, body, json_depth_max, _BODY)
    _check_messages(parsed)
    languages = headers.get("accept-language", "")
    return ChatRequest(request_id, caller, parsed, fields, _cache_allowed(headers), languages)


def parse_large_chat(
    request_id: str, caller: Caller, headers: Mapping[str, str], body: bytes, json_depth_max: int
) -> Steps[ChatRequest]:
    """Parse a large chat request in steps. Its large texts are not decoded. Raises InvalidRequest."""
    check_content_type(headers)
    try:
        yield from structure_in_steps(body, json_depth_max, JSON_PARTS_MAX)
        fields = _FIELDS.decode(body)
        yield
        parsed = yield from _body_in_steps(fields)
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError):  # mend it, or say what is wrong
        request = parse_chat(request_id, caller, headers, body, json_depth_max)
        return msgspec.structs.replace(request, large=True)
    _check_messages(parsed)
    languages = headers.get("accept-language", "")
    return ChatRequest(request_id, caller, parsed, fields, _cache_allowed(headers), languages, large=True)


def _cache_allowed(headers: Mapping[str, str]) -> bool:
    caching = headers.get("cache-control", "").lower()
    return "no-store" not in caching and "no-cache" not in caching


def read_large_json(
    headers: Mapping[str, str], body: bytes, json_depth_max: int, decoder: msgspec.json.Decoder[T]
) -> Steps[tuple[T, dict[str, Raw]]]:
    """Do what `read_json` does, for a large body in steps. Raises InvalidRequest, CompressedBody."""
    check_content_type(headers)
    try:
        yield from structure_in_steps(body, json_depth_max, JSON_PARTS_MAX)
        fields = _FIELDS.decode(body)
        yield
        return decoder.decode(body), fields
    except (msgspec.DecodeError, UnicodeDecodeError):
        return read_json(headers, body, json_depth_max, decoder)


def _body_in_steps(fields: Mapping[str, Raw]) -> Steps[ChatBody]:
    """Decode what the service reads of a large body. Raises as msgspec does, or KeyError."""
    small = {name: fields[name] for name in ChatBody.__struct_fields__ if name in fields}
    tools = _TOOLS.decode(small.pop("tools")) if "tools" in small else None
    messages = LIST.decode(small.pop("messages"))
    yield
    body = _BODY.decode(msgspec.json.encode({**small, "messages": []}))
    body.tools = tools
    pace = StepSize()
    for raw in messages:
        message = yield from decode_lazily(raw, LEVELS["messages"], pace)
        yield from _read_texts(message, pace)
        if memoryview(raw).nbytes > TEXT_BYTES:
            yield
        body.messages.append(msgspec.convert(message, Message))
    return body


def _read_texts(value: Any, pace: StepSize) -> Steps[None]:
    """Put texts, as they are written, for those that were not decoded: only their length matters."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for place, one in inner:
        if isinstance(one, Raw):
            value[place] = str(memoryview(one)[1:-1], "latin-1")
        elif isinstance(one, dict | list):
            if pace.is_over():
                yield
            yield from _read_texts(one, pace)


def read_json(
    headers: Mapping[str, str], body: bytes, json_depth_max: int, decoder: msgspec.json.Decoder[T]
) -> tuple[T, dict[str, Raw]]:
    """Return the decoded body, and each of its fields as raw JSON. Raises InvalidRequest, CompressedBody."""
    check_content_type(headers)
    check_structure(body, json_depth_max, JSON_PARTS_MAX)
    try:
        return decoder.decode(body), _FIELDS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        mended = body.removeprefix(BOM) if body.startswith(BOM) else _with_whole_numbers(body)
        if mended is not None:
            return read_json(headers, mended, json_depth_max, decoder)
        raise _invalid(body, error) from None


def check_content_type(headers: Mapping[str, str]) -> None:
    """Raise InvalidRequest or CompressedBody for a body that is not sent as JSON."""
    if (encoding := headers.get("content-encoding", "").strip().lower()) not in ("", "identity"):
        raise compressed(encoding[:40])
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        # This also keeps out web pages of other origins: browsers send a CORS preflight before such JSON.
        raise InvalidRequest(
            "The body must be sent with content-type: application/json.", param="content-type"
        )


def _invalid(body: bytes, error: msgspec.DecodeError | UnicodeDecodeError) -> GatewayError:
    if not isinstance(error, msgspec.ValidationError):
        return unreadable(body, error)
    path = field_path(error)
    return InvalidRequest(f"{path or 'The body'}: {validation_message(error)}.", param=path or None)


def _with_whole_numbers(body: bytes) -> bytes | None:
    """Return the body with whole numbers where they are written as 5.0 or 5e0; None if there are none.

    JSON knows one kind of number, and so do some clients. Providers may not, so they get whole ones.
    """
    try:
        fields = _FIELDS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    changed = False
    for name in WHOLE_NUMBERS & fields.keys():
        raw = bytes(fields[name])
        if AS_FRACTION.fullmatch(raw) and float(raw).is_integer():
            fields[name], changed = Raw(b"%d" % int(float(raw))), True
    return msgspec.json.encode(fields) if changed else None


def deadline_s(headers: Mapping[str, str]) -> float | None:
    """Return the caller's deadline in seconds, from `X-Deadline-Ms`, or None. Raises InvalidRequest."""
    value = headers.get("x-deadline-ms")
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 8) or not 0 < int(value) <= DEADLINE_MS_MAX:
        raise InvalidRequest(
            "X-Deadline-Ms must be a whole number of milliseconds above 0.", param="x-deadline-ms"
        )
    return int(value) / 1000


def delivery(headers: Mapping[str, str]) -> DeliveryName | None:
    """Return the caller's delivery mode, from `X-Dub5-Delivery`, or None. Raises InvalidRequest."""
    match headers.get("x-dub5-delivery"):
        case None:
            return None
        case "live" | "whole" as value:
            return value
    raise InvalidRequest("X-Dub5-Delivery must be live or whole.", param="x-dub5-delivery")


def _check_messages(body: ChatBody) -> None:
    if not body.messages:
        raise InvalidRequest("messages: must hold at least one message.", param="messages")
    for index, message in enumerate(body.messages):
        if message.role not in ROLES:
            known = ", ".join(sorted(ROLES))
            raise InvalidRequest(
                f"messages[{index}].role: must be one of {known}.", param=f"messages[{index}].role"
            )
