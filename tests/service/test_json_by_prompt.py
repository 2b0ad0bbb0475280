"""`response_format: json_object` on routes where no target has such a mode: the prompt asks for it."""

import json
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from dub5.service.app import Service
from dub5.service.config.settings import (
    DialectOverrides,
    LoadedSettings,
    ProviderSettings,
    RouteSettings,
    Settings,
)
from dub5.service.providers.json_prompt import INSTRUCTION, with_json_prompt
from dub5.service.providers.slices import finish
from dub5.simulators.answers import Proof, judge
from dub5.simulators.script import Respond, Script, SimRequest
from dub5.simulators.virtual import AppClient, AppResponse, VirtualWire
from tests.support.dialect_requests import request
from tests.support.play import provider
from tests.support.world import body, status, text_of

LONG = "Be kind. " * 60_000  # is not decoded
AS_JSON = {"response_format": {"type": "json_object"}}
RAW_JSON = {"response_format": Raw(b'{"type": "json_object"}')}
NO_MODE = DialectOverrides(refuses=("response_format",))
DOWN = status(500, b"{}")


class MixedTargets:
    """A service over one target per provider: `claude` (Anthropic), `plain` (no mode for JSON), `able`."""

    def __init__(self, **responds: Respond) -> None:
        self.asked: list[Any] = []
        urls = {name: f"http://{name}.test/v1" for name in responds}
        known = {
            "claude": ProviderSettings("claude", "anthropic", "http://claude.test/v1"),
            "plain": ProviderSettings("plain", "openai", "http://plain.test/v1", overrides=NO_MODE),
            "able": ProviderSettings("able", "openai", "http://able.test/v1"),
        }
        settings = Settings(
            tuple(known[name] for name in responds),
            (RouteSettings("chat", tuple(f"{name}/m" for name in responds)),),
        )
        wire = VirtualWire({urls[name]: self._noting(responds[name]) for name in responds})
        self.client = AppClient(Service(LoadedSettings(settings, {}, ()), wire=wire, seed="test").asgi)

    def _noting(self, respond: Respond) -> Respond:
        def noted(request: SimRequest) -> Script:
            self.asked.append(json.loads(request.body))
            path = (
                request.path.removeprefix("/v1") if "anthropic-version" in request.headers else request.path
            )
            return respond(SimRequest(request.method, path, request.headers, request.body))

        return noted

    async def ask(self, **fields: Any) -> AppResponse:
        answer: AppResponse = await self.client.request(
            "POST", "/v1/chat/completions", json=body(**AS_JSON, **fields)
        )
        return answer


@pytest.mark.parametrize("stream", [False, True])
async def test_claude_alone(stream: bool) -> None:
    """Where only Claude stands behind a route, it is told to answer in JSON, and the trail says so."""
    targets = MixedTargets(claude=provider("anthropic"))
    async with targets.client:
        answer = await targets.ask(stream=stream)
    text = text_of(answer.body) if stream else answer.json()["choices"][0]["message"]["content"]
    assert judge(json.loads(text)["answer"], "Hi") is Proof.WHOLE
    assert ";dropped:response_format" in answer.headers["x-dub5-trail"]
    [asked] = targets.asked
    assert asked["system"] == INSTRUCTION and "output_config" not in asked


async def test_the_next_one_is_told_too() -> None:
    """After a failure the next target, of any dialect without the mode, gets the instruction as well."""
    targets = MixedTargets(claude=DOWN, plain=provider("openai"))
    async with targets.client:
        answer = await targets.ask()
    assert answer.headers["x-dub5-target"] == "plain/m"
    asked = targets.asked[-1]
    assert asked["messages"][0] == {"role": "system", "content": INSTRUCTION}
    assert "response_format" not in asked


@pytest.mark.parametrize(
    "system, expected",
    [
        ({"role": "system", "content": "Be kind."}, f"Be kind.\n\n{INSTRUCTION}"),
        (
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            f"Be kind.\n\n{INSTRUCTION}",
        ),
        ({"role": "system", "content": LONG}, f"{LONG}\n\n{INSTRUCTION}"),
        ({"role": "system", "content": None}, INSTRUCTION),
    ],
)
async def test_instructions_of_the_caller(system: dict[str, Any], expected: str) -> None:
    """The caller's own instructions stay, in one system message."""
    targets = MixedTargets(claude=provider("anthropic"))
    async with targets.client:
        messages = [system, {"role": "user", "content": "Hi"}]
        assert (await targets.ask(messages=messages)).status == 200
    assert targets.asked[0]["system"] == expected
    assert targets.asked[0]["messages"] == [{"role": "user", "content": "Hi"}]


def test_a_large_conversation() -> None:
    """The conversation, which may be large, is not read for the instruction: it stays as it was written."""
    said = b'{"role": "user",  "content": "\\u0041"}'
    asked = msgspec.structs.replace(request(), fields={"messages": Raw(b"[%s]" % said), **RAW_JSON})
    sent = bytes(finish(with_json_prompt(asked)).fields["messages"])
    assert sent.endswith(b"," + said + b"]") and INSTRUCTION.encode() in sent


@pytest.mark.parametrize("fields", [{}, {"response_format": {"type": "text"}}])
async def test_a_text(fields: dict[str, Any]) -> None:
    """Other requests to such a route are sent as they are."""
    targets = MixedTargets(claude=provider("anthropic"))
    async with targets.client:
        answer = await targets.client.request("POST", "/v1/chat/completions", json=body(**fields))
    assert "response_format" not in answer.headers["x-dub5-trail"]
    assert "system" not in targets.asked[0]


async def test_one_target_has_the_mode() -> None:
    """A route with a target that has the mode keeps to it: while it is down, the feature is named."""
    targets = MixedTargets(claude=provider("anthropic"), able=DOWN)
    async with targets.client:
        error = (await targets.ask()).json()["error"]
    assert (error["code"], error["param"]) == ("feature_unavailable", "json_object")
    assert "nswers in JSON are temporarily unavailable" in error["message"]


async def test_all_down() -> None:
    """With all targets down, the outage is told, not a feature: nothing else would be served either."""
    targets = MixedTargets(claude=DOWN, plain=DOWN)
    async with targets.client:
        assert (await targets.ask()).json()["error"]["code"] == "all_targets_down"


async def test_listed() -> None:
    """The list of models says that JSON is to be had."""
    targets = MixedTargets(claude=provider("anthropic"))
    async with targets.client:
        found = (await targets.client.request("GET", "/v1/models/chat")).json()["features"]
    assert (found["json_object"], found["logprobs"]) == ("available", "unsupported")
