"""Request parsing: turns a body into a ChatRequest, or raises InvalidRequest with a sentence for people."""

import re
from collections.abc import Callable, Mapping
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
from dub5.service.providers.slices import LIST, TEXT_BYTES, Steps, StepSize, decode_lazily, finish

T = TypeVar("T")
ReadInSteps = Callable[[Raw], Steps[Any]]
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
    parsed, fields = yield from read_large_json(headers, body, json_depth_max, ChatBody)
    _check_messages(parsed)
    languages = headers.get("accept-language", "")
    return ChatRequest(request_id, caller, parsed, fields, _cache_allowed(headers), languages, large=True)


def _cache_allowed(headers: Mapping[str, str]) -> bool:
    caching = headers.get("cache-control")
    if caching is None:
        return True
    caching = caching.lower()
    return "no-store" not in caching and "no-cache" not in caching


def read_large_json(
    headers: Mapping[str, str], body: bytes, json_depth_max: int, kind: type[T]
) -> Steps[tuple[T, dict[str, Raw]]]:
    """Do what `read_json` does, for a large body in steps. Raises InvalidRequest, CompressedBody."""
    check_content_type(headers)
    try:
        yield from structure_in_steps(body, json_depth_max, JSON_PARTS_MAX)
        fields = _FIELDS.decode(body)
        yield
        try:
            return (yield from _body_in_steps(kind, fields)), fields
        except msgspec.ValidationError:
            if not _make_numbers_whole(fields):
                raise
            return (yield from _body_in_steps(kind, fields)), fields
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not body.startswith(BOM):
            yield
            raise (yield from _invalid(body, error)) from None
    yield
    return (yield from read_large_json(headers, body.removeprefix(BOM), json_depth_max, kind))


def _body_in_steps(kind: type[T], fields: Mapping[str, Raw]) -> Steps[T]:
    """Decode what the service reads of a large body. Raises as msgspec does for the whole body."""
    known = {one.name: one for one in msgspec.structs.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, raw in fields.items():
        if name not in known:
            continue
        try:
            if (read := _READ_IN_STEPS.get(name)) is not None:
                values[name] = yield from read(raw)
            else:
                values[name] = yield from _read_value(raw, known[name].type)
        except msgspec.ValidationError as error:
            raise _inside(f".{name}", error) from None
    for name, one in known.items():
        if one.required and name not in values:
            raise msgspec.ValidationError(f"Object missing required field `{name}`")
    return kind(**values)


def _inside(place: str, error: msgspec.ValidationError) -> msgspec.ValidationError:
    """Return an error with the path of a value within a larger one."""
    what, _, path = str(error).partition(" - at `$")
    return msgspec.ValidationError(f"{what} - at `${place}{path or '`'}")


def _read_value(raw: Raw, kind: Any) -> Steps[Any]:
    if memoryview(raw).nbytes <= TEXT_BYTES:
        return msgspec.json.decode(raw, type=kind)
    values = [(yield from decode_lazily(raw, 2, name="text"))]
    yield from _read_texts(values, StepSize())
    return msgspec.convert(values[0], kind)


def _read_tools(raw: Raw) -> Steps[list[dict[str, Raw]] | None]:
    tools: list[dict[str, Raw]] | None = _TOOLS.decode(raw)
    yield
    return tools


def _read_messages(raw: Raw) -> Steps[list[Message]]:
    messages: list[Message] = []
    pace = StepSize()
    values = LIST.decode(raw)
    yield
    for index, one in enumerate(values):
        message = yield from decode_lazily(one, LEVELS["messages"], pace)
        yield from _read_texts(message, pace)
        if memoryview(one).nbytes > TEXT_BYTES:
            yield
        try:
            messages.append(msgspec.convert(message, Message))
        except msgspec.ValidationError as error:
            raise _inside(f"[{index}]", error) from None
    return messages


_READ_IN_STEPS: Mapping[str, ReadInSteps] = {"messages": _read_messages, "tools": _read_tools}


def _read_texts(value: Any, pace: StepSize) -> Steps[None]:
    """Put texts, as they are written, for those that were not decoded: only their length matters."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for place, one in inner:
        if pace.is_over():
            yield
        if isinstance(one, Raw):
            yield
            value[place] = str(memoryview(one)[1:-1], "latin-1")
        elif isinstance(one, dict | list):
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
        raise finish(_invalid(body, error)) from None


def check_content_type(headers: Mapping[str, str]) -> None:
    """Raise InvalidRequest or CompressedBody for a body that is not sent as JSON."""
    if headers.get("content-type") == "application/json" and "content-encoding" not in headers:
        return  # as nearly always
    if (encoding := headers.get("content-encoding", "").strip().lower()) not in ("", "identity"):
        raise compressed(encoding[:40])
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        # This also keeps out web pages of other origins: browsers send a CORS preflight before such JSON.
        raise InvalidRequest(
            "The body must be sent with content-type: application/json.", param="content-type"
        )


def _invalid(body: bytes, error: msgspec.DecodeError | UnicodeDecodeError) -> Steps[GatewayError]:
    if not isinstance(error, msgspec.ValidationError):
        return (yield from unreadable(body, error))
    path = field_path(error)
    return InvalidRequest(f"{path or 'The body'}: {validation_message(error)}.", param=path or None)


def _with_whole_numbers(body: bytes) -> bytes | None:
    """Return the body with whole numbers where they are written as 5.0 or 5e0; None if there are none."""
    try:
        fields = _FIELDS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return msgspec.json.encode(fields) if _make_numbers_whole(fields) else None


def _make_numbers_whole(fields: dict[str, Raw]) -> bool:
    """Write whole numbers for those that are written as 5.0 or 5e0. Return whether there were any.

    JSON knows one kind of number, and so do some clients. Providers may not, so they get whole ones.
    """
    changed = False
    for name in WHOLE_NUMBERS & fields.keys():
        raw = bytes(fields[name])
        if AS_FRACTION.fullmatch(raw) and float(raw).is_integer():
            fields[name], changed = Raw(b"%d" % int(float(raw))), True
    return changed


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
