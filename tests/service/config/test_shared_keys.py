"""One key in two places: told, never shown."""

from pathlib import Path

import pytest

from dub5.service.command import main
from dub5.service.config.load import load

PROVIDER = '[[provider]]\nname = "{0}"\ndialect = "openai"\nbase_url = "http://h/v1"\nkey_env = {1}\n'
ROUTE = '[[route]]\nname = "chat"\ntargets = ["one/m"]\n'
KEYS = {"KEY_A": "sk-secret-a", "KEY_B": "sk-secret-b", "KEY_C": "sk-secret-a"}


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (PROVIDER.format("one", '["KEY_A", "KEY_B"]'), ""),
        (
            PROVIDER.format("one", '["KEY_A"]') + PROVIDER.format("two", '["KEY_C"]'),
            "provider 'one'.key_env KEY_A and provider 'two'.key_env KEY_C: hold the same key",
        ),
        (
            PROVIDER.format("one", '["KEY_A", "KEY_C"]'),
            "provider 'one'.key_env KEY_A and provider 'one'.key_env KEY_C: hold the same key",
        ),
        (
            '[server]\ncaller_keys_env = ["KEY_C"]\n' + PROVIDER.format("one", '["KEY_A"]'),
            "provider 'one'.key_env KEY_A and server.caller_keys_env: hold the same key",
        ),
    ],
)
def test_in_one_file(text: str, warning: str, tmp_path: Path) -> None:
    """Two providers, two variables of one, or a provider and a caller with the same key are a warning."""
    (tmp_path / "dub5.toml").write_text(text + ROUTE)
    found = [one for one in load(tmp_path / "dub5.toml", KEYS).warnings if "same key" in one]
    assert "sk-secret" not in str(found)
    assert [one.partition(";")[0] for one in found] == ([warning] if warning else [])


def test_in_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`check --also` names the keys that two environments share; a file that cannot be used is an error."""
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    live, test, other = (tmp_path / f"{name}.toml" for name in ("live", "test", "other"))
    live.write_text(PROVIDER.format("one", '["KEY_A"]') + ROUTE)
    test.write_text(PROVIDER.format("one", '["KEY_C"]') + ROUTE)
    other.write_text(PROVIDER.format("one", '["KEY_B"]') + ROUTE)
    assert main(["check", "--config", str(live), "--also", str(other)]) == 0
    assert "same key" not in capsys.readouterr().out
    assert main(["check", "--config", str(live), "--also", str(other), "--also", str(test)]) == 0
    said = capsys.readouterr().out
    assert f"{live}: provider 'one'.key_env KEY_A and {test}: provider 'one'.key_env KEY_C" in said
    assert "sk-secret" not in said
    assert main(["check", "--config", str(live), "--also", str(tmp_path / "none.toml")]) == 2
    assert "none.toml" in capsys.readouterr().err
