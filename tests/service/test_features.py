"""What a request needs beyond plain chat: had where a target has it, told at once where only targets out of
reach do."""

import asyncio
from typing import Any

import pytest
from msgspec import Raw

from dub5.service import clock
from dub5.service.api.features import Capabilities, features
from dub5.service.config.settings import (
    ProviderSettings,
)
from dub5.service.model import Caller, ChatBody, ChatRequest
from dub5.service.providers.features import Feature, feature_of, missing_features
from dub5.service.providers.registry import dialect_of
from dub5.service.resilience.health import Health, TargetSnapshot
from dub5.simulators.script import Hang
from tests.support.unequal_targets import DOWN, TOOL, UnequalTargets
from tests.support.world import healthy, script, status

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
