"""What the settings read of the environment: $PORT, $DUB5_CONFIG, keys, and the list of all that."""

from pathlib import Path

import pytest

from dub5.service.command import main
from dub5.service.config.load import config_file, load, variables
from dub5.service.config.settings import SettingsProblems
from tests.experiments import environment
from tests.support.source import ROOT

SETTINGS = """
[server]
port = 1111
caller_keys_env = ["CALLER"]
[admin]
token_env = "ADMIN"
[[provider]]
name = "one"
dialect = "openai"
base_url = "http://h/v1"
key_env = ["KEY_ONE", "KEY_TWO"]
[[route]]
name = "chat"
targets = ["one/m"]
"""
KEYS = {
    "CALLER": "caller-1",
    "ADMIN": "an-admin-token-of-this-test",
    "KEY_ONE": "sk-one",
    "KEY_TWO": "sk-two",
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "dub5.toml"
    file.write_text(SETTINGS)
    return file


@pytest.mark.parametrize(
    ("environ", "option", "port"),
    [
        ({}, None, 1111),
        ({"PORT": ""}, None, 1111),
        ({"PORT": "2222"}, None, 2222),
        ({"PORT": "2222", "DUB5__SERVER__PORT": "3333"}, None, 3333),
        ({"PORT": "2222", "DUB5__SERVER__PORT": "3333"}, 4444, 4444),
    ],
)
def test_port(environ: dict[str, str], option: int | None, port: int, config: Path) -> None:
    """A platform's port lies over the file's; what is meant for us alone, and the option, lie over both."""
    assert load(config, KEYS | environ, port=option).settings.server.port == port


@pytest.mark.parametrize("port", ["http", "65536", "9" * 5_000, "-1", "٣"], ids=range(5))
def test_wrong_port(port: str, config: Path) -> None:
    """Another value of PORT is an error with its name."""
    with pytest.raises(SettingsProblems) as error:
        load(config, KEYS | {"PORT": port})
    assert error.value.problems == [f"PORT: must be a port from 0 to 65535 (it is {port!r})."]


def test_config_file() -> None:
    """DUB5_CONFIG names the settings file; without it there is the one of the current folder."""
    assert config_file({"DUB5_CONFIG": "/etc/dub5.toml"}) == Path("/etc/dub5.toml")
    assert config_file({}) == config_file({"DUB5_CONFIG": ""}) == Path("dub5.toml")


@pytest.mark.parametrize(
    "placeholder",
    [
        "your_openai_api_key_here",
        "YOUR-KEY-HERE",
        "your_api_key",
        "YOUR_OPENAI_API_KEY",
        "your-mistral-key",
        "sk-your-key",
        "INSERT_KEY",
        "REPLACE_WITH_KEY",
        "***",
        "changeme",
        "change-me",
        "sk-...",
        "...",
        "<key>",
        "<your key>",
        "xxx",
        "sk-xxxxxxxx",
        "sk-proj-xxxx",
        "${OPENAI_API_KEY}",
        "placeholder",
        "TODO",
    ],
)
@pytest.mark.parametrize("by_file", [False, True], ids=["variable", "file"])
def test_placeholders(placeholder: str, by_file: bool, config: Path, tmp_path: Path) -> None:
    """What a template holds in place of a key is refused, and not shown, wherever it stands."""
    file = tmp_path / "key"
    file.write_text(f"{placeholder}\n")
    given = {"KEY_ONE_FILE": str(file), "KEY_ONE": ""} if by_file else {"KEY_ONE": placeholder}
    with pytest.raises(SettingsProblems) as error:
        load(config, KEYS | given)
    (problem,) = error.value.problems
    assert problem.startswith("provider 'one'.key_env: the ")
    assert placeholder not in problem.replace("KEY_ONE", "")


@pytest.mark.parametrize(
    "key", ["sk-proj-here1", "sk-xxx1", "hereafter", "your-horse-battery", "key", "none"]
)
def test_no_placeholders(key: str, config: Path) -> None:
    """A key that only resembles one is a key."""
    assert load(config, KEYS | {"KEY_ONE": key}).provider_keys["one"][0].reveal() == key


def test_variables(config: Path) -> None:
    """Every variable that is read has a row with its state, whether or not the settings are valid."""
    environ = {
        "PORT": "1",
        "KEY_TWO_FILE": "/k",
        "CALLER": "secret-1",
        "DUB5__LOG__LEVEL": "loud",
        "OTHER": "1",
    }
    rows = {row.name: (row.state, row.read_by) for row in variables(config, environ)}
    assert rows == {
        "DUB5_CONFIG": ("not set", "names the settings file"),
        "PORT": ("set", "server.port"),
        "DUB5__LOG__LEVEL": ("set", "log.level"),
        "KEY_ONE": ("not set", "provider 'one'.key_env"),
        "KEY_TWO": ("by a file", "provider 'one'.key_env"),
        "CALLER": ("set", "server.caller_keys_env"),
        "ADMIN": ("not set", "admin.token_env"),
    }
    assert variables(config.with_name("gone.toml"), {})[0].state == "not set"


def test_check_env(config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`check --env` lists the variables before it says what is wrong, and shows no value."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("KEY_ONE")
    assert main(["check", "--env", "--config", str(config)]) == 2
    printed = capsys.readouterr()
    assert "  KEY_ONE      not set    provider 'one'.key_env\n" in printed.out
    assert "KEY_ONE is not set" in printed.err
    assert not [key for key in KEYS.values() if key in printed.out + printed.err]


def test_generated() -> None:
    """The page and the template are what the settings make them: `nox -s docs -- --write`."""
    assert (ROOT / "docs/operate/environment.md").read_text() == environment.page()
    assert (ROOT / ".env.example").read_text() == environment.example()


def test_every_listed_variable_is_read(config: Path) -> None:
    """Each variable of the page sets what it says, and its default is a value of its kind."""
    listed = list(environment.setting_variables())
    assert len(listed) > 60
    defaults = {variable.name: variable.default for variable in listed if variable.default}
    load(config, KEYS | defaults)
    for variable in listed:
        wrong = {"text": "", "list": "not a variable"}.get(variable.kind, "cat")
        if wrong:
            with pytest.raises(SettingsProblems):
                load(config, KEYS | {variable.name: wrong})


def test_template_holds_no_values() -> None:
    """No key of the template has a value, so none is mistaken for one."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert all(line.endswith("=") for line in lines if line and not line.startswith("#"))
