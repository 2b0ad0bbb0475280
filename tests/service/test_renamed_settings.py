"""Renamed settings: the old name is read for one more version, and `check` says so."""

from pathlib import Path

import pytest

from dub5.service.command import main
from dub5.service.config.load import load
from dub5.service.config.renamed import RENAMED
from dub5.service.config.settings import LoadedSettings, Settings, SettingsProblems

FILE = """
[[provider]]
name = "one"
dialect = "openai"
base_url = "https://one.example/v1"
{provider}
[[route]]
name = "chat"
targets = ["one/gpt"]
{route}
{other}
"""
VALUES = {
    "route.clocks": "{first_token_s = 7.0}",
    "route.notices": '["is being deprecated"]',
    "provider.differs": "{developer_role = false}",
    "breaker.ramp_s": "7.0",
    "breaker.slow_of_clock": "0.25",
    "health.trial_s": "7.0",
    "cache.redis.turn_s": "7.0",
}
LABELS = {"route": "route 'chat': ", "provider": "provider 'one': "}


def file_with(path: str, *names: str) -> str:
    """A file in which the setting `path` has the given names."""
    table = path.rpartition(".")[0]
    lines = "\n".join(f"{name} = {VALUES[path]}" for name in names)
    parts = {"provider": "", "route": "", "other": f"[{table}]\n{lines}"}
    if table in LABELS:
        parts |= {table: lines, "other": ""}
    return FILE.format(**parts)


def read(
    tmp_path: Path, text: str, environ: dict[str, str] | None = None, **more: Settings
) -> LoadedSettings:
    file = tmp_path / "dub5.toml"
    file.write_text(text)
    return load(file, environ or {}, **more)


def names(path: str) -> tuple[str, str, str]:
    """The old name, the new one, and the old one as messages write it."""
    table, _, old = path.rpartition(".")
    return old, RENAMED[path], f"{LABELS.get(table, f'{table}.')}{old}"


def test_every_old_name_has_an_example() -> None:
    """No renamed setting is left out below."""
    assert VALUES.keys() == RENAMED.keys()


@pytest.mark.parametrize("path", VALUES)
class TestFile:
    def test_an_old_name(self, path: str, tmp_path: Path) -> None:
        """An old name means the same as the new one, and gives one warning that names both."""
        old, new, shown = names(path)
        loaded, usual = read(tmp_path, file_with(path, old)), read(tmp_path, file_with(path, new))
        assert (
            loaded.settings
            == usual.settings
            != read(tmp_path, FILE.format(provider="", route="", other="")).settings
        )
        assert loaded.warnings == (f"{shown}: is called {new} now; the old name goes with the next version.",)
        assert usual.warnings == ()

    def test_a_reload(self, path: str, tmp_path: Path) -> None:
        """A reload reads an old name too, and warns again."""
        old, new, _ = names(path)
        text = file_with(path, old)
        running = read(tmp_path, text).settings
        again = read(tmp_path, text, running=running)
        assert again.settings == running
        assert len(again.warnings) == 1
        assert f"is called {new} now" in again.warnings[0]

    def test_both_names(self, path: str, tmp_path: Path) -> None:
        """Both names at once are one problem, which names both."""
        old, new, shown = names(path)
        with pytest.raises(SettingsProblems) as caught:
            read(tmp_path, file_with(path, old, new))
        assert caught.value.problems == [
            f"{shown}: is set under its new name {new} as well; keep {new} only."
        ]

    def test_a_slip_in_an_old_name(self, path: str, tmp_path: Path) -> None:
        """The hint for a misspelt old name is the new name."""
        old, new, _ = names(path)
        with pytest.raises(SettingsProblems) as caught:
            read(tmp_path, file_with(path, f"{old}x"))
        assert f"{old}x: there is no such setting; did you mean {new!r}?" in caught.value.problems[0]


def test_check_shows_the_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`dub5 check` accepts an old name and shows the warning."""
    file = tmp_path / "dub5.toml"
    file.write_text(file_with("route.clocks", "clocks"))
    assert main(["check", "--config", str(file)]) == 0
    assert "route 'chat': clocks: is called timeouts now" in capsys.readouterr().out


def test_a_table_of_the_wrong_type(tmp_path: Path) -> None:
    """What is no table is still reported as such, beside all other problems."""
    with pytest.raises(SettingsProblems) as caught:
        read(tmp_path, "breaker = 3\nroute = [4]\nprovider = 'one'")
    assert "breaker: must be a table." in caught.value.problems
    assert "route number 1: must be a table." in caught.value.problems


class TestEnvironment:
    def test_an_old_name(self, tmp_path: Path) -> None:
        """A variable with an old name means the same, and the warning names both variables."""
        file = FILE.format(provider="", route="", other="")
        loaded = read(tmp_path, file, {"DUB5__BREAKER__RAMP_S": "7"})
        assert loaded.settings.breaker.slow_start_s == 7.0
        (warning,) = loaded.warnings
        assert warning.startswith("DUB5__BREAKER__RAMP_S: is called DUB5__BREAKER__SLOW_START_S now;")

    def test_both_names(self, tmp_path: Path) -> None:
        """Both variables at once are a problem; neither is silently preferred."""
        environ = {"DUB5__BREAKER__RAMP_S": "7", "DUB5__BREAKER__SLOW_START_S": "8"}
        with pytest.raises(SettingsProblems) as caught:
            read(tmp_path, FILE.format(provider="", route="", other=""), environ)
        (problem,) = caught.value.problems
        both = "DUB5__BREAKER__RAMP_S: is set under its new name DUB5__BREAKER__SLOW_START_S as well"
        assert problem.startswith(both)

    @pytest.mark.parametrize("in_file", ["ramp_s", "slow_start_s"])
    @pytest.mark.parametrize("variable", ["RAMP_S", "SLOW_START_S"])
    def test_over_the_file(self, tmp_path: Path, in_file: str, variable: str) -> None:
        """The environment lies over the file, whichever names they use."""
        file = FILE.format(provider="", route="", other=f"[breaker]\n{in_file} = 3")
        loaded = read(tmp_path, file, {f"DUB5__BREAKER__{variable}": "7"})
        assert loaded.settings.breaker.slow_start_s == 7.0


def test_a_problem_under_an_old_name(tmp_path: Path) -> None:
    """A wrong value under an old name is told with the new name, and which one that is."""
    with pytest.raises(SettingsProblems) as caught:
        read(tmp_path, FILE.format(provider="", route="", other='[breaker]\nramp_s = "x"'))
    wrong, renamed = caught.value.problems
    assert wrong.startswith("breaker.slow_start_s: ")
    assert renamed == "breaker.ramp_s: is called slow_start_s now; the old name goes with the next version."


@pytest.mark.parametrize("name", ["DUB5__ROUTE__CLOCKS", "DUB5__PROVIDER__DIFFERS"])
def test_no_variable_reaches_into_an_array(tmp_path: Path, name: str) -> None:
    """A variable that no setting has, old or new, is treated alike under both names."""
    new = name.replace("CLOCKS", "TIMEOUTS").replace("DIFFERS", "OVERRIDES")

    def said(*variables: str) -> object:
        try:
            return read(tmp_path, file_with("breaker.ramp_s"), dict.fromkeys(variables, "x")).warnings
        except SettingsProblems as error:
            return error.problems

    assert said(name) == said(new) == said(name, new)


def test_variables_in_either_case(tmp_path: Path) -> None:
    """Letter case makes no other name of a variable, old or new."""
    both = {"DUB5__breaker__ramp_s": "7.0", "DUB5__BREAKER__RAMP_S": "7.0"}
    loaded = read(tmp_path, file_with("breaker.ramp_s"), both)
    assert loaded.settings.breaker.slow_start_s == 7.0
