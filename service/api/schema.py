"""A request's bytes into a ChatRequest, or into a sentence about what is wrong with them."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec import Raw

from dub5.service.config.decode_messages import field_path, validation_message
from dub5.service.config.settings import DeliveryName
from dub5.service.errors import InvalidRequest
from dub5.service.model import Caller, ChatBody, ChatRequest

T = TypeVar("T")
_FIELDS = msgspec.json.Decoder(dict[str, Raw])
_BODY = msgspec.json.Decoder(ChatBody)

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
DEADLINE_MS_MAX = 86_400_000
JSON_PARTS_MAX = (
    500_000  # strings' quotes, arrays and objects: far above any conversation, far below what hurts
)


def parse_chat(
    request_id: str, caller: Caller, headers: Mapping[str, str], body: bytes, json_depth_max: int
) -> ChatRequest:
    """A valid chat request. Raises InvalidRequest."""
    parsed, fields = read_json(headers, body, json_depth_max, _BODY)
    _check_messages(parsed)
    caching = headers.get("cache-control", "").lower()
    cache_allowed = "no-store" not in caching and "no-cache" not in caching
    return ChatRequest(request_id, caller, parsed, fields, cache_allowed, headers.get("accept-language", ""))


def read_json(
    headers: Mapping[str, str], body: bytes, json_depth_max: int, decoder: msgspec.json.Decoder[T]
) -> tuple[T, dict[str, Raw]]:
    """The body as the decoder's type, and each of its fields as it came. Raises InvalidRequest."""
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        # Also keeps web pages of other origins out: a browser asks first before it sends JSON across.
        raise InvalidRequest(
            "The body must be sent with content-type: application/json.", param="content-type"
        )
    _check_structure(body, json_depth_max)
    try:
        return decoder.decode(body), _FIELDS.decode(body)
    except msgspec.ValidationError as error:
        path = field_path(error)
        raise InvalidRequest(
            f"{path or 'The body'}: {validation_message(error)}.", param=path or None
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidRequest("The body is not valid JSON.") from None


def deadline_s(headers: Mapping[str, str]) -> float | None:
    """The time the caller allows, from `X-Deadline-Ms`. Raises InvalidRequest."""
    said = headers.get("x-deadline-ms")
    if said is None:
        return None
    if not (said.isascii() and said.isdigit() and len(said) <= 8) or not 0 < int(said) <= DEADLINE_MS_MAX:
        raise InvalidRequest(
            "X-Deadline-Ms must be a whole number of milliseconds above 0.", param="x-deadline-ms"
        )
    return int(said) / 1000


def delivery(headers: Mapping[str, str]) -> DeliveryName | None:
    """How the caller wants a stream, from `X-Dub5-Delivery`. Raises InvalidRequest."""
    match headers.get("x-dub5-delivery"):
        case None:
            return None
        case "live" | "whole" as said:
            return said
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


def _check_structure(body: bytes, depth_max: int) -> None:
    """Refuses what is nested too deeply, or made of too many parts to be decoded in little time and memory.

    Strings are taken out, then the innermost pairs of brackets, level by level, all at the speed of C: a loop over
    the bytes of a large body would hold up everybody else.
    """
    brackets = body.count(b"[") + body.count(b"{")
    if brackets <= depth_max and body.count(b'"') <= JSON_PARTS_MAX:
        return
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if unescaped.count(b'"') + brackets > JSON_PARTS_MAX:
        raise InvalidRequest(f"The body is made of more than {JSON_PARTS_MAX} parts.")
    nested = b"".join(unescaped.translate(_CURLY_TO_SQUARE, _NO_BRACKET).split(b'"')[::2])
    for _ in range(depth_max):
        nested = nested.replace(b"[]", b"")
        if not nested:
            return
    raise InvalidRequest(f"The body is nested more than {depth_max} levels deep.")


_CURLY_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKET = bytes(set(range(256)) - set(b'[]{}"'))
