"""Decode TOML tables as msgspec Structs, strictly: `decode(kind, data, where, problems)`.

Every mistake becomes one sentence, worded as for the service's settings, and all of them are reported. An
optional value that is wrong counts as its default, so that the rest of its table can still be checked.
"""

import difflib
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from dub5.service.config.decode_messages import validation_message

S = TypeVar("S", bound=msgspec.Struct)


def decode(kind: type[S], data: Mapping[str, Any], where: str, problems: list[str]) -> S | None:
    """Return `data` as `kind`; None if a required field is missing or wrong. Add each mistake to
    `problems`."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    problems += unknown_settings(data, fields, where)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        before = len(problems)
        if name in data:
            value = _value(field.type, data[name], f"{where}{name}", problems)
            if len(problems) == before or isinstance(value, msgspec.Struct):
                values[name] = value
        elif field.required:
            problems.append(f"{where}{name}: is missing.")
    is_complete = all(name in values or not field.required for name, field in fields.items())
    return kind(**values) if is_complete else None


def _value(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    if NoneType in get_args(kind):  # TOML has no null
        (kind,) = (other for other in get_args(kind) if other is not NoneType)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
        return decode(kind, value, f"{where}.", problems)
    if get_origin(kind) is dict and isinstance(value, dict):
        _, inner = get_args(kind)
        return {name: _value(inner, one, f"{where}.{name}", problems) for name, one in value.items()}
    if get_origin(kind) is tuple and isinstance(value, list):
        inner, _ = get_args(kind)
        return tuple(_value(inner, one, where, problems) for one in value)
    if get_origin(kind) is Literal:
        problems += unknown_choices([value], get_args(kind), where)
        return value
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message = validation_message(error).replace("an object", "a table")
        problems.append(f"{where}: {message} (it is {value!r}).")
        return None


def unknown_settings(data: Mapping[str, Any], known: Iterable[str], where: str) -> list[str]:
    """Return a sentence for each name that is not known."""
    known = list(known)
    return [
        f"{where}{name}: there is no such setting; {suggestion(name, known)}"
        for name in data
        if name not in known
    ]


def unknown_choices(values: Iterable[object], known: Iterable[str], where: str) -> list[str]:
    """Return a sentence for each value that is not one of the known."""
    known = tuple(known)
    return [
        f"{where}: {value!r} is not known; {suggestion(str(value), known)}"
        for value in values
        if value not in known
    ]


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?`, or the known names."""
    known = sorted(known)
    matches = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {matches[0]!r}?" if matches else f"known here: {', '.join(known)}."
