"""`dub5 personality`: texts tried on questions, side by side, by the service itself and without a server."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dub5.cli import main
from dub5.service.config.options import CacheOptions, DegradedOptions, LimitOptions, LimitsOptions
from dub5.service.config.settings import Secret, SessionSettings
from dub5.service.personality_command import EPILOG, ask_with_each, side_by_side
from dub5.service.personality_trial import Trial, TrialAnswer
from tests.support.personalities import PersonalityWorld, loaded_settings
from tests.support.source import ROOT
from tests.support.world import healthy, status

SETTINGS = """
[[provider]]
name = "one"
dialect = "openai"
base_url = "{url}"

[[route]]
name = "plain"
targets = ["one/m"]

[[route]]
name = "chat"
targets = ["one/m"]
personalities = ["tutor", "short"]
"""


def trial(loaded: Any = None, respond: Any = None) -> tuple[PersonalityWorld, Trial]:
    """Return a trial of two texts, and the world whose provider it asks."""
    loaded = loaded or loaded_settings()
    world = PersonalityWorld(loaded, respond)
    texts = {"tutor": "Be patient.", "tutor.md": "Be quick."}
    return world, Trial(loaded, loaded.settings.route[0], texts, wire=world.wire, seed="test")


async def test_two_texts() -> None:
    """Each text is sent before the question, and each answer comes with its target and its time."""
    world, trying = trial()
    async with trying:
        answers = [await trying.ask(label, "Hi") for label in ("tutor", "tutor.md")]
    sent = [[message["content"] for message in json.loads(body)["messages"]] for body in world.asked]
    assert sent == [["Be patient.", "Hi"], ["Be quick.", "Hi"]]
    assert [(answer.target, answer.problem, bool(answer.text)) for answer in answers] == [
        ("one/m", "", True)
    ] * 2


async def test_no_answer() -> None:
    """An error stands in the place of the answer; a fallback answer would hide it."""
    route = {"degraded": DegradedOptions(enabled=True), "cache": CacheOptions(enabled=True)}
    _, trying = trial(loaded_settings(**route), status(500, b"{}"))
    async with trying:
        answer = await trying.ask("tutor", "Hi")
    assert answer.problem.startswith("all_targets_down (one/m http_500, one/m http_500, one/m http_500): No ")
    assert answer.text == ""


async def test_caller_keys() -> None:
    """A service that asks its callers for keys is tried with one of them."""
    _, trying = trial(replace(loaded_settings(), caller_keys=(Secret("sk-caller"),)))
    async with trying:
        assert (await trying.ask("tutor", "Hi")).problem == ""


async def test_limits_and_sessions() -> None:
    """What bounds the clients of a public service does not bound a trial, which has no client."""
    loaded = loaded_settings()
    limits = LimitsOptions(ip=LimitOptions(1), caller=LimitOptions(1))
    settings = replace(loaded.settings, limits=limits, session=SessionSettings())
    _, trying = trial(replace(loaded, settings=settings))
    async with trying:
        answers = [await trying.ask("tutor", "Hi") for _ in range(3)]
    assert [answer.problem for answer in answers] == [""] * 3


async def test_the_routes_own_settings() -> None:
    """Nothing of the running service is changed: its routes and personalities stay as they are."""
    loaded = loaded_settings()
    _, trying = trial(loaded)
    async with trying:
        await trying.ask("tutor", "Hi")
    assert [route.name for route in loaded.settings.route] == ["chat"]


def test_side_by_side() -> None:
    """The answers stand in columns of one width, without what could move the cursor of a terminal."""
    answers = {
        "old": TrialAnswer("one two three four five six\n\x1b[31mred", "one/m", 1.25),
        "new": TrialAnswer("", "", 0.5, "all_targets_down: No provider."),
    }
    assert side_by_side(answers, 43).split("\n") == [
        "old                  | new",
        "-------------------- | --------------------",
        "one two three four   | all_targets_down: No",
        "five six             | provider.",
        " [31mred             | (no answer, 0.5 s, no target)",
        "(7 words, 1.2 s, one/m) |",
    ]


async def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever waits for longer than two seconds is told, each two seconds, which text is waited for."""
    _, trying = trial(respond=healthy(first_s=5.0))
    async with trying:
        answers = await ask_with_each(trying, ["tutor", "tutor.md"], "Hi", "[1/1]")
    assert capsys.readouterr().err.splitlines() == [
        "[1/1] waiting for tutor, tutor.md: 2 s",
        "[1/1] waiting for tutor, tutor.md: 4 s",
    ]
    assert [answer.problem for answer in answers.values()] == ["", ""]


class TestCommand:
    """The command on real sockets, over a simulated provider."""

    pytestmark = pytest.mark.real_sockets

    @pytest.fixture
    def folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dub5_provider: Callable[..., Any]
    ) -> Path:
        """A folder with settings over one provider, and with questions."""
        self.provider = dub5_provider("openai")
        (tmp_path / "dub5.toml").write_text(SETTINGS.format(url=f"{self.provider.url}/v1"))
        (tmp_path / "q.txt").write_text("# two questions\nWhat is a derivative?\n\n  And an integral?  \n")
        (tmp_path / "new.md").write_text("Be quick.")
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_try(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Each question is asked with each text, of the route that lists the personality; exit code 0."""
        assert main(["personality", "try", "tutor", "--questions", "q.txt", "--against", "new.md"]) == 0
        said = capsys.readouterr()
        assert "Asking 2 questions with 2 texts: 4 requests to 'chat'." in said.out
        assert "[2/2] And an integral?\ntutor " in said.out and "| new.md" in said.out
        assert said.out.endswith("\n4 of 4 answered.\n") and said.err == ""
        assert len(self.provider.ledger()) == 4

    def test_no_answer(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A question without an answer makes exit code 1, and the error is shown."""
        (folder / "dub5.toml").write_text(SETTINGS.format(url="http://127.0.0.1:9"))
        assert main(["personality", "try", "short", "--questions", "q.txt"]) == 1
        said = capsys.readouterr().out
        assert "all_targets_down" in said and said.endswith("\n0 of 2 answered.\n")

    @pytest.mark.parametrize(
        "arguments, expected",
        [
            (
                ["nobody", "--questions", "q.txt"],
                "There is no personality 'nobody'; known are assistant, tutor",
            ),
            (["tutor", "--questions", "none.txt"], "--questions: 'none.txt' cannot be read"),
            (["tutor", "--questions", "empty.txt"], "--questions: 'empty.txt' holds no question."),
            (["tutor", "--questions", "q.txt", "--against", "no.md"], "--against: 'no.md' cannot be read"),
            (
                ["tutor", "--questions", "q.txt", "--route", "x"],
                "--route: there is no route 'x'; known are plain",
            ),
            (["tutor", "--questions", "q.txt", "--config", "no.toml"], "Invalid configuration (1 error):"),
        ],
    )
    def test_unusable(
        self, arguments: list[str], expected: str, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What cannot be used is said in a sentence; exit code 2, and nobody is asked."""
        (folder / "empty.txt").write_text("# nothing\n")
        assert main(["personality", "try", *arguments]) == 2
        assert capsys.readouterr().err.startswith(expected)
        assert self.provider.ledger() == []

    def test_list(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """All personalities are listed, each with its title and its model names."""
        assert main(["personality", "list"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(":")[0] for line in lines] == ["assistant", "tutor", "short", "resume"]
        assert lines[1].startswith("tutor: Tutor, ") and lines[1].endswith("; chat:tutor")
        assert lines[0].endswith("; no route lists it")


def test_list_without_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a settings file the shipped personalities are listed, and `try` says what it needs."""
    monkeypatch.chdir(tmp_path)
    assert main(["personality", "list"]) == 0
    assert "tutor: Tutor" in capsys.readouterr().out
    assert main(["personality", "try", "tutor", "--questions", "q.txt"]) == 2
    assert "No settings file" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["list", "try"])
def test_help(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help of each action shows examples, the form of the questions and the exit codes."""
    with pytest.raises(SystemExit) as ended:
        main(["personality", action, "--help"])
    assert ended.value.code == 0 and EPILOG in capsys.readouterr().out


def test_the_page() -> None:
    """The command line on the page is one that the parser takes."""
    page = (ROOT / "docs/use/personalities.md").read_text()
    [line] = [line for line in page.splitlines() if line.startswith("dub5 personality try")]
    with pytest.raises(SystemExit) as ended:
        main([*line.split()[1:], "--help"])
    assert ended.value.code == 0
