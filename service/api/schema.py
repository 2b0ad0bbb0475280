"""A request's bytes into a ChatRequest, or into a sentence about what is wrong with them."""

from collections.abc import Mapping

import msgspec
from msgspec import Raw

from service.chat import Caller, ChatBody, ChatRequest
from service.errors import InvalidRequest
from service.words import in_words, where

_FIELDS = msgspec.json.Decoder(dict[str, Raw])
_BODY = msgspec.json.Decoder(ChatBody)

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
DEADLINE_MS_MAX = 86_400_000


def parse_chat(
    request_id: str, caller: Caller, headers: Mapping[str, str], body: bytes, json_depth_max: int
) -> ChatRequest:
    """A valid chat request. Raises InvalidRequest."""
    content_type = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        # Also keeps web pages of other origins out: a browser asks first before it sends JSON across.
        raise InvalidRequest("The body must be sent as application/json.", param="content-type")
    if _too_deep(body, json_depth_max):
        raise InvalidRequest(f"The body is nested more than {json_depth_max} levels deep.")
    try:
        parsed = _BODY.decode(body)
        fields = _FIELDS.decode(body)
    except msgspec.ValidationError as error:
        path = where(error)
        raise InvalidRequest(f"{path or 'The body'}: {in_words(error)}.", param=path or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidRequest("The body is not valid JSON.") from None
    _check(parsed)
    no_store = "no-store" in headers.get("cache-control", "") or "no-cache" in headers.get(
        "cache-control", ""
    )
    return ChatRequest(request_id, caller, parsed, fields, cache_allowed=not no_store)


def deadline_s(headers: Mapping[str, str]) -> float | None:
    """The time the caller allows, from `X-Deadline-Ms`. Raises InvalidRequest."""
    said = headers.get("x-deadline-ms")
    if said is None:
        return None
    if not (said.isascii() and said.isdigit()) or not 0 < int(said[:12]) <= DEADLINE_MS_MAX:
        raise InvalidRequest(
            "X-Deadline-Ms must be a whole number of milliseconds above 0.", param="x-deadline-ms"
        )
    return int(said) / 1000


def _check(body: ChatBody) -> None:
    if not body.messages:
        raise InvalidRequest("messages: must hold at least one message.", param="messages")
    for index, message in enumerate(body.messages):
        if message.role not in ROLES:
            known = ", ".join(sorted(ROLES))
            raise InvalidRequest(
                f"messages[{index}].role: must be one of {known}.", param=f"messages[{index}].role"
            )


def _too_deep(body: bytes, depth_max: int) -> bool:
    """Whether arrays and objects stand more than `depth_max` levels inside each other.

    Strings are taken out, then the innermost pairs of brackets, level by level, all at the speed of C: a loop over
    the bytes of a large body would hold up everybody else.
    """
    if body.count(b"[") + body.count(b"{") <= depth_max:
        return False
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(unescaped.translate(_ROUND_TO_SQUARE, _NO_BRACKET).split(b'"')[::2])
    for _ in range(depth_max):
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return False
    return True


_ROUND_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKET = bytes(set(range(256)) - set(b'[]{}"'))
