"""The commands of docs/use/troubleshooting.md, as they stand there, against a service."""

import re
from pathlib import Path

import pytest

from tests.support.conversing import KEY, Person, ServiceProcess, client
from tests.support.machine import program
from tests.support.page_commands import commands_of, output_of
from tests.support.slow_provider import slow_provider
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
    program("curl")
    variables, *commands = commands_of(PAGE)
    async with slow_provider(("Blue.",)) as provider, client() as http:
        service = ServiceProcess(tmp_path, "service", f"sqlite:///{tmp_path}/kept.db", provider.url)
        provider.say(1)
        try:
            await service.start()
            person = Person(http, service.url, 1)
            await person.begin()
            turn = (await person.ask(stream=True))["turn"]
            values = {"url": service.url, "key": KEY, "turn": turn}
            assert re.findall(r"^(\w+)=", variables, re.MULTILINE) == list(values)
            said = [await output_of(command, values) for command in commands]
        finally:
            service.kill()
    for text, pattern in zip(said, EXPECTED, strict=True):
        assert re.search(pattern, text, re.MULTILINE), text
