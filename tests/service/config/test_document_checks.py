"""The settings of documents: what they need, and what the operator is warned of."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from dub5.service.config.load import load
from dub5.service.config.settings import DocumentSettings, LoadedSettings, SettingsProblems
from tests.support.one_route import ONE_ROUTE

KEYS = '[server]\ncaller_keys_env = ["KEY_ONE"]\n'
CONVERSATION = KEYS + '[conversation]\n[database]\nurl = "sqlite:///unused.db"\n'


def read(folder: Path, more: str) -> LoadedSettings:
    """Return the settings of a file."""
    (folder / "dub5.toml").write_text(ONE_ROUTE + more)
    return load(folder / "dub5.toml", {"KEY_ONE": "a-key-of-a-caller"})


def test_an_empty_table(tmp_path: Path) -> None:
    """An empty table turns documents on; none leaves them off."""
    loaded = read(tmp_path, CONVERSATION + "[documents]\n")
    assert loaded.settings.documents == DocumentSettings()
    assert not [one for one in loaded.warnings if one.startswith("documents") and sys.platform != "darwin"]
    assert read(tmp_path, CONVERSATION).settings.documents is None


def test_without_conversations(tmp_path: Path) -> None:
    """Documents without a database to keep them are an error."""
    with pytest.raises(SettingsProblems, match=r"documents: .* add a \[conversation\] table"):
        read(tmp_path, KEYS + "[documents]\n")


@pytest.mark.parametrize("line", ["readers = 0", "bytes_max = 10_485_761", "per_owner_max = 0", "reader = 2"])
def test_bounds(line: str, tmp_path: Path) -> None:
    """What no reader could keep to is an error."""
    with pytest.raises(SettingsProblems, match="documents"):
        read(tmp_path, f"{CONVERSATION}[documents]\n{line}\n")


def test_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, `check` says which files will be refused, and what to install."""
    find = importlib.util.find_spec

    def find_others(name: str, *more: Any) -> ModuleSpec | None:
        return None if name in ("pypdfium2", "docx") else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)
    monkeypatch.setattr(sys, "platform", "darwin")
    warnings = read(tmp_path, CONVERSATION + "[documents]\n").warnings
    found = [one for one in warnings if one.startswith("documents:")]
    assert [one.partition(" will be")[0] for one in found[:2]] == ["documents: PDFs", "documents: Word files"]
    assert all("install dub5[documents]" in one for one in found[:2])
    assert "macOS" in found[2]
