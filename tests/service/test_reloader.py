"""Files that hold keys: a change is noticed by itself, once it is whole."""

import os
from pathlib import Path

import pytest

from dub5.service.config.load import load, secret_files
from dub5.service.reloader import FileWatch

SETTINGS = """
[server]
caller_keys_env = ["CALLER"]
[[provider]]
name = "one"
dialect = "openai"
base_url = "http://h/v1"
key_env = ["KEY_ONE", "KEY_TWO"]
[[route]]
name = "chat"
targets = ["one/m"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "key"
    found.write_text("sk-old")
    return found


def test_a_change_counts_once_it_stands_still(file: Path) -> None:
    """The look that sees a change does not report it, the next one does; what is read is known."""
    watch = FileWatch()
    watch.note_read([file])
    assert [watch.changed(), watch.changed()] == [False, False]
    file.write_text("sk-ne")
    assert not watch.changed()
    file.write_text("sk-new!")  # it was being written
    assert not watch.changed()
    assert watch.changed()
    watch.note_read([file])
    assert [watch.changed(), watch.changed()] == [False, False]


def test_a_link_to_another_folder(tmp_path: Path) -> None:
    """Kubernetes replaces the link of the whole folder: the file behind it is another one, of equal size."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_text(f"sk-{name}")
        os.utime(tmp_path / name / "key", (1, 1))
    (tmp_path / "data").symlink_to("a")
    watch = FileWatch()
    watch.note_read([tmp_path / "data" / "key"])
    (tmp_path / "new").symlink_to("b")
    (tmp_path / "new").replace(tmp_path / "data")
    assert [watch.changed(), watch.changed()] == [False, True]


def test_a_file_that_is_gone_for_a_while(file: Path) -> None:
    """Its end is a change, and so is its return."""
    watch = FileWatch()
    watch.note_read([file])
    file.unlink()
    assert [watch.changed(), watch.changed()] == [False, True]
    watch.note_read([file])
    file.write_text("sk-new")
    assert [watch.changed(), watch.changed()] == [False, True]


def test_other_settings_name_other_files(file: Path, tmp_path: Path) -> None:
    """After a reload the new files are watched; a change of an old one that came meanwhile is not lost."""
    watch, other = FileWatch(), tmp_path / "other"
    watch.note_read([file])
    file.write_text("sk-new")
    other.write_text("sk-other")
    watch.follow([file, other])
    assert [watch.changed(), watch.changed()] == [False, True]


def test_which_files(file: Path, tmp_path: Path) -> None:
    """Those of providers and callers that a variable names; keys in variables themselves have none."""
    (tmp_path / "dub5.toml").write_text(SETTINGS)
    environ = {"KEY_ONE_FILE": str(file), "KEY_TWO": "sk-two", "CALLER_FILE": str(file)}
    settings = load(tmp_path / "dub5.toml", environ).settings
    assert secret_files(settings, environ) == [file, file]
