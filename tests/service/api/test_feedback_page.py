"""The commands of docs/use/feedback.md, as they stand there, against a service over a real SQLite."""

import re
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
PAGE = ROOT / "docs" / "use" / "feedback.md"
TOKEN = "the-token-of-the-operator-of-this-test"
EXPECTED = (  # of each command, in their order
    r'"value":-1,"note":"The sky is not green.",.*"kept":true}$',
    r'"target":"one/m","state":"open"',
    r'"state":"done","done_at":\d',
)


async def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command shows what the page says; the process tells its connections and its loop's lag."""
    monkeypatch.setenv("DUB5__ADMIN__TOKEN_ENV", "DUB5_TEST_TOKEN")
    monkeypatch.setenv("DUB5_TEST_TOKEN", TOKEN)
    variables, *commands = commands_of(PAGE)
    async with asked_service(tmp_path) as (service, turn):
        values = {"url": service.url, "key": KEY, "turn": turn, "token": TOKEN}
        assert_variables(variables, values)
        said = [await output_of(command, values) for command in commands]
        scrape = 'curl -s -H "authorization: Bearer $key" $url/metrics'
        metrics = await output_of(scrape, values)
    assert_shown(said, EXPECTED)
    for pattern in (r"^gateway_connections [1-9]", r"^process_loop_lag_seconds_count \d"):
        assert re.search(pattern, metrics, re.MULTILINE), pattern
    assert re.search(r"^gateway_store_room_bytes [1-9]", metrics, re.MULTILINE)
