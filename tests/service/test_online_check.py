"""`dub5 check --online`: each target is asked once, and what is wrong is said in words."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from dub5.service.command import main
from dub5.service.config.settings import LoadedSettings, ProviderSettings, RouteSettings, Secret, Settings
from dub5.service.online_check import AT_ONCE, LIMIT_S, ask_targets
from dub5.service.wire.base import WireRequest, WireResponse
from dub5.simulators.script import Respond, Script, SimRequest
from dub5.simulators.server.sockets import serve
from dub5.simulators.virtual import VirtualWire
from tests.support.world import healthy, status

WRONG_KEY = b'{"error": {"message": "Incorrect API key provided: sk-my-secret", "code": "invalid_api_key"}}'


def settings(*providers: ProviderSettings, models: tuple[str, ...] = ("m",)) -> LoadedSettings:
    targets = tuple(f"{provider.name}/{model}" for provider in providers for model in models)
    keys = {provider.name: (Secret("sk-my-secret"),) for provider in providers if provider.key_env}
    return LoadedSettings(Settings(providers, (RouteSettings("chat", targets),)), keys, ())


async def findings(loaded: LoadedSettings, responds: Mapping[str, Respond]) -> dict[str, str]:
    wire = VirtualWire({f"http://{name}": respond for name, respond in responds.items()})
    return {finding.target: finding.problem async for finding in ask_targets(loaded, wire)}


@pytest.mark.parametrize(
    ("respond", "said"),
    [
        (healthy(), ""),
        (status(401, WRONG_KEY), "HTTP 401: the key in KEY_ONE is refused"),
        (status(403, b"{}"), "HTTP 403: the key in KEY_ONE is refused"),
        (status(404, b"Not Found"), "does it lack /v1?"),
        (status(404, b'{"error": {"message": "no such model"}}'), "it says: no such model"),
        (status(404, b'{"error": {"message": "no \\u001b[2Jmodel\\u009d"}}'), "it says: no  [2Jmodel "),
        (status(402, b"{}"), "has no credit"),
        (status(429, b"{}"), "limited"),
        (status(503, b"{}"), "fails at the moment, which no setting mends"),
        (status(301, b""), "HTTP 301: the request is refused"),
        (status(200, b"<html>", {"content-type": "text/html"}), "is base_url right"),
        (healthy(first_s=LIMIT_S * 2), f"no answer within {LIMIT_S:g} s"),
    ],
)
async def test_in_words(respond: Respond, said: str) -> None:
    """Each permanent mistake has a sentence of its own, and none shows the key."""
    loaded = settings(ProviderSettings("one", "openai", "http://one", ("KEY_ONE",)))
    (problem,) = (await findings(loaded, {"one": respond})).values()
    assert bool(problem) == bool(said)
    assert said in problem
    assert "sk-my-secret" not in problem


async def test_no_key() -> None:
    """A provider that wants a key and gets none is told as such."""
    loaded = settings(ProviderSettings("one", "openai", "http://one/v1"))
    assert "no key is sent" in (await findings(loaded, {"one": status(401, b"{}")}))["one/m"]


async def test_a_name_that_does_not_resolve() -> None:
    """A misspelt host is told apart from one that is down."""
    loaded = settings(ProviderSettings("one", "openai", "http://nowhere/v1"))
    assert "the name 'nowhere' does not resolve" in (await findings(loaded, {}))["one/m"]


async def test_once_each() -> None:
    """Each target is asked exactly once, whatever it answers, and only a few at a time."""
    asked: list[str] = []
    now = most = 0

    class CountingWire(VirtualWire):
        async def send(self, request: WireRequest) -> WireResponse:
            nonlocal now, most
            now, most = now + 1, max(most, now + 1)
            try:
                await asyncio.sleep(1.0)
                return await super().send(request)
            finally:
                now -= 1

    def fails(request: SimRequest) -> Script:
        asked.append(request.path)
        return status(500, b"{}")(request)

    models = tuple(f"m{i}" for i in range(3 * AT_ONCE))
    loaded = settings(
        ProviderSettings("one", "openai", "http://one/v1"), models=(*models, "text-embedding-x")
    )
    found = [finding async for finding in ask_targets(loaded, CountingWire({"http://one": fails}))]
    assert len(found) == len(asked) == len(models) + 1
    assert asked.count("/v1/embeddings") == 1
    assert most == AT_ONCE


@pytest.mark.real_sockets
async def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command shows its progress; its exit code says whether every target answers."""
    async with serve(healthy()) as well, serve(status(401, b"{}")) as refuses:
        config = tmp_path / "dub5.toml"
        config.write_text(
            "".join(
                f'[[provider]]\nname = "{name}"\ndialect = "openai"\nbase_url = "{server.url}/v1"\n'
                for name, server in (("one", well), ("two", refuses))
            )
            + '[[route]]\nname = "chat"\ntargets = ["one/m", "two/m"]\n'
        )
        assert await asyncio.to_thread(main, ["check", "--online", "--config", str(config)]) == 1
    said = capsys.readouterr().out
    assert "Asking each of 2 targets once" in said and "1 of 2 targets answer" in said
    assert "one/m: answers, after" in said and "two/m: NO: HTTP 401: no key is sent" in said
    assert "[1/2]" in said and "[2/2]" in said


@pytest.mark.real_sockets
async def test_the_hook(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command sends the hook a signed test message, and says whether it was taken."""
    taken: list[SimRequest] = []

    def take(request: SimRequest) -> Script:
        taken.append(request)
        return status(204)(request)

    for answer, said, code in ((take, "it has taken a test message", 0), (status(403), "it answered 403", 1)):
        async with serve(healthy()) as well, serve(answer) as hook:
            monkeypatch.setenv("HOOK_URL", f"{hook.url}/x")
            monkeypatch.setenv("HOOK_SECRET", "0123456789abcdef0123456789abcdef")
            config = tmp_path / "dub5.toml"
            config.write_text(
                f'[[provider]]\nname = "one"\ndialect = "openai"\nbase_url = "{well.url}/v1"\n'
                '[[route]]\nname = "chat"\ntargets = ["one/m"]\n'
                '[notify]\nurl_env = "HOOK_URL"\nsecret_env = ["HOOK_SECRET"]\n'
            )
            assert await asyncio.to_thread(main, ["check", "--online", "--config", str(config)]) == code
        output = capsys.readouterr().out
        assert f"the hook of [notify]: {said}" in output or f"the hook of [notify]: NO: {said}" in output
        assert hook.url not in output
    assert [request.path for request in taken] == ["/x"] and "webhook-signature" in taken[0].headers
