"""The service as an application of somebody else's server: `dub5.service.asgi`."""

import asyncio
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from dub5.service.config.load import load
from dub5.service.config.settings import SettingsProblems
from dub5.simulators.server.sockets import serve
from tests.support.world import body, healthy

SETTINGS = """
[[provider]]
name = "one"
dialect = "openai"
base_url = "URL/v1"
[[route]]
name = "chat"
targets = ["one/m"]
"""
PROTECTED = '[server]\ncaller_keys_env = ["DUB5_CALLER_KEY"]\n'


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "settings.toml"
    monkeypatch.setenv("DUB5_CONFIG", str(file))
    monkeypatch.setenv("DUB5_CALLER_KEY", "caller-key-of-this-test")
    return file


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (None, "settings.toml: cannot be read (No such file or directory)."),
        ("[[route]", "settings.toml: is not valid TOML"),
        (SETTINGS, "Another server makes this application reachable, and no caller keys are set"),
        (PROTECTED, "No provider is configured"),
    ],
)
def test_invalid_settings(
    settings: str | None, said: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings that cannot be used end the process with their sentences, not with a traceback."""
    if settings is not None:
        config.write_text(settings)
    with pytest.raises(SystemExit) as ended:
        import_module("dub5.service.asgi")
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Invalid configuration") and said in printed


def test_always_public(config: Path) -> None:
    """On loopback too: who listens is another server. `dub5 serve` needs no caller keys there."""
    config.write_text(SETTINGS.replace("URL", "http://h"))
    load(config)
    with pytest.raises(SettingsProblems):
        load(config, behind_a_server=True)


@pytest.mark.real_sockets
async def test_without_lifespan(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without a lifespan the first request starts the service; its log is whole when the request ends."""
    async with serve(healthy()) as provider:
        config.write_text(PROTECTED + SETTINGS.replace("URL", provider.url))
        app = import_module("dub5.service.asgi").build_app()
        for _ in range(2):
            sent = await asked(app, json.dumps(body()).encode())
            assert sent[0]["status"] == 200
            lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
            assert lines[-1]["event"] == "request"
        assert app._service.board.started_at > 0.0
        await app._service.aclose()
    assert "started" not in {line["event"] for line in lines}


async def asked(app: Any, content: bytes) -> list[dict[str, Any]]:
    """Send one chat request to an ASGI application. Return its messages."""
    headers = [(b"authorization", b"Bearer caller-key-of-this-test"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"",
        "headers": headers,
    }
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": "", "client": None}
    sent: list[dict[str, Any]] = []
    parts = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return parts.pop() if parts else await never()

    async def never() -> dict[str, Any]:
        return await asyncio.get_running_loop().create_future()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent
