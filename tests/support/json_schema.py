"""A validator of JSON schemas, of the keywords that tools and answers use. Call `problems(value, schema)`.

It shares no code with the simulators, whose values it judges.
"""

import datetime
import ipaddress
import json
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "integer": lambda v: TYPES["number"](v) and v == int(v),
}
FORMATS: dict[str, Callable[[str], object]] = {
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "date-time": datetime.datetime.fromisoformat,
    "email": lambda v: re.fullmatch(r"[^@\s]+@[^@\s]+", v),
    "hostname": lambda v: re.fullmatch(r"[a-z0-9.-]+", v),
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uri": lambda v: urlsplit(v).scheme and urlsplit(v).netloc,
    "uuid": uuid.UUID,
    "duration": lambda v: re.fullmatch(r"P(\d+D)?(T(\d+H)?)?", v),
}


def problems(value: Any, schema: Any, root: Any = None, at: str = "$") -> list[str]:
    """Return what is wrong with the value; nothing if it is valid."""
    return list(_problems(value, schema, schema if root is None else root, at))


def _problems(value: Any, schema: Any, root: Any, at: str) -> Iterator[str]:
    if isinstance(schema, bool):
        if not schema:
            yield f"{at}: nothing is allowed here"
        return
    if "$ref" in schema:
        place = root
        for part in schema["$ref"].removeprefix("#").split("/")[1:]:
            place = place[part]
        yield from _problems(value, place, root, at)
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds is not None and not any(TYPES[kind](value) for kind in kinds):
        yield f"{at}: {value!r} is not of {kinds}"
    if "const" in schema and not _same(value, schema["const"]):
        yield f"{at}: {value!r} is not {schema['const']!r}"
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        yield f"{at}: {value!r} is not in {schema['enum']!r}"
    for one in schema.get("allOf", ()):
        yield from _problems(value, one, root, at)
    for name, right in (("anyOf", lambda n: n >= 1), ("oneOf", lambda n: n == 1)):
        if name in schema and not right(sum(not problems(value, one, root) for one in schema[name])):
            yield f"{at}: {value!r} is not right for {name}"
    if isinstance(value, dict):
        yield from _of_object(value, schema, root, at)
    elif isinstance(value, list):
        yield from _of_array(value, schema, root, at)
    elif isinstance(value, str):
        yield from _of_string(value, schema, at)
    elif TYPES["number"](value):
        yield from _of_number(value, schema, at)


def _of_object(value: dict[str, Any], schema: Any, root: Any, at: str) -> Iterator[str]:
    known = schema.get("properties", {})
    yield from (f"{at}: {name} is missing" for name in schema.get("required", ()) if name not in value)
    for name, inner in value.items():
        yield from _problems(
            inner, known.get(name, schema.get("additionalProperties", True)), root, f"{at}.{name}"
        )
    if len(value) < schema.get("minProperties", 0):
        yield f"{at}: too few fields"


def _of_array(value: list[Any], schema: Any, root: Any, at: str) -> Iterator[str]:
    first = schema.get("prefixItems", [])
    for index, inner in enumerate(value):
        item = first[index] if index < len(first) else schema.get("items", True)
        yield from _problems(inner, item, root, f"{at}[{index}]")
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"{at}: {len(value)} items"
    texts = [json.dumps(inner, sort_keys=True) for inner in value]
    if schema.get("uniqueItems") and len(set(texts)) < len(texts):
        yield f"{at}: an item twice"


def _of_string(value: str, schema: Any, at: str) -> Iterator[str]:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        yield f"{at}: {len(value)} characters"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{at}: {value!r} does not match {schema['pattern']!r}"
    try:
        valid = FORMATS[schema["format"]](value) if schema.get("format") in FORMATS else True
    except ValueError:
        valid = False
    if not valid:
        yield f"{at}: {value!r} is no {schema['format']}"


def _of_number(value: float, schema: Any, at: str) -> Iterator[str]:
    bounds = {
        "minimum": value >= schema.get("minimum", value),
        "maximum": value <= schema.get("maximum", value),
        "exclusiveMinimum": value > schema.get("exclusiveMinimum", value - 1),
        "exclusiveMaximum": value < schema.get("exclusiveMaximum", value + 1),
        "multipleOf": (value / schema.get("multipleOf", value or 1)).is_integer(),
    }
    yield from (f"{at}: {value!r} breaks {name}" for name, held in bounds.items() if not held)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) is isinstance(other, bool)
