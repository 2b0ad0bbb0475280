"""`dub5 playground`: what is kept from one start to the next."""

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dub5.chaos.cli import DID_NOT_RUN
from dub5.chaos.engines import serve
from dub5.chaos.scenario.model import Topology
from dub5.chaos.scenario.service_config import settings
from dub5.cli import main
from dub5.service.config.load import load

URLS = dict.fromkeys(Topology().providers, "http://127.0.0.1:1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def test_the_same_port_again(data: Path) -> None:
    """The port of the last start is taken again, and another one only while it is taken."""
    first = serve._choose_port(0, data)
    assert serve._choose_port(None, data) == first
    with socket.create_server(("127.0.0.1", first)):
        second = serve._choose_port(None, data)
    assert second != first
    assert serve._choose_port(None, data) == second


def test_a_port_that_is_asked_for(data: Path) -> None:
    """The option comes before what is remembered, and is remembered."""
    first, second = serve._choose_port(0, data), serve.free_port()
    assert serve._choose_port(second, data) == second != first
    assert serve._choose_port(None, data) == second


@pytest.mark.parametrize("content", ["", "port", "0", "99999", "-1", "\N{SNOWMAN}"])
def test_a_port_that_cannot_be_read(content: str, data: Path) -> None:
    """A spoiled file is as none: the default."""
    (data / "port").write_text(content)
    assert serve._read_port(data / "port") == serve.DEFAULT_PORT


@pytest.mark.parametrize("name", ["data", "with space", "100% 'odd' \"é?#"])
def test_settings(name: str, tmp_path: Path) -> None:
    """The service reads its settings for any folder: sessions, conversations and the database."""
    file = tmp_path / "dub5.toml"
    file.write_text(settings(Topology(), URLS) + serve._kept_in(tmp_path / name))
    loaded = load(file, {})
    assert loaded.settings.session is not None and loaded.settings.conversation is not None
    assert (loaded.settings.database.url or "").startswith("sqlite:////")


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing can be kept, nothing starts, and the option is named."""
    taken = tmp_path / "file"
    taken.touch()
    assert main(["playground", "--data", str(taken)]) == DID_NOT_RUN
    assert "name another folder with --data" in capsys.readouterr().err


def test_nobody_else_reads_it(tmp_path: Path) -> None:
    """A folder that the playground makes is readable for its user alone."""
    serve._make_folder(tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


@contextmanager
def playground(data: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run it; yield its process and the service's address. It ends with the block."""
    command = [sys.executable, "-m", "dub5", "playground", "--data", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if line.startswith("service: "))
            yield process, line.removeprefix("service: ").strip()
        finally:
            process.terminate()


def pid_of_service(process: "subprocess.Popen[str]") -> int:
    """Return the process of the service, below the playground and its supervisor."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    supervisors = {pid for pid, parent, _ in rows if parent == str(process.pid)}
    (service,) = [pid for pid, parent, args in rows if parent in supervisors and "dub5.service serve" in args]
    return int(service)


class Browser:
    """One browser with its cookie, to which the service is an address."""

    def __init__(self, client: aiohttp.ClientSession, url: str) -> None:
        self._client = client
        self._url = url

    async def call(self, method: str, path: str, **body: Any) -> Any:
        """Return what the service answers; a busy machine may find the database too slow for a while."""
        while True:
            request = self._client.request(
                method, f"{self._url}{path}", json=body or None, headers={"origin": self._url}
            )
            async with request as reply:
                if reply.status != 503:
                    assert reply.status < 300, await reply.text()
                    return await reply.json()

    async def ask(self, conversation: str, text: str) -> str:
        """Ask a question; return its outcome, once it is in the database."""
        turn = await self.call("POST", f"/v1/conversations/{conversation}/turns", text=text)
        while not turn["kept"]:
            turn = (await self.call("GET", f"/v1/conversations/{conversation}"))["turns"][-1]
        return str(turn["outcome"])


@pytest.mark.real_sockets
async def test_killed_and_started_again(data: Path) -> None:
    """A kill -9 of the service ends the playground, which says so; the next start has the same address, and
    the same browser goes on with its conversation."""
    (data / "port").write_text(str(serve.free_port()))
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.CookieJar(unsafe=True), connector=aiohttp.TCPConnector(force_close=True)
    ) as client:
        with playground(data) as (process, url):
            browser = Browser(client, url)
            await browser.call("POST", "/v1/session")
            conversation = (await browser.call("POST", "/v1/conversations"))["id"]
            assert await browser.ask(conversation, "Name three rivers.") == "complete"
            os.kill(pid_of_service(process), signal.SIGKILL)
            said = process.communicate()[0]
            assert (process.returncode, "service ended unexpectedly" in said) == (3, True)
            assert "Start it again" in said
        with playground(data) as (_, again):
            assert again == url
            assert await browser.ask(conversation, "And lakes?") == "complete"
            turns = (await browser.call("GET", f"/v1/conversations/{conversation}"))["turns"]
            assert [turn["question"]["text"] for turn in turns] == ["Name three rivers.", "And lakes?"]
