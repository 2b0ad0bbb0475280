"""Vectors: relayed, translated where the formats differ, and never mixed between models."""

import base64
import json
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dub5.service import clock
from dub5.service.app import Service
from dub5.service.config.settings import LoadedSettings, ProviderSettings, RouteSettings, Settings
from dub5.simulators.script import Respond, Script, SimRequest
from dub5.simulators.virtual import AppClient, AppResponse, VirtualWire
from tests.support.world import ServiceWorld, healthy, reply, status

VECTOR = [0.5, -0.25, 1.0]
PACKED = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()
USAGE = {"prompt_tokens": 2, "total_tokens": 2}


def listed(*vectors: object, **more: object) -> bytes:
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
    return json.dumps({"object": "list", "data": data, "model": "e", **more}).encode()


WHOLE = listed(VECTOR, usage=USAGE)


async def test_chats_of_a_provider_without_embeddings() -> None:
    """Requests for embeddings that a provider does not have take its chats from nobody."""
    missing = status(404, b'{"error": {"message": "Unknown request URL: POST /v1/embeddings"}}')

    def one(request: SimRequest) -> Script:
        return (missing if request.path.endswith("/embeddings") else healthy())(request)

    async with ServiceWorld(one=one) as world:
        for _ in range(20):
            refused = await world.client.request(
                "POST", "/v1/embeddings", json={"model": "chat", "input": "Hi"}
            )
            assert (refused.status, refused.headers["x-should-retry"]) == (400, "false")
            assert (await world.ask()).status == 200
        assert world.service.fleet.snapshots(clock.now())[0].health == "healthy"


class EmbeddingsWorld:
    """A service whose targets stand behind the model "e", in order."""

    def __init__(self, targets: Mapping[str, Respond], dialects: Mapping[str, str]) -> None:
        self.asked: list[tuple[str, SimRequest]] = []
        names = [target.partition("/")[0] for target in targets]
        urls = {name: f"http://{name}.test/v1" for name in names}
        wire = VirtualWire(
            {urls[n]: self._noting(n, respond) for n, respond in zip(names, targets.values(), strict=True)}
        )
        providers = tuple(ProviderSettings(n, dialects.get(n, "openai"), urls[n]) for n in names)  # type: ignore[arg-type]
        settings = Settings(provider=providers, route=(RouteSettings("e", tuple(targets)),))
        self.service = Service(LoadedSettings(settings, dict.fromkeys(names, ()), ()), wire=wire, seed="test")
        self.client = AppClient(self.service.asgi)

    def _noting(self, name: str, respond: Respond) -> Respond:
        def noted(request: SimRequest) -> Script:
            self.asked.append((name, request))
            return respond(request)

        return noted

    async def embed(self, **fields: Any) -> AppResponse:
        answer: AppResponse = await self.client.request(
            "POST", "/v1/embeddings", json={"model": "e", "input": "Hi", **fields}
        )
        return answer


@asynccontextmanager
async def world(targets: Mapping[str, Respond], **dialects: str) -> AsyncIterator[EmbeddingsWorld]:
    built = EmbeddingsWorld(targets, dialects)
    async with built.client:
        yield built


async def test_relayed() -> None:
    """What the provider said is what the client gets; who said it stands in the headers and in the log."""
    async with world({"one/small": status(200, WHOLE)}) as h:
        answer = await h.embed(dimensions=3)
    assert answer.body == WHOLE
    assert answer.headers["x-dub5-target"] == "one/small"
    assert h.asked[0][1].path.endswith("/v1/embeddings")
    assert json.loads(h.asked[0][1].body) == {"model": "small", "input": "Hi", "dimensions": 3}
    assert h.service.board.outcomes["complete"] == 1


@pytest.mark.parametrize(
    ("asked", "given", "got"),
    [
        ("base64", VECTOR, PACKED),
        ("base64", PACKED, PACKED),
        ("float", PACKED, VECTOR),
        (None, PACKED, VECTOR),
        ("float", VECTOR, VECTOR),
    ],
)
async def test_formats(asked: str | None, given: object, got: object) -> None:
    """The client gets the format it asked for, whatever the provider makes of the question."""
    async with world({"one/small": status(200, listed(given, given, usage=USAGE))}) as h:
        answer = await h.embed(input=["a", "b"], encoding_format=asked)
    assert [item["embedding"] for item in answer.json()["data"]] == [got, got]
    assert answer.json()["usage"] == USAGE


async def test_failover_to_the_same_model_only() -> None:
    """Vectors of another model would be worse than none: it is not asked."""
    down, other, same = status(503), status(200, listed([9.0], usage=USAGE)), status(200, WHOLE)
    async with world({"one/small": down, "two/large": other, "three/small": same}) as h:
        answer = await h.embed()
    assert answer.headers["x-dub5-target"] == "three/small"
    assert "two" not in {name for name, _ in h.asked}
    async with world({"one/small": down, "two/large": other}) as h:
        answer = await h.embed()
    assert (answer.status, answer.json()["error"]["code"]) == (503, "all_targets_down")


async def test_dialects() -> None:
    """A provider without embeddings is not asked; Mistral is asked in its own dialect."""
    async with world(
        {"one/small": status(500), "two/small": status(200, listed(VECTOR))}, one="anthropic", two="mistral"
    ) as h:
        answer = await h.embed(dimensions=3, encoding_format="base64", user="u")
    assert answer.json()["data"][0]["embedding"] == PACKED
    assert answer.json()["usage"] == {
        "prompt_tokens": 1,
        "completion_tokens": 0,
        "total_tokens": 1,
        "estimated": True,
    }
    assert answer.headers["x-dub5-trail"].endswith(";dropped:user")
    [(name, request)] = h.asked
    assert (name, json.loads(request.body)) == (
        "two",
        {"model": "small", "input": "Hi", "output_dimension": 3},
    )


async def test_nobody_embeds() -> None:
    """A route whose models have no embeddings says so."""
    async with world({"one/claude": status(500)}, one="anthropic") as h:
        answer = await h.embed()
    assert (answer.status, answer.json()["error"]["param"]) == (400, "model")
    assert h.asked == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "not_json"),
        (b'{"data": [', "garbled"),
        (b'{"object": "list"}', "garbled"),
        (b'{"error": {"message": "no"}}', "error_event"),
        (listed(), "empty_answer"),
        (listed(VECTOR, VECTOR), "truncated"),
        (listed([]), "garbled"),
        (listed(None), "garbled"),
        (listed("%%%%"), "garbled"),
        (listed("AAA="), "garbled"),
        (listed(base64.b64encode(struct.pack("<f", float("nan"))).decode()), "garbled"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_no_vectors(body: bytes, reason: str) -> None:
    """A 200 that is not as many vectors as were wanted is a failure, and the next target is asked."""
    async with world({"one/small": status(200, body), "two/small": status(200, WHOLE)}) as h:
        answer = await h.embed()
    assert answer.body == WHOLE
    assert answer.headers["x-dub5-trail"].startswith(f"one/small={reason};")


@pytest.mark.parametrize(
    ("given", "count"),
    [("Hi", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2, 3]], 2)],
)
async def test_inputs(given: object, count: int) -> None:
    """Text, texts, and token numbers, of one text or of several."""
    async with world({"one/small": lambda request: reply(200, listed(*[VECTOR] * count))}) as h:
        assert (await h.embed(input=given)).status == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [True]}, "input"),
        ({"input": None}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"model": "nobody"}, "model"),
    ],
)
async def test_bad_input(fields: dict[str, object], param: str) -> None:
    """Invalid input is refused with its place, before any provider is asked."""
    async with world({"one/small": status(200, WHOLE)}) as h:
        answer = await h.embed(**fields)
    assert answer.status in (400, 404)
    assert answer.json()["error"]["param"] == param
    assert h.asked == []


@pytest.mark.parametrize(
    "path", ["/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/v1/completions"]
)
async def test_what_is_not_spoken(path: str) -> None:
    """Clients of other interfaces are told which one is spoken."""
    async with world({"one/small": status(200, WHOLE)}) as h:
        answer = await h.client.request("POST", path, json={})
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (404, "not_found")
    assert "is not supported" in error["message"]
    assert "/v1/chat/completions" in error["message"]
