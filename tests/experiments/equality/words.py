"""The table of old and new words, and of what may differ."""

import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

ALLOWED = "allowed"
SCOPES = ("worlds", "requests")  # sections that hold for one kind of record; all others hold for both
OF_WORLDS = "worlds: "


class BadTable(ValueError):
    """The table contradicts itself; the message says where."""


class Words:
    """The table for one kind of record. `used` and `passed` count what was replaced and what was let pass."""

    def __init__(self, table: Mapping[str, Mapping[str, str]], scope: str) -> None:
        self.new = _renames(table, scope)
        self.used: Counter[str] = Counter()
        self.passed: Counter[str] = Counter()
        allowed = table.get(ALLOWED, {})
        self._lines = {
            key: re.compile(key.removeprefix(OF_WORLDS)) for key in allowed if key.startswith(OF_WORLDS)
        }
        self._paths = [key for key in allowed if not key.startswith(OF_WORLDS)]
        longest_first = sorted(self.new, key=lambda old: (-len(old), old))
        alone = "|".join(map(re.escape, longest_first)) or r"(?!)"  # without words: matches nothing
        self._old = re.compile(rf"(?:{alone})(?![\w-])")

    def translated(self, text: str) -> str:
        """Return the text with each old word replaced."""
        return self._old.sub(self._replaced, text) if self.new else text

    def _replaced(self, found: re.Match[str]) -> str:
        before = found.string[found.start() - 1] if found.start() else " "
        if before.isalnum() or before in "_-":  # looked at here: a look behind would make the search slow
            return found[0]
        self.used[found[0]] += 1
        return self.new[found[0]]

    def passes(self, name: str, path: str) -> bool:
        """Tell whether this value of a request may differ."""
        for key in self._paths:
            if fnmatchcase(f"{name}: {path}", key if ": " in key else f"*: {key}"):
                self.passed[key] += 1
                return True
        return False

    def leaves_out(self, line: str) -> bool:
        """Tell whether this line of a trace may differ."""
        for key, pattern in self._lines.items():
            if pattern.search(line):
                self.passed[key] += 1
                return True
        return False

    def summary(self) -> str:
        """Say how much was replaced and let pass."""
        passed = [f"{key!r} let pass {count} times" for key, count in sorted(self.passed.items())]
        met = f"{len(self.used)} of {len(self.new)} words met, {self.used.total()} times"
        return "; ".join([met, *passed])


def read(path: Path, scope: str) -> Words:
    """Read a table. Raises BadTable."""
    return Words(tomllib.loads(path.read_text(encoding="utf-8")), scope)


def _renames(table: Mapping[str, Any], scope: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for section, renames in table.items():
        if section == ALLOWED or (section in SCOPES and section != scope):
            continue
        for old, new in renames.items():
            if found.setdefault(old, new) != new:
                raise BadTable(f"{section}: {old!r} becomes {new!r} here and {found[old]!r} elsewhere")
    return found
