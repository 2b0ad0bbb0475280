"""The documentation cannot drift: every setting, error code and reason has its line, and what it shows runs."""

import re
import tomllib
from pathlib import Path
from typing import get_args, get_origin

import msgspec
import pytest

from service.errors import every_error
from service.settings import Settings, SettingsProblems, load
from service.telemetry import names

DOCS = Path(__file__).parent.parent / "docs"
README = DOCS.parent / "README.md"


def settings_of(kind: type[msgspec.Struct], where: str = "") -> list[str]:
    found = []
    for field in msgspec.structs.fields(kind):
        name = f"{where}.{field.name}" if where else field.name
        inner = get_args(field.type)[0] if get_origin(field.type) is tuple else field.type
        nested = isinstance(inner, type) and issubclass(inner, msgspec.Struct)
        found += settings_of(inner, name) if nested else [name]
    return found


@pytest.mark.parametrize("setting", settings_of(Settings))
def test_settings(setting: str) -> None:
    """Every setting has a row that says what it does."""
    assert f"| `{setting}` |" in (DOCS / "settings.md").read_text()


@pytest.mark.parametrize("error", sorted({e.code for e in every_error()}))
def test_error_codes(error: str) -> None:
    """Every code a client may meet has a row that says what to do."""
    assert f"| `{error}` |" in (DOCS / "errors.md").read_text()


@pytest.mark.parametrize("reason", sorted(names.REASONS))
def test_reasons(reason: str) -> None:
    """Every reason in a trail is explained; the numbered ones by their pattern."""
    said = (DOCS / "reasons.md").read_text()
    general = re.sub(r"^http_\d+$", "http_<status>", reason)
    general = re.sub(r"^(pool|resolve|connect|send|wait|body)_[a-z]+$", "<stage>_<kind>", general)
    assert f"| `{reason}` |" in said or f"| `{general}` |" in said


@pytest.mark.parametrize("page", sorted([README, *DOCS.rglob("*.md")]), ids=lambda page: page.name)
def test_toml_examples(page: Path, tmp_path: Path) -> None:
    """Settings files shown in the documentation can be used as they stand."""
    for block in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL):
        assert tomllib.loads(block)
        if "[[provider]]" in block and "[[route]]" in block:
            file = tmp_path / "dub5.toml"
            file.write_text(block)
            names_of_keys = re.findall(r'"([A-Z][A-Z0-9_]+)"', block)
            try:
                load(file, dict.fromkeys(names_of_keys, "key"))
            except SettingsProblems as error:
                pytest.fail(f"{page.name}: {error}")


@pytest.mark.parametrize("page", sorted([README, *DOCS.rglob("*.md")]), ids=lambda page: page.name)
def test_links(page: Path) -> None:
    """Links to files of the repository lead somewhere."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
