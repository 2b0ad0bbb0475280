"""docs/operate/http-530.md is true: its commands run, and the service does what the page says."""

import re
import shlex
from pathlib import Path

import pytest

from dub5 import cli
from dub5.chaos.scenario.parse import read
from dub5.service.config.options import BreakerOptions, HealthOptions
from dub5.service.resilience.classify import EDGE_STATUSES
from dub5.simulators.faults.answers import parse_fault
from tests.support.play import provider
from tests.support.source import ROOT
from tests.support.world import ServiceWorld, healthy, text_of

PAGE = (ROOT / "docs" / "operate" / "http-530.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
FORMS = {
    "cloudflare_1033_text": "1033",
    "cloudflare_1033_json": "1033",
    "cloudflare_1033_html": "1033",
    "cloudflare_1016_text": "1016",
    "cloudflare_1016": "1016",
}


def gone(form: str) -> ServiceWorld:
    """A service whose only provider stands behind Cloudflare, and is not found."""
    fault = parse_fault({"kind": "status", "status": 530, "body": form})
    return ServiceWorld(one=provider("openai", fault))


@pytest.mark.parametrize("form", FORMS)
async def test_its_code_is_read_and_its_words_are_not_passed_on(form: str) -> None:
    """Text, JSON and page: the trail names the code; the client gets a 503 in our own words."""
    async with gone(form) as world:
        answer = await world.ask(stream=True)
    (line,) = answer.json()["error"]["attempts"]
    assert (line["reason"], line["code"]) == ("http_530", FORMS[form])
    assert (answer.status, answer.json()["error"]["code"]) == (503, "all_targets_down")
    assert b"loudflare" not in answer.body and b"error code" not in answer.body
    assert len(world.asked["one"]) == 1


async def test_a_retry_after_is_kept_by_everybody_who_comes_later() -> None:
    """Cloudflare's JSON asks for two minutes: nobody is held for it, and nobody asks before."""
    fault = parse_fault({"kind": "status", "status": 530, "body": "cloudflare_1033_json", "first": 1})
    async with ServiceWorld(one=provider("openai", fault), two=healthy()) as world:
        first, second = [await world.ask(stream=True) for _ in range(2)]
    assert text_of(first.body) == text_of(second.body) == "hello big world"
    assert second.headers["x-dub5-trail"] == "two/m=ok;100ms"
    assert len(world.asked["one"]) == 1


def test_the_numbers_on_the_page() -> None:
    """They are the defaults; who changes those is sent here."""
    breaker, health = BreakerOptions(), HealthOptions()
    assert frozenset({*range(520, 528), 530}) == EDGE_STATUSES
    assert (health.failure_share, health.canary_interval_s) == (0.05, 2.0)
    assert (breaker.failures_in_a_row, breaker.open_s, breaker.host_open_max_s) == (5, 5.0, 55.0)
    assert breaker.slow_start_s == 10.0


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(line, marks=[pytest.mark.thorough] if line.startswith("dub5 chaos") else [], id=line)
        for line in COMMANDS
        if "toxiproxy" not in line
    ],
)
def test_the_commands_on_the_page(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each runs as it stands, and holds."""
    monkeypatch.chdir(ROOT)
    program, *arguments = shlex.split(command)
    assert program == "dub5"
    assert cli.main([*arguments, "--reports", str(tmp_path)]) == 0, capsys.readouterr().out


def test_the_scenario_is_for_both_engines() -> None:
    """The command that takes a minute is run by the chaos session; here only that there is one."""
    (command,) = (line for line in COMMANDS if "toxiproxy" in line)
    name, engine = shlex.split(command)[2], shlex.split(command)[4]
    assert engine in read(ROOT / "chaos" / "scenarios" / f"{name}.toml").engines
