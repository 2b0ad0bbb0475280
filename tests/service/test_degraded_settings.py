"""What is said of the settings of substitutes and windows before anybody asks."""

from pathlib import Path

import pytest

from dub5.service.config.load import load
from dub5.service.config.settings import SettingsProblems

FILE = """
[[provider]]
name = "one"
dialect = "openai"
base_url = "http://127.0.0.1:9001/v1"
context_tokens = {{m = 8000{more}}}

[[route]]
name = "chat"
targets = ["one/m"]
[route.degraded]
{degraded}
"""


def remarks(tmp_path: Path, degraded: str, more: str = "") -> tuple[str, ...]:
    file = tmp_path / "dub5.toml"
    file.write_text(FILE.format(degraded=degraded, more=more))
    return load(file, {}).warnings


@pytest.mark.parametrize(
    ("degraded", "said"),
    [
        ("enabled = true\nanswer_within_s = 10.0", "is not longer than timeouts.hedge_after_s"),
        ("answer_within_s = 20.0", "answer_within_s: has no effect, as degraded.enabled is false"),
    ],
)
def test_hardly_meant(tmp_path: Path, degraded: str, said: str) -> None:
    """Settings that are hardly meant are valid, and cause a warning."""
    (remark,) = remarks(tmp_path, degraded)
    assert said in remark


def test_texts_of_an_older_file(tmp_path: Path) -> None:
    """A text for a kind of question that is not told apart any more is named."""
    texts = tmp_path / "texts.toml"
    texts.write_text("[en]\ngreeting = 'Hi'\n")
    (remark,) = remarks(tmp_path, f'enabled = true\ntemplates = "{texts}"')
    assert "en.greeting: not used any more" in remark and "use 'general'" in remark


def test_a_window_of_nobody(tmp_path: Path) -> None:
    """A window for a model that no route uses is most likely a slip."""
    (remark,) = remarks(tmp_path, "enabled = true", ", n = 9000")
    assert remark == "provider 'one'.context_tokens: no route has a target with the model 'n'."


def test_nothing_to_say(tmp_path: Path) -> None:
    """Settings that are meant cause no warning."""
    assert remarks(tmp_path, "enabled = true\nanswer_within_s = 12.0") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("[en]\ngenerl = 'Hi'", "did you mean 'general'?"),
        ("[en", "not valid TOML"),
    ],
)
def test_texts_that_cannot_be_used(tmp_path: Path, text: str | None, said: str) -> None:
    """With invalid texts the service does not start, and says why."""
    texts = tmp_path / "texts.toml"
    if text is not None:
        texts.write_text(text)
    with pytest.raises(SettingsProblems) as caught:
        remarks(tmp_path, f'enabled = true\ntemplates = "{texts}"')
    (problem,) = caught.value.problems
    assert problem.startswith("route 'chat': degraded.templates: ") and said in problem
