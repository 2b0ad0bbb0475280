"""The files that platforms read agree with the service, and with each other, with no platform at hand."""

import argparse
import json
import re
import shlex

import pytest
import yaml

from dub5.cli import VERBS
from dub5.service.command import add_arguments
from dub5.service.config.settings import ServerSettings
from tests.support.source import ROOT

SERVER = ServerSettings()
FINAL_S = 2.0 + 5.0  # after the drain: for error events of streams that it cuts, and for uvicorn's own end
KEY_LIKE = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


INSTRUCTIONS = {
    *("FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "EXPOSE", "VOLUME"),
    *("STOPSIGNAL", "HEALTHCHECK", "CMD"),
}


def stages() -> list[list[tuple[str, str]]]:
    """Parse the Dockerfile: its stages, each a list of instructions and their arguments."""
    lines = re.sub(
        r"\\\n\s*", "", re.sub(r"^#.*\n", "", text_of("Dockerfile"), flags=re.MULTILINE)
    ).splitlines()
    found: list[list[tuple[str, str]]] = []
    for line in filter(None, lines):
        name, _, rest = line.partition(" ")
        assert name in INSTRUCTIONS, line
        if name == "FROM":
            found.append([])
        found[-1].append((name, rest.strip()))
    return found


def only(stage: list[tuple[str, str]], name: str) -> str:
    (value,) = [rest for found, rest in stage if found == name]
    return value


def serve_options(command: list[str]) -> argparse.Namespace:
    """Parse a start command as `dub5` does."""
    assert command[0] == "dub5" and command[1] in VERBS
    parser = argparse.ArgumentParser()
    add_arguments(parser, command[1])
    return parser.parse_args(command[2:])


class TestContainer:
    def test_stages(self) -> None:
        """Two stages from one slim image: what builds is not in the result."""
        build, final = stages()
        assert only(build, "FROM").removesuffix(" AS build") == only(final, "FROM")
        assert re.fullmatch(r"python:3\.\d+-slim", only(final, "FROM"))
        assert {rest.split()[0] for name, rest in final if name == "COPY"} == {"--from=build"}
        assert not [rest for name, rest in final if name == "RUN"]

    def test_no_root(self) -> None:
        """The service does not run as root; the user is a number, as Kubernetes wants it."""
        assert all(int(part) >= 10_000 for part in only(stages()[-1], "USER").split(":"))

    def test_no_secrets(self) -> None:
        """No key comes into the image: not by a variable, and not by a file of the context."""
        assert not [
            rest for stage in stages() for name, rest in stage if name == "ENV" and KEY_LIKE.search(rest)
        ]
        first, *kept = [
            line for line in text_of(".dockerignore").splitlines() if line and not line.startswith("#")
        ]
        assert first == "*"
        assert all((ROOT / line[1:]).exists() for line in kept if line.startswith("!"))
        assert not [line for line in kept if line.startswith("!") and re.search(r"env|dub5\.toml", line)]

    def test_command(self) -> None:
        """What it runs is a command of ours, in the form that gets signals; it listens where EXPOSE says."""
        final = stages()[-1]
        options = serve_options(json.loads(only(final, "CMD")))
        assert (str(options.config), options.host, options.port) == ("dub5.toml", "0.0.0.0", None)
        environ = dict(word.split("=", 1) for word in shlex.split(only(final, "ENV")))
        assert environ["PORT"] == only(final, "EXPOSE")
        assert only(final, "STOPSIGNAL") == "SIGTERM"

    def test_health(self) -> None:
        """The health check asks for readiness, with Python: the image has no curl."""
        _, _, command = only(stages()[-1], "HEALTHCHECK").partition("CMD ")
        python, option, code = json.loads(command)
        assert (python, option) == ("python", "-c")
        compile(code, "HEALTHCHECK", "exec")
        assert "/readyz" in code


class TestRender:
    service = yaml.safe_load(text_of("render.yaml"))["services"][0]

    def test_command(self) -> None:
        """The start command is one of ours, on every interface; $PORT is where it listens."""
        options = serve_options(self.service["startCommand"].split())
        assert (options.host, options.port) == ("0.0.0.0", None)
        assert self.service["healthCheckPath"] == "/readyz"

    def test_patience(self) -> None:
        """The platform waits longer for an end than a drain takes."""
        drain_s = SERVER.announce_s + SERVER.drain_s + FINAL_S
        assert drain_s < self.service["maxShutdownDelaySeconds"] <= 300

    def test_no_secrets(self) -> None:
        """Keys are named, and have no value in the repository."""
        keys = [variable for variable in self.service["envVars"] if KEY_LIKE.search(variable["key"])]
        assert keys and not [variable for variable in keys if "value" in variable]


class TestVercel:
    config = json.loads(text_of("vercel.json"))

    def test_one_function(self) -> None:
        """Every path leads to the one function, which is a file of ours."""
        (rewrite,) = self.config["rewrites"]
        (function,) = self.config["functions"]
        assert (rewrite["source"], rewrite["destination"]) == ("/(.*)", f"/{function.removesuffix('.py')}")
        assert (ROOT / function).exists()

    def test_what_is_left_out(self) -> None:
        """What the wheel brings, and what only tests need, is not packed a second time."""
        (function,) = self.config["functions"].values()
        folders = re.findall(r"\w+", function["excludeFiles"])
        assert all((ROOT / folder).is_dir() for folder in folders)
        left = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] not in "._"} - set(
            folders
        )
        assert left - {"build", "dist", "reports"} == {"api"}


@pytest.mark.parametrize("name", ["Procfile", "render.yaml", "Dockerfile"])
def test_no_reload_by_hand(name: str) -> None:
    """No platform starts it without caller keys: `--insecure` stands in no file."""
    assert "--insecure" not in text_of(name)
