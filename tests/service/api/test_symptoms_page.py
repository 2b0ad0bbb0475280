"""The commands of docs/operate/symptoms.md, as they stand there, against a service; what it names exists."""

import os
import re
import sys
from pathlib import Path

import pytest

from dub5.service.telemetry import names
from tests.support.conversing import KEY
from tests.support.page_commands import (
    asked_service,
    assert_shown,
    assert_variables,
    commands_of,
    output_of,
)
from tests.support.source import ROOT

PAGE = ROOT / "docs" / "operate" / "symptoms.md"
EXPECTED = (  # of each command, in their order
    r"DUB5_TEST_CALLERS_KEY +set[\s\S]*Valid configuration",
    r"\[1/1\] one/m: (answers|NO)",
    r'1 "last_reason":"ok"',
    r'"event":"request",.*"outcome":"\w+".*"trail":\[\{"target":"one/m"',
    r"^gen_ai_client_operation_duration_seconds_count\{.*\} \d",
    r"^process_open_fds \d[\s\S]*^process_max_fds|^process_max_fds \d[\s\S]*^process_open_fds",
    r'"database":\{"status":"ok"',
    r"Nothing is pending",
)


@pytest.mark.real_sockets
async def test_commands(tmp_path: Path) -> None:
    """Each command shows what the page says."""
    variables, *commands = commands_of(PAGE)
    async with asked_service(tmp_path) as (service, _):
        values = {
            "url": service.url,
            "key": KEY,
            "config": f"{tmp_path}/service.toml",
            "log": f"{tmp_path}/service.log",
        }
        assert_variables(variables, values)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        secrets = {"DUB5_TEST_CALLERS_KEY": KEY, "DUB5_TEST_DATABASE_URL": f"sqlite:///{tmp_path}/kept.db"}
        said = [await output_of(command, values | secrets | {"PATH": path}) for command in commands]
    assert_shown(said, EXPECTED)


def test_names() -> None:
    """Each reason and each metric that the page names is one."""
    text = PAGE.read_text(encoding="utf-8")
    metrics = {metric.prometheus_name for metric in names.ALL}
    assert set(re.findall(r"`((?:process|gateway)_[a-z_]+)`", text)) <= metrics
    (table,) = re.findall(r"^\| the \[reason\][\s\S]*?\n\n", text, re.MULTILINE)
    reasons = {span for row in table.splitlines()[2:] for span in re.findall(r"`(\w+)`", row.split(" | ")[0])}
    assert len(reasons) > 10
    assert reasons <= names.REASONS | names.PASSED_OVER_REASONS
