"""The head of a response: whatever callers name their fields, it is short, and each header is one line."""

from typing import Any

import pytest

from dub5.service.api.stream import trail_header
from dub5.service.app import Service
from dub5.service.config.settings import (
    LoadedSettings,
    ProviderSettings,
    RouteSettings,
    Secret,
    ServerSettings,
    Settings,
)
from dub5.service.gateway import Answer
from dub5.service.model import AttemptRecord, Reply
from dub5.simulators.virtual import AppClient, VirtualWire
from tests.support.play import provider
from tests.support.world import ServiceWorld, healthy, status

FORGED = "x, two/m=ok;1ms\r\nset-cookie: a=b\x00"


def client_of(*dialects: str) -> AppClient:
    urls = {name: f"http://{name}.test/v1" for name in dialects}
    settings = Settings(
        server=ServerSettings(),
        provider=tuple(ProviderSettings(n, n, urls[n]) for n in dialects),  # type: ignore[arg-type]
        route=(RouteSettings("chat", tuple(f"{name}/m" for name in dialects)),),
    )
    keys = {name: (Secret("sk"),) for name in dialects}
    wire = VirtualWire({urls[n]: healthy() if n == "openai" else provider(n) for n in dialects})
    return AppClient(Service(LoadedSettings(settings, keys, ()), wire=wire, seed="test").asgi)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        {FORGED: 1},
        {"messages": [{"role": "user", "content": "Hi", FORGED: 1}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", FORGED: 1}]}]},
        {"messages": [{"role": "user", "content": [{"type": FORGED, "text": "Hi"}]}]},
        {"stream_options": {FORGED: 1}},
        {f"{FORGED}{n}" + "n" * 60: n for n in range(200)},
    ],
    ids=["field", "message", "part", "type", "option", "many"],
)
@pytest.mark.parametrize("first", ["mistral", "anthropic"])
async def test_names_of_fields(first: str, fields: dict[str, Any], stream: bool) -> None:
    """No name of a field forges a line of the trail, or breaks the head, which the client would refuse."""
    async with client_of(first, "openai") as client:
        sent = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "stream": stream, **fields}
        answer = await client.request("POST", "/v1/chat/completions", json=sent)
    assert "two/m" not in answer.headers.get("x-dub5-trail", "").replace("two?m", "")
    assert sum(len(name) + len(value) + 4 for name, value in answer.headers.items()) < 2048


async def test_a_field_that_cannot_be_read() -> None:
    """The name of a field with a value that no dialect can read stays out of the head, too."""
    async with client_of("anthropic", "openai") as client:
        sent = b'{"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "a\\r\\nb": 1e999}'
        answer = await client.request(
            "POST", "/v1/chat/completions", body=sent, headers={"content-type": "application/json"}
        )
    assert answer.status == 200
    assert answer.headers["x-dub5-trail"].startswith("anthropic/m=unsupported_a??b;0ms, ")


def record(number: int, reason: str = "http_503") -> AttemptRecord:
    return AttemptRecord(f"provider-{number}/a-model-with-a-long-name", 0.0, 1.0, reason)


def test_a_long_trail() -> None:
    """Fifty failed targets fit into a head of 4 KiB: the first ones and the one that answered are named."""
    trail = [*map(record, range(50)), record(50, "ok")]
    line = trail_header(trail, Answer("provider-50/x", reply=Reply(b"")), 1.0)
    entries = line.split(", ")
    assert len(line) <= 1024
    assert entries[0].startswith("provider-0/") and entries[-1].startswith("provider-50/")
    assert int(entries[-2].removeprefix("+")) + len(entries) - 1 == 51


async def test_fifty_targets() -> None:
    """A request that the last of thirty targets answers has a head that every proxy takes."""
    world = ServiceWorld(**{f"provider{n}": status(503) for n in range(30)}, last=healthy())
    async with world:
        answer = await world.ask()
    assert answer.status == 200
    assert len(answer.headers["x-dub5-trail"]) <= 1024
    assert "last/m=ok" in answer.headers["x-dub5-trail"]
