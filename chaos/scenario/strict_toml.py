"""Strict reading of TOML tables: every mistake becomes one plain sentence, and all of them are told at once."""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

Types = type | tuple[type, ...]

TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}


def suggestion(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or what there is."""
    known = sorted(known)
    matches = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {matches[0]!r}?" if matches else f"known here: {', '.join(known)}."


def unknown_keys(data: Mapping[str, Any], known: Iterable[str], where: str) -> list[str]:
    """A sentence for each key that nobody here knows."""
    known = list(known)
    return [
        f"{where}{key}: there is no such setting; {suggestion(key, known)}"
        for key in data
        if key not in known
    ]


def is_of_type(value: object, types: Types) -> bool:
    """Whether a TOML value has one of the types; true and false are no numbers, nor are `nan` and `inf`."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    wanted = types if isinstance(types, tuple) else (types,)
    return isinstance(value, wanted) and (bool in wanted or not isinstance(value, bool))


def wrong_type(data: Mapping[str, Any], fields: Mapping[str, Types], where: str) -> list[str]:
    """A sentence for each value that is not of its field's type."""
    return [
        f"{where}{key}: must be {_type_name(fields[key])} (it is {value!r})."
        for key, value in data.items()
        if key in fields and not is_of_type(value, fields[key])
    ]


def missing_keys(data: Mapping[str, Any], required: Iterable[str], where: str) -> list[str]:
    """A sentence for each field that must be there and is not."""
    return [f"{where}{key}: is missing." for key in sorted(required) if key not in data]


def _type_name(types: Types) -> str:
    return TYPE_NAMES.get(types[-1] if isinstance(types, tuple) else types, "a list")
