"""Templates of fallback answers, for when no provider can answer: a TOML file with a table for each language.

[en]
general = "Our assistant is having a break. Ask again {wait}."
soon = "in a little while"              # replaces {wait}; "seconds" and "minutes" contain {n}
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BYTES_MAX = 256 * 1024
TEXT_CHARS_MAX = 4_000

GENERAL = "general"  # for a request that no provider can answer
OFFLINE = "offline"  # for a client that cannot reach the service
PHRASES = ("soon", "seconds", "minutes")
NAMES = (GENERAL, OFFLINE, *PHRASES)
# Requests are not sorted by topic any more: these texts of older files are read and never used.
UNUSED = frozenset(
    {"greeting", "thanks", "about", "code", "translation", "summary", "medical", "legal", "crisis"}
)
Templates = Mapping[str, Mapping[str, str]]  # by language, then by name
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


def read(path: Path) -> tuple[Templates, list[str]]:
    """Return the valid texts of a file, and one sentence for each problem."""
    problems: list[str] = []
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
        if len(data) > BYTES_MAX:
            return {}, [f"{str(path)!r} is larger than {BYTES_MAX:,} bytes."]
        tables = tomllib.loads(data.decode())
    except OSError as error:
        return {}, [f"{str(path)!r} cannot be read ({error.strerror})."]
    except UnicodeDecodeError:
        return {}, [f"{str(path)!r} is not UTF-8 text."]
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return {}, [f"{str(path)!r} is not valid TOML: {error}."]
    found = {language: _table(language, table, problems) for language, table in tables.items()}
    return {language: texts for language, texts in found.items() if texts}, problems


def unused(path: Path) -> list[str]:
    """Return the names of texts in a file that are read and never used, as "en.greeting"."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []  # `read` says why
    named = {language: table for language, table in tables.items() if isinstance(table, dict)}
    return [f"{language}.{name}" for language, table in named.items() for name in table if name in UNUSED]


def merged(base: Templates, override: Templates) -> Templates:
    """Merge two sets of texts; `override` wins."""
    return {name: {**base.get(name, {}), **override.get(name, {})} for name in (*base, *override)}


def _table(language: str, table: Any, problems: list[str]) -> dict[str, str]:
    if not _LANGUAGE.fullmatch(language) or not isinstance(table, dict):
        problems.append(f"{language!r}: write a table for each language, as [en].")
        return {}
    texts = {}
    for name, text in table.items():
        if name in UNUSED:
            continue
        if problem := _problem(name, text):
            problems.append(f"{language}.{name}: {problem}")
        else:
            texts[name] = text
    return texts


def _problem(name: str, text: Any) -> str:
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(NAMES)}."
        return f"there is no such text; {hint}"
    if not isinstance(text, str) or not text.strip():
        return "must be text."
    if len(text) > TEXT_CHARS_MAX:
        return f"is longer than {TEXT_CHARS_MAX:,} characters."
    known = {"soon": (), "seconds": ("{n}",), "minutes": ("{n}",)}.get(name, ("{wait}",))
    unknown = [placeholder for placeholder in _PLACEHOLDER.findall(text) if placeholder not in known]
    if unknown:
        return f"holds {unknown[0]!r}, which is no placeholder here."
    return ""
