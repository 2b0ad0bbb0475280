"""Messages of the msgspec decoder, translated to plain English, and the path of the value at fault."""

import re
from typing import Any

import msgspec

_REPLACEMENTS = (
    (re.compile(r"Object missing required field `(.+)`"), "is missing"),
    (re.compile(r"Object contains unknown field `(.+)`"), "is not known here"),
    (re.compile(r"Expected `str` matching regex (.+)"), r"must have the form \1"),
    (re.compile(r"Expected `(str|array)` of length ([<>]=) (\d+)"), r"must have a length \2 \3"),
    (re.compile(r"^Expected (.+), got (.+)$"), r"must be \1, not \2"),
    (re.compile(r"^Expected (.+)$"), r"must be \1"),
    (re.compile(r"Invalid value "), "must not be "),
    (re.compile(r"`str`|\bstr\b"), "text"),
    (re.compile(r"`float`|\bfloat\b"), "a number"),
    (re.compile(r"`int`|\bint\b"), "a whole number"),
    (re.compile(r"`bool`|\bbool\b"), "true or false"),
    (re.compile(r"`array`|\barray\b"), "a list"),
    (re.compile(r"`object`|\bobject\b"), "an object"),
    (re.compile(r"`null`|\bnull\b"), "null"),
    (re.compile(r"`? \| `?"), " or "),
    (re.compile(r"`"), ""),
)


def validation_message(error: msgspec.ValidationError | str) -> str:
    """Return the message without its path, in plain English."""
    text = str(error).split(" - at `")[0]
    for technical, plain in _REPLACEMENTS:
        text = technical.sub(plain, text)
    return text


def field_path(error: msgspec.ValidationError) -> str:
    """Return the path of the value at fault, as "messages[0].content"; empty for the whole document."""
    _, _, path = str(error).partition(" - at `")
    path = path.rstrip("`").removeprefix("$").removeprefix(".")
    missing = re.match(r"Object (?:missing required|contains unknown) field `(.+?)`", str(error))
    if missing:
        return f"{path}.{missing[1]}" if path else missing[1]
    return path


def table_label(where: str, index: int, row: Any) -> str:
    """Return how messages call a table of a list: "route 'chat'", or "route number 1" if it has no name."""
    name = row.get("name") if isinstance(row, dict) else None
    return f"{where} {name!r}" if isinstance(name, str) else f"{where} number {index + 1}"
