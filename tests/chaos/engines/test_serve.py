"""`dub5 playground`: what is kept from one start to the next."""

import socket
import stat
from pathlib import Path

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
