"""The commands of docs/use/troubleshooting.md, as they stand there, against a service."""

from pathlib import Path

import pytest

from tests.support.conversing import KEY
from tests.support.page_commands import (
    asked_service,
    assert_shown,
    assert_variables,
    commands_of,
    output_of,
)
from tests.support.source import ROOT

pytestmark = pytest.mark.real_sockets
PAGE = ROOT / "docs" / "use" / "troubleshooting.md"
EXPECTED = (  # of each command, in their order
    r"HTTP/1\.1 101 [\s\S]*\"type\":\"ready\"",
    r"^gateway_sockets 0",
    r"x-accel-buffering: no[\s\S]*event: end",
    r"\"outcome\":\"complete\"",
    r"\"components\":[\s\S]*\"database\"",
)


async def test_commands(tmp_path: Path) -> None:
    """Each command shows what the page says."""
    variables, *commands = commands_of(PAGE)
    async with asked_service(tmp_path) as (service, turn):
        values = {"url": service.url, "key": KEY, "turn": turn}
        assert_variables(variables, values)
        said = [await output_of(command, values) for command in commands]
    assert_shown(said, EXPECTED)
