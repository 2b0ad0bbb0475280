"""docs/prove/scenarios.md names everything that a scenario file may contain, and its example holds."""

import re
from pathlib import Path
from typing import get_args

import pytest
from msgspec.structs import fields

from dub5 import cli
from dub5.chaos.scenario.faults import ENVIRONMENT_KINDS, TCP_KINDS
from dub5.chaos.scenario.model import ENGINES, Confidence, Expect, Happened, Mechanism, Workload
from dub5.chaos.scenario.parse import FaultTable, ScenarioFile
from dub5.simulators.faults.answers import KINDS
from tests.support.source import ROOT

PAGE = (ROOT / "docs" / "prove" / "scenarios.md").read_text()
NAMED = {name for code in re.findall(r"`([^`\n]+)`", PAGE) for name in re.split(r"[. ]", code)}
DEFAULTS = {"rate_per_s": 20.0, "edge_s": 60.0, "stream_share": 0.7, "deadline_s": 30.0, "usual_s": 3.0}


def test_every_field_is_there() -> None:
    """The page names every field, fault, event, mechanism and engine."""
    names = {field.name for kind in (ScenarioFile, FaultTable, Workload, Expect) for field in fields(kind)}
    kinds = {*KINDS, *TCP_KINDS, *ENVIRONMENT_KINDS}
    values = {*get_args(Happened), *get_args(Mechanism), *ENGINES}
    assert names | kinds | values <= NAMED | {"workload", "expect", "fault"}
    assert all(word in PAGE for word in get_args(Confidence))


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults(name: str) -> None:
    """The page's table has the defaults of the code."""
    known = {one.name: one.default for kind in (Workload, Expect) for one in fields(kind)}
    assert known[name] == DEFAULTS[name]
    assert f"| `{name}` | {DEFAULTS[name]:g} |" in PAGE


def test_the_example(tmp_path: Path) -> None:
    """The page's example runs as it stands, and holds."""
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "mine.toml"
    file.write_text(example)
    assert (
        cli.main(["chaos", str(file), "--engine", "virtual", "--seed", "1", "--reports", str(tmp_path)]) == 0
    )
