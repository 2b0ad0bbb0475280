"""Texts by regular expression: `matching(pattern, rng)` returns one that the pattern finds something in."""

import re
import string
from collections.abc import Callable, Iterable
from random import Random
from re import _parser  # type: ignore[attr-defined]  # the parsed form has no public name
from typing import Any

CHARACTERS = string.ascii_lowercase + string.digits + string.ascii_uppercase + " " + string.punctuation
REPEATS_MORE_MAX = 3
CHARS_MAX = 10_000
CATEGORIES: dict[str, Callable[[str], bool]] = {
    "CATEGORY_DIGIT": str.isdigit,
    "CATEGORY_NOT_DIGIT": lambda c: not c.isdigit(),
    "CATEGORY_SPACE": str.isspace,
    "CATEGORY_NOT_SPACE": lambda c: not c.isspace(),
    "CATEGORY_WORD": lambda c: c.isalnum() or c == "_",
    "CATEGORY_NOT_WORD": lambda c: not (c.isalnum() or c == "_"),
}


def matching(pattern: str, rng: Random) -> str:
    """Return a text that matches. Raises ValueError where none is found: with look-around, for example."""
    try:
        text = "".join(_pieces(_parser.parse(pattern), rng, {}))
        if re.search(pattern, text) is not None:
            return text
    except (re.error, LookupError, OverflowError, RecursionError):
        pass
    raise ValueError(f"no text was found for the pattern {pattern[:80]!r}")


def _pieces(parsed: Iterable[Any], rng: Random, groups: dict[int, str]) -> Iterable[str]:
    for op, value in parsed:
        match str(op):
            case "LITERAL":
                yield chr(value)
            case "ANY":
                yield rng.choice(CHARACTERS)
            case "NOT_LITERAL":
                yield rng.choice([c for c in CHARACTERS if c != chr(value)])
            case "IN":
                yield rng.choice([c for c in CHARACTERS if _is_in(c, value)])
            case "BRANCH":
                yield from _pieces(rng.choice(value[1]), rng, groups)
            case "SUBPATTERN":
                group, _, _, inner = value
                text = "".join(_pieces(inner, rng, groups))
                groups[group or 0] = text
                yield text
            case "ATOMIC_GROUP":
                yield from _pieces(value, rng, groups)
            case "GROUPREF":
                yield groups[value]
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                least, most, inner = value
                if least > CHARS_MAX:
                    raise OverflowError
                most = min(int(most), least + REPEATS_MORE_MAX)
                for _ in range(rng.randint(max(least, min(1, most)), most)):
                    yield from _pieces(inner, rng, groups)
            case _:  # an anchor or look-around: the whole text is checked at the end
                continue


def _is_in(character: str, items: Iterable[Any]) -> bool:
    negated, found = False, False
    for op, value in items:
        match str(op):
            case "NEGATE":
                negated = True
            case "LITERAL":
                found = found or character == chr(value)
            case "RANGE":
                found = found or value[0] <= ord(character) <= value[1]
            case "CATEGORY":
                found = found or CATEGORIES[str(value)](character)
    return found is not negated
