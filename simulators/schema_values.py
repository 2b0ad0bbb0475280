"""Values by JSON schema: what a good model writes where a tool or an answer has a schema.

Call `value_of(schema, text)`. The first string that may be any text is `text` itself, so the answer still
proves itself; all other values are drawn from it.
"""

import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from dub5.simulators.answers import VOCABULARY
from dub5.simulators.pattern_values import matching

OPTIONAL_DEPTH = 3  # deeper down, what may be left out is left out, so that recursive schemas come to an end
DEPTH_MAX = 40
VALUES_MAX = 2_000
CHARS_MAX = 100_000
TYPES_BY_KEYWORD = {
    "properties": "object",
    "required": "object",
    "additionalProperties": "object",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "minimum": "number",
    "exclusiveMinimum": "number",
    "maximum": "number",
    "exclusiveMaximum": "number",
    "multipleOf": "number",
}
TYPES: Mapping[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "array": list,
    "object": dict,
}
ALTERNATIVES = ("anyOf", "oneOf")
FORMATS: Mapping[str, Callable[[Random, str], str]] = {
    "date": lambda rng, word: (
        f"20{rng.randrange(10, 40)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
    ),
    "time": lambda rng, word: f"{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}Z",
    "duration": lambda rng, word: f"P{rng.randrange(1, 30)}DT{rng.randrange(1, 24)}H",
    "email": lambda rng, word: f"{word}@example.com",
    "hostname": lambda rng, word: f"{word}.example.com",
    "ipv4": lambda rng, word: f"192.0.2.{rng.randrange(256)}",
    "ipv6": lambda rng, word: f"2001:db8::{rng.randrange(1, 65_536):x}",
    "uri": lambda rng, word: f"https://example.com/{word}",
    "uuid": lambda rng, word: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
}


class NoValue(ValueError):
    """No value was found for a schema: it allows none, or is too large."""


def value_of(schema: object, text: str) -> Any:
    """Return a value that is valid by the schema. Raises NoValue, also for a schema that makes no sense."""
    try:
        return _Writer(schema, text).value(schema, 0)
    except (TypeError, AttributeError, ValueError, ArithmeticError, LookupError, RecursionError):
        raise NoValue from None


class _Writer:
    """Writes one value. `root` holds the schemas that a `$ref` names."""

    def __init__(self, root: object, text: str) -> None:
        self._root = root
        self._rng = Random(text)
        self._text: str | None = text  # until it is used
        self._values = 0

    def value(self, schema: object, depth: int) -> Any:
        self._values += 1
        if schema is False or depth > DEPTH_MAX or self._values > VALUES_MAX:
            raise NoValue
        if not isinstance(schema, dict):
            schema = {}
        if "$ref" in schema or "allOf" in schema:
            return self.value(self._merged(schema, 0), depth)
        for name in ALTERNATIVES:
            if isinstance(schema.get(name), list):
                return self._alternative(schema, name, depth)
        if "const" in schema:
            return schema["const"]
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return self._rng.choice([v for v in schema["enum"] if _is_of(v, schema.get("type"))])
        match _type_of(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                return self._string(schema)
            case "integer" | "number" as kind:
                return _number(schema, self._rng, whole=kind == "integer")
            case "boolean":
                return self._rng.random() < 0.5
            case "null":
                return None
        raise NoValue

    def _alternative(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        """Return a value by the first alternative that has one; deep down by the smallest."""
        alternatives: Sequence[Any] = schema[name]
        if depth > OPTIONAL_DEPTH:
            alternatives = sorted(alternatives, key=_is_compound)
        rest = {key: value for key, value in schema.items() if key != name}
        for alternative in alternatives:
            saved = self._text, self._rng.getstate()
            try:
                return self.value(self._merged({**rest, "allOf": [alternative]}, 0), depth + 1)
            except NoValue:
                self._text, state = saved
                self._rng.setstate(state)
        raise NoValue

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        required = list(filter(lambda name: isinstance(name, str), schema.get("required") or ()))
        others = schema.get("additionalProperties", True)
        if not properties and not required and others is not False:
            required, properties = ["answer"], {"answer": others}
        found = {}
        for name in dict.fromkeys([*properties, *required]):
            if name in required:
                found[name] = self.value(properties.get(name, others), depth + 1)
            elif depth < OPTIONAL_DEPTH:
                try:
                    found[name] = self.value(properties[name], depth + 1)
                except NoValue:
                    continue
        for number in range(schema.get("minProperties", 0) - len(found)):
            found[f"more_{number}"] = self.value(others, depth + 1)
        return found

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        first = schema.get("prefixItems")
        first = first if isinstance(first, list) else []
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        wanted = max(least, len(first), self._rng.randint(1, 2) if depth < OPTIONAL_DEPTH else 0)
        items = schema.get("items", True)
        found: list[Any] = []
        for index in range(int(min(wanted, most))):
            item = first[index] if index < len(first) else items
            for _ in range(20 if schema.get("uniqueItems") else 1):
                try:
                    value = self.value(item, depth + 1)
                except NoValue:
                    if index < least:
                        raise
                    return found
                if not schema.get("uniqueItems") or value not in found:
                    found.append(value)
                    break
        if len(found) < least:
            raise NoValue
        return found

    def _string(self, schema: Mapping[str, Any]) -> str:
        word = self._rng.choice(VOCABULARY)
        least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
        if least > CHARS_MAX:
            raise NoValue
        if schema.get("format") == "date-time":
            return f"{FORMATS['date'](self._rng, word)}T{FORMATS['time'](self._rng, word)}"
        if schema.get("format") in FORMATS:
            return FORMATS[schema["format"]](self._rng, word)
        if "pattern" in schema:
            return matching(str(schema["pattern"]), self._rng)
        if self._text is not None and least <= len(self._text) <= most:
            word, self._text = self._text, None
        while len(word) < least:
            word += " " + self._rng.choice(VOCABULARY)
        return word if len(word) <= most else word[: int(most)]

    def _merged(self, schema: Mapping[str, Any], depth: int) -> Any:
        """Return the schema with those that it refers to, or that must hold as well, merged into it."""
        if depth > DEPTH_MAX:
            raise NoValue
        rest = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
        others = [self._referred(schema["$ref"])] if "$ref" in schema else []
        for other in [*others, *(schema.get("allOf") or ())]:
            if other is False:
                raise NoValue
            if isinstance(other, dict):
                rest = _both(self._merged(other, depth + 1), rest)
        return rest

    def _referred(self, reference: object) -> Any:
        place = self._root
        for part in str(reference).removeprefix("#").split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(place, dict) or name not in place:
                raise NoValue
            place = place[name]
        return place


def _both(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema of what both schemas demand."""
    found = {**one, **other}
    for key in one.keys() & other.keys():
        a, b = one[key], other[key]
        if key == "properties":
            shared = {name: {"allOf": [a[name], b[name]]} for name in a.keys() & b.keys()}
            found[key] = {**a, **b, **shared}
        elif key == "required":
            found[key] = [*a, *b]
        elif key in ("type", "enum"):
            found[key] = _common(a, b)
        elif key.startswith(("min", "exclusiveMin")):
            found[key] = max(a, b)
        elif key.startswith(("max", "exclusiveMax")):
            found[key] = min(a, b)
    return found


def _common(one: Any, other: Any) -> list[Any]:
    ones, others = (value if isinstance(value, list) else [value] for value in (one, other))
    both = [value for value in ones if value in others]
    if "integer" in (*ones, *others) and "number" in (*ones, *others):
        both.append("integer")
    if not both:
        raise NoValue
    return both


def _type_of(schema: Mapping[str, Any]) -> str:
    """Return the type of the value: the first that the schema allows, but null last."""
    known = schema.get("type")
    if isinstance(known, list):
        known = next((kind for kind in known if kind != "null"), "null")
    if known is None:
        known = next((kind for key, kind in TYPES_BY_KEYWORD.items() if key in schema), "string")
    return str(known)


def _is_of(value: object, kind: object) -> bool:
    """Return whether a value of an enumeration is of the type that stands beside it."""
    if kind is None:
        return True
    if isinstance(kind, list):
        return any(_is_of(value, one) for one in kind)
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    return isinstance(value, TYPES.get(str(kind), ()))


def _is_compound(schema: object) -> bool:
    """Return whether values of the schema hold others, so that it may be recursive."""
    if not isinstance(schema, dict):
        return False
    return "$ref" in schema or _type_of(schema) in ("object", "array")


def _number(schema: Mapping[str, Any], rng: Random, *, whole: bool) -> float:
    """Return a number within the bounds. Raises NoValue."""
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    low, high = max(schema.get("minimum", -math.inf), above), min(schema.get("maximum", math.inf), below)
    if low == -math.inf:
        low = min(0, high - 100)
    high = min(high, low + 100)
    step = schema.get("multipleOf", 1 if whole else None)
    candidates: list[float] = [rng.uniform(low, high) for _ in range(5)] + [low, high, (low + high) / 2]
    if step is None:
        candidates = [round(c, 2) for c in candidates] + candidates
    else:
        first, last = math.ceil(low / step), math.floor(high / step)
        candidates = [rng.randint(first, last) * step for _ in range(20)] + [first * step, last * step]
    for number in candidates:
        fits = low <= number <= high and number not in (above, below)
        fits = fits and (step is None or (number / step).is_integer())
        if fits and (not whole or number == int(number)):
            return int(number) if whole else number
    raise NoValue
