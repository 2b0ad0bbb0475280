"""The wheel in another application: it claims one import name, and its command and plugin work there."""

import os
import re
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from pathlib import Path

import pytest

from tests.support.installed import PATIENCE_S, build_wheel, install_wheel, run
from tests.support.one_route import ONE_ROUTE
from tests.support.source import ROOT

THEIR_TEST = """
import service, simulators

def test_both(dub5_provider):
    assert (service.OWNER, simulators.OWNER) == ("them", "them")
    assert dub5_provider("openai").url.startswith("http://127.0.0.1:")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has the wheel, and whatever else is installed here."""
    return install_wheel(wheel, tmp_path_factory.mktemp("theirs") / "venv")


@pytest.fixture
def application(tmp_path: Path) -> Path:
    for name in ("service", "simulators"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('OWNER = "them"\n')
    (tmp_path / "dub5.toml").write_text(ONE_ROUTE)
    (tmp_path / "test_theirs.py").write_text(THEIR_TEST)
    return tmp_path


def test_one_name(wheel: Path) -> None:
    """Everything in the wheel lies below `dub5`, data files too, and no file of a test is in it."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"dub5"}
    assert {
        "dub5/cli.py",
        "dub5/py.typed",
        "dub5/service/web/index.html",
        "dub5/service/fallback/templates/en.toml",
        "dub5/service/store/migrations/0001_conversations.sql",
        "dub5/chaos/scenarios/demo.toml",
        "dub5/chaos/report/report.css",
        "dub5/loadtests/mixes.toml",
    } <= set(names)
    assert not [name for name in names if "__pycache__" in name or re.search(r"\btests?/", name)]


def test_from_the_source_archive(wheel: Path, tmp_path: Path) -> None:
    """A wheel that is built from the source archive, as installers do it, holds the same files."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=ROOT)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = next(path for path in tmp_path.iterdir() if path.is_dir())
    again = zipfile.ZipFile(build_wheel(tmp_path, unpacked))
    assert sorted(again.namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_their_own_tests(python: Path, application: Path) -> None:
    """Their `service` and `simulators` stay theirs, and our fixture is there."""
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_theirs.py", cwd=application)
    code = "import dub5.service; print(dub5.service.__file__)"
    assert str(ROOT) not in run(python, "-c", code, cwd=application)


def test_serve(python: Path, application: Path) -> None:
    """`dub5 serve` answers where the current folder has packages of the same names."""
    with subprocess.Popen(
        [python.with_name("dub5"), "serve", "--port", "0"],
        cwd=application,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("DUB5__")},
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip().removeprefix("listening on ")
            with urllib.request.urlopen(f"{url}/livez", timeout=PATIENCE_S) as answer:
                assert answer.status == 200
        finally:
            process.terminate()
    assert process.returncode == 0
