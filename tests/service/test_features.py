"""What a request needs beyond plain chat: had where a target has it, told at once where only targets out of
reach do."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from dub5.service import clock
from dub5.service.api.features import Capabilities, features
from dub5.service.app import Service
from dub5.service.config.settings import LoadedSettings, ProviderSettings, RouteSettings, Settings
from dub5.service.model import Caller, ChatBody, ChatRequest
from dub5.service.providers.features import Feature, feature_of, fits, missing_features
from dub5.service.providers.registry import dialect_of
from dub5.service.resilience.health import Health, TargetSnapshot
from dub5.service.tokens import PER_BYTE, estimate_tokens
from dub5.simulators.script import Hang, Script, SimRequest
from dub5.simulators.virtual import AppClient, VirtualWire
from tests.support.unequal_targets import DOWN, TOOL, UnequalTargets
from tests.support.world import body, healthy, reply, script, status

IMAGE = {
    "messages": [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}]}
    ]
}
JSON = {"response_format": {"type": "json_object"}}
LOGPROBS = {"logprobs": True}
LONG = {"messages": [{"role": "user", "content": "x" * 40_000}]}


NEEDS = [(TOOL, "tools"), (IMAGE, "vision"), (JSON, "json_object"), (LOGPROBS, "logprobs")]


@pytest.mark.parametrize(("needs", "feature"), NEEDS, ids=[feature for _, feature in NEEDS])
async def test_a_feature_that_is_out_of_reach(needs: dict[str, Any], feature: str) -> None:
    """With the feature's only target down, requests that need it are refused at once, by name and with
    Retry-After; plain chat is served."""
    async with UnequalTargets(DOWN, healthy()) as pair:
        for _ in range(8):
            assert (await pair.ask()).status == 200
        began_s = clock.now()
        answer = await pair.ask(**needs)
        assert clock.now() - began_s < 0.01
        error = answer.json()["error"]
        assert (answer.status, error["code"], error["param"]) == (503, "feature_unavailable", feature)
        assert "are served" in error["message"]
        assert 1 <= int(answer.headers["retry-after"]) <= 12
        assert (await pair.ask()).headers["x-dub5-target"] == "plain/m"


async def test_when_to_come_back() -> None:
    """When the target that has the feature may be asked again; that others are free now helps nobody."""
    async with UnequalTargets(status(429, b"{}", {"retry-after": "300"}), healthy()) as pair:
        await pair.ask()
        answer = await pair.ask(**TOOL)
    assert answer.json()["error"]["code"] == "feature_unavailable"
    assert 298 <= int(answer.headers["retry-after"]) <= 300


async def test_nobody_waits_for_a_probe() -> None:
    """A request that needs the feature does not wait for the probe of its only target, and the probe finds
    the target back."""
    back_s = 60.0
    until = lambda request: (script(Hang()) if clock.now() < back_s else healthy())(request)
    async with UnequalTargets(until, healthy()) as pair:
        while (await pair.told())["tools"] == "available":
            await pair.ask(stream=True)
        while (answer := await pair.ask(**TOOL)).status == 503:
            began_s = clock.now()
            await pair.ask(**TOOL)
            assert clock.now() - began_s < 0.2
            await asyncio.sleep(1.0)
        assert answer.headers["x-dub5-target"] == "able/m"
        assert back_s < clock.now() < back_s + 15


async def test_a_feature_that_nobody_has() -> None:
    """A feature that no target has is the caller's error, whether a target is down or not."""
    async with UnequalTargets(DOWN, healthy(), (1_000, 1_000)) as pair:
        for _ in range(8):
            await pair.ask()
        answer = await pair.ask(**LONG)
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["param"]) == (400, "invalid_request", "messages")


async def test_all_down() -> None:
    """Where plain chat is down as well, the feature is not to blame."""
    async with UnequalTargets(DOWN, DOWN) as pair:
        for _ in range(8):
            await pair.ask()
        assert (await pair.ask(**TOOL)).json()["error"]["code"] == "all_targets_down"


async def test_both_up() -> None:
    """A request goes where its feature is, and the one that lacks it is not even called."""
    async with UnequalTargets(healthy(), healthy()) as pair:
        assert (await pair.ask(**TOOL)).headers["x-dub5-target"] == "able/m"
    assert pair.asked == ["able"]


class TestLongContext:
    async def test_goes_to_the_larger_window(self) -> None:
        """A conversation that the first target cannot take goes to the next, without a call in vain."""
        async with UnequalTargets(healthy(), healthy(), (8_000, 128_000)) as pair:
            assert (await pair.ask(**LONG)).headers["x-dub5-target"] == "plain/m"
            assert (await pair.ask()).headers["x-dub5-target"] == "able/m"
        assert pair.asked == ["plain", "able"]

    async def test_out_of_reach(self) -> None:
        """The larger one is down: long conversations wait, short ones do not."""
        async with UnequalTargets(DOWN, healthy(), (128_000, 8_000)) as pair:
            for _ in range(8):
                await pair.ask()
            answer = await pair.ask(**LONG)
            assert answer.json()["error"]["param"] == "long_context"
            assert answer.json()["error"]["code"] == "feature_unavailable"
            assert (await pair.ask()).status == 200
            assert (await pair.told())["long_context"] == "unavailable"


async def test_what_can_be_had_now() -> None:
    """/status and the list of models say it, and change as targets go and come back."""
    async with UnequalTargets(DOWN, healthy()) as pair:
        before = await pair.told()
        for _ in range(8):
            await pair.ask()
        after = await pair.told()
    assert set(before.values()) == {"available"} and "long_context" not in before
    assert after == {name: "available" if name == "chat" else "unavailable" for name in before}


async def test_counted() -> None:
    """The refusal is counted by its code, and on the board."""
    async with UnequalTargets(DOWN, healthy()) as pair:
        for _ in range(8):
            await pair.ask()
        await pair.ask(**TOOL)
        scraped = (await pair.client.request("GET", "/metrics")).body.decode()
        seen = (await pair.client.request("GET", "/status")).json()
    assert 'gateway_errors_total{code="feature_unavailable",route="chat"} 1.0' in scraped
    assert seen["happened"]["feature_unavailable"] == 1


def state(name: str, health: Health) -> TargetSnapshot:
    return TargetSnapshot(name, "p", health, "closed", 0.0, 0.0, 0, 0, False, 1, 0)


def test_unsupported() -> None:
    """What no target has is told apart from what is merely out of reach; a degraded target still counts."""
    capabilities = {"p/a": Capabilities({"tools", "vision"}), "p/b": Capabilities({"vision", "logprobs"})}
    states = {"p/a": state("p/a", Health.DEGRADED), "p/b": state("p/b", Health.UNHEALTHY)}
    told = features(("p/a", "p/b"), capabilities, states)
    assert told == {
        "chat": "available",
        "tools": "unavailable",
        "vision": "unsupported",
        "json_schema": "available",
        "json_object": "available",
        "logprobs": "available",
    }


@pytest.mark.parametrize(
    ("dialect", "lacks"),
    [
        ("openai", set()),
        ("mistral", set()),
        ("anthropic", {Feature.JSON_OBJECT, Feature.LOGPROBS}),
    ],
)
def test_dialects(dialect: Any, lacks: set[Feature]) -> None:
    """What each dialect lacks is asked of its own translation, and every field it names is of that
    feature."""
    found = missing_features(dialect_of(ProviderSettings("p", dialect, "http://p.test"), 1_000), "m")
    assert set(found) == lacks
    for feature, param in found.items():
        fields = {"response_format": Raw(b'{"type":"json_object"}')}
        assert feature_of(param, ChatRequest("id", Caller(), ChatBody("chat", []), fields)) is feature


# 3,900 tokens, by our estimate.
NEARLY_FULL = {"messages": [{"role": "user", "content": "x" * round(3900 / PER_BYTE["letter"])}]}


class TestRoomForTheAnswer:
    async def test_is_kept_free(self) -> None:
        """A target whose window the conversation alone nearly fills is passed over."""
        async with UnequalTargets(healthy(), healthy(), (4096, 32_000)) as pair:
            assert (await pair.ask(**NEARLY_FULL)).headers["x-dub5-target"] == "plain/m"

    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
    @pytest.mark.parametrize(("tokens", "target"), [(100, "able/m"), (300, "plain/m"), (5000, "plain/m")])
    async def test_is_what_the_request_says(self, field: str, tokens: int, target: str) -> None:
        """A request that bounds its answer needs that much room."""
        async with UnequalTargets(healthy(), healthy(), (4096, 32_000)) as pair:
            assert (await pair.ask(**NEARLY_FULL, **{field: tokens})).headers["x-dub5-target"] == target

    async def test_is_at_most_half(self) -> None:
        """A bound beyond the window keeps no short conversation from its target."""
        async with UnequalTargets(healthy(), healthy(), (4096, 32_000)) as pair:
            assert (await pair.ask(max_tokens=100_000)).headers["x-dub5-target"] == "able/m"

    @given(st.integers(1, 200_000), st.integers(0, 900_000), st.none() | st.integers(1, 200_000))
    def test_is_never_negative(self, window: int, chars: int, asked: int | None) -> None:
        """What fits leaves that room, and an empty prompt fits into any window."""
        fields = {"model": "m", "messages": [{"role": "user", "content": "x" * chars}]}
        chat = msgspec.convert(fields | ({"max_tokens": asked} if asked else {}), ChatBody)
        request = ChatRequest("id", Caller(), chat, {})
        room = min(window // 2, asked) if asked else min(window // 4, 1024)
        assert fits(request, window) == (estimate_tokens(["x" * chars]) + room <= window)
        assert fits(request, window) or chars > 0


class TestTheBoundOfAnthropic:
    @staticmethod
    async def ask(settings: dict[str, Any], **fields: Any) -> tuple[int, str]:
        """Return the bound that is sent, and the trail that is told."""
        sent: list[int] = []

        def answer(request: SimRequest) -> Script:
            sent.append(json.loads(request.body)["max_tokens"])
            said = {"type": "message", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}
            return reply(200, json.dumps(said).encode())

        provider = ProviderSettings("one", "anthropic", "http://one.test", **settings)
        route = RouteSettings("chat", ("one/m",))
        loaded = LoadedSettings(Settings((provider,), (route,)), {}, ())
        wire = VirtualWire({"http://one.test": answer})
        async with AppClient(Service(loaded, wire=wire, seed="test").asgi) as client:
            told = await client.request("POST", "/v1/chat/completions", json=body(**fields))
        return sent[0], told.headers["x-dub5-trail"]

    @pytest.mark.parametrize(
        ("settings", "tokens"),
        [
            ({}, 4096),
            ({"max_tokens": 900}, 900),
            ({"output_tokens": {"m": 64_000}}, 64_000),
            ({"output_tokens": {"other": 64_000}}, 4096),
            ({"output_tokens": {"m": 64_000}, "context_tokens": {"m": 8000}}, 7999),
        ],
    )
    async def test_is_told(self, settings: dict[str, Any], tokens: int) -> None:
        """Where the client sets no bound, it is as long as the settings know, and named in the trail."""
        sent, trail = await self.ask(settings)
        assert sent == tokens
        assert trail.endswith(f";dropped:answer-over-{tokens}-tokens")

    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
    async def test_of_the_client(self, field: str) -> None:
        """The client's own bound is sent, and nothing is told."""
        sent, trail = await self.ask({}, **{field: 70})
        assert sent == 70
        assert "dropped" not in trail

    async def test_leaves_room_for_the_conversation(self) -> None:
        """A long conversation takes from the window what the answer may not have."""
        settings = {"output_tokens": {"m": 64_000}, "context_tokens": {"m": 8000}}
        sent, _ = await self.ask(settings, messages=[{"role": "user", "content": "x" * 20_000}])
        assert sent == 8000 - 4500
