"""The labelled lines of injection_lines.toml: one half to write patterns by, one to measure them on."""

import hashlib
import tomllib
from typing import NamedTuple

from tests.support.source import ROOT

FILE = ROOT / "tests" / "service" / "admission" / "injection_lines.toml"


class LabelledLine(NamedTuple):
    """One line. `held_out`: it belongs to the half that no pattern was written by."""

    text: str
    attack: bool
    held_out: bool


def labelled_lines() -> list[LabelledLine]:
    """Return all lines of the file."""
    groups = tomllib.loads(FILE.read_text(encoding="utf-8"))["group"]
    return [
        LabelledLine(text, group["attack"], _is_held_out(text)) for group in groups for text in group["lines"]
    ]


def _is_held_out(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] % 2 == 1
