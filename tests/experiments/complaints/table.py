"""The rows of rows.toml, and whether what they name exists."""

import ast
import re
from functools import cache
from pathlib import Path

import msgspec

from tests.support.source import ROOT

THEMES = (
    "streams",
    "timeouts",
    "retry and routing",
    "dependencies",
    "memory and pools",
    "cancel",
    "limits",
    "drain and probes",
    "cache",
    "bodies and isolation",
    "speed",
)
COUNT = 42


class ComplaintRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One complaint. See rows.toml."""

    number: int
    theme: str
    threads: list[str]
    happened: str
    caught_by: list[str]
    surely: bool = True
    by_design: str = ""
    place: list[str] = []
    not_built: str = ""
    note: str = ""

    @property
    def kind(self) -> str:
        """What the project does about the complaint."""
        return "not built yet" if self.not_built else "by design" if self.by_design else "caught"


class _File(msgspec.Struct, forbid_unknown_fields=True):
    row: list[ComplaintRow]


@cache
def rows() -> tuple[ComplaintRow, ...]:
    """Return all rows as written."""
    text = (Path(__file__).parent / "rows.toml").read_bytes()
    return tuple(msgspec.toml.decode(text, type=_File).row)


def missing(name: str) -> str:
    """Return what is wrong with a name in `caught_by`; "" if the name exists."""
    kind, _, what = name.partition(":") if re.match(r"[a-z]+:[^:]", name) else ("", "", name)
    match kind:
        case "simulate":
            return "" if what in rules() else f"{what} is no rule of the simulation"
        case "scenario":
            path = ROOT / "chaos" / "scenarios" / f"{what}.toml"
            return "" if path.is_file() else f"there is no scenario {what}"
    file, _, test = what.partition("::")
    if not (ROOT / file).is_file():
        return f"{file} is not there"
    return "" if not test or test in tests_of(file) else f"{file} has no test {test}"


@cache
def tests_of(file: str) -> frozenset[str]:
    """Return the tests of a file, those of classes as `Class::test`. Nothing is run or imported."""
    found = []
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        found += [
            prefix + one.name
            for one in inside
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name.startswith("test_")
        ]
    return frozenset(found)


@cache
def rules() -> frozenset[str]:
    """Return the rules whose violation the simulation reports, and which its page explains."""
    code = "".join(path.read_text() for path in sorted((ROOT / "chaos" / "simulation").rglob("*.py")))
    page = (ROOT / "docs" / "prove" / "simulation.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| (?:S\d+ )?\| `([a-z_]+)` \|", page, re.MULTILINE)
    return frozenset(re.findall(r'"([a-z_]+)"', code)) & frozenset(named)
