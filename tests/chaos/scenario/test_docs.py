"""docs/prove/scenarios.md says all that a scenario may say, and its example holds."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from dub5 import cli
from dub5.chaos.scenario.faults import ENVIRONMENT_KINDS, TCP_KINDS
from dub5.chaos.scenario.model import ENGINES, Expect, Workload
from dub5.chaos.scenario.parse import CONFIDENCE, FAULT, HAPPENED, MECHANISMS, TOP
from dub5.simulators.faults.answers import KINDS
from tests.support.source import ROOT

PAGE = (ROOT / "docs" / "prove" / "scenarios.md").read_text()
NAMED = {name for code in re.findall(r"`([^`\n]+)`", PAGE) for name in re.split(r"[. ]", code)}
DEFAULTS = {"rate_per_s": 20.0, "edge_s": 60.0, "stream_share": 0.7, "deadline_s": 30.0, "usual_s": 3.0}


def test_every_field_is_there() -> None:
    """Nobody has to read the code to write one."""
    said = {*TOP, *FAULT, *(f.name for f in fields(Workload)), *(f.name for f in fields(Expect))} - {"fault"}
    kinds = {*KINDS, *TCP_KINDS, *ENVIRONMENT_KINDS}
    assert said | kinds | {*HAPPENED, *MECHANISMS, *ENGINES} <= NAMED | {"workload", "expect", "fault"}
    assert all(word in PAGE for word in CONFIDENCE)


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults(name: str) -> None:
    """As the table has them."""
    known = {one.name: one.default for kind in (Workload, Expect) for one in fields(kind)}
    assert known[name] == DEFAULTS[name]
    assert f"| `{name}` | {DEFAULTS[name]:g} |" in PAGE


def test_the_example(tmp_path: Path) -> None:
    """It can be played as it stands, and holds."""
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "mine.toml"
    file.write_text(example)
    assert (
        cli.main(["chaos", str(file), "--engine", "virtual", "--seed", "1", "--reports", str(tmp_path)]) == 0
    )
