"""Loose decoding: an odd value in a field that is only looked at must not cost a good answer."""

from collections.abc import Collection
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from dub5.service.providers.base import ProviderFault, refusal_or
from dub5.service.providers.error_body import BYTES_MAX
from dub5.service.providers.sse import split_objects

S = TypeVar("S", bound=Struct)


def decode_loosely(data: bytes, kind: type[S], content: Collection[str]) -> S:
    """Decode an object without the fields whose value has another type. Raises ProviderFault.

    `content`: fields that hold the answer. An odd value in one of them is a fault.
    """
    try:
        return _loosely(msgspec.json.decode(data, type=dict[str, Any]), kind, content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise undecodable(data, content) from None


def undecodable(data: bytes, content: Collection[str]) -> ProviderFault:
    """Return the fault of what is no JSON to us: an error that it holds, if it holds no part of an answer.

    Some servers cut the text of an error within a character.
    """
    if data[:1] != b"{":
        return refusal_or("garbled" if data[:1] == b"[" else "not_json", data)
    has_answer = len(data) > BYTES_MAX or any(b'"%s"' % name.encode() in data for name in content)
    is_error = not has_answer and len(split_objects(data)) == 1
    return refusal_or("garbled", data) if is_error else ProviderFault("garbled")


def _loosely(given: dict[str, Any], kind: type[S], content: Collection[str]) -> S:
    fields: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if not (value := given.get(field.name)):
            continue
        try:
            fields[field.name] = msgspec.convert(value, field.type)
        except msgspec.ValidationError:
            is_list, inner = _inner(field.type)
            if inner is not None and not is_list and isinstance(value, dict):
                fields[field.name] = _loosely(value, inner, content)
            elif inner is not None and is_list and isinstance(value, list):
                fields[field.name] = [_loosely(one, inner, content) for one in value if isinstance(one, dict)]
            elif field.name in content:
                raise ProviderFault("garbled") from None
    return kind(**fields)


def _inner(of: Any) -> tuple[bool, type[Struct] | None]:
    """Return the struct that a field may hold, and whether it holds a list of them."""
    for one in getattr(of, "__args__", ()):
        if isinstance(one, type) and issubclass(one, Struct):
            return getattr(of, "__origin__", None) is list, one
        if (found := _inner(one))[1] is not None:
            return found
    return False, None
