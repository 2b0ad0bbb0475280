"""Whatever is sent: one error shape, the right 4xx, an id, a plain message; never a stack trace, never a
500."""

import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.simulators.virtual import AppResponse, run
from tests.support.examples import examples
from tests.support.world import ServiceWorld, body, healthy

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
FIELDS = {"message", "type", "code", "param", "id", "retry_after", "suggestion", "attempts"}


def assert_told(answer: AppResponse, status: int, code: str) -> None:
    """The one shape."""
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (status, code)
    assert set(error) == FIELDS
    assert error["id"] == answer.headers["x-request-id"]
    assert answer.headers["x-should-retry"] == "false"
    assert error["message"].endswith(".")
    assert "Traceback" not in error["message"]


def deep(levels: int) -> bytes:
    return json.dumps(body()).encode()[:-1] + b', "x": ' + b"[" * levels + b"]" * levels + b"}"


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "must be an object"),
        (b"null", "must be an object"),
        (b'"chat"', "must be an object"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b'{"messages": []}', "model: is missing"),
        (b'{"model": "chat"}', "messages: is missing"),
        (b'{"model": "chat", "messages": []}', "at least one message"),
        (b'{"model": 3, "messages": []}', "model: must be text"),
        (b'{"model": "chat", "messages": "hi"}', "messages: must be a list"),
        (b'{"model": "chat", "messages": [{"content": "hi"}]}', "messages[0].role: is missing"),
        (b'{"model": "chat", "messages": [{"role": "user", "content": 7}]}', "messages[0].content: must be"),
        (
            b'{"model": "chat", "messages": [{"role": "pirate", "content": "hi"}]}',
            "messages[0].role: must be one of",
        ),
        (
            b'{"model": "chat", "messages": [{"role": "user"}], "stream": "yes"}',
            "stream: must be true or false",
        ),
        (
            b'{"model": "chat", "messages": [{"role": "user"}], "temperature": "hot"}',
            "temperature: must be a number",
        ),
        (b'{"model": "chat", "messages": [{"role": "user", "content": "\\ud800"}]}', "not valid JSON"),
        (deep(65), "nested more than 64 levels"),
        (deep(100_000), "nested more than 64 levels"),
        (json.dumps(body(stop=[""] * 300_000)).encode(), "more than 500000 parts"),
        (b"[" * 1_000_000, "more than 500000 parts"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
async def test_bodies(sent: bytes, said: str) -> None:
    """A body that is not a chat request is refused with the place and the reason."""
    async with ServiceWorld(one=healthy()) as world:
        answer = await world.client.request("POST", CHAT, body=sent, headers=JSON)
    assert_told(answer, 400, "invalid_request")
    assert said in answer.json()["error"]["message"]
    assert world.asked["one"] == []
    assert world.outcomes() == {"refused": 1}


async def test_deep_but_allowed() -> None:
    """Brackets in text are text, and sixty levels are within the limit."""
    async with ServiceWorld(one=healthy()) as world:
        assert (await world.client.request("POST", CHAT, body=deep(60), headers=JSON)).status == 200
        text = '[{"' * 500 + "\\"
        assert (await world.ask(messages=[{"role": "user", "content": text}] * 20)).status == 200


async def test_unknown_model() -> None:
    """The answer names the model and where to find the others."""
    async with ServiceWorld(one=healthy()) as world:
        answer = await world.ask(model="gpt-9")
    assert_told(answer, 404, "model_not_found")
    assert "'gpt-9'" in answer.json()["error"]["message"]


async def test_too_large() -> None:
    """26 MiB are refused as soon as the limit is passed, however they come."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(26):
            yield b" " * 1024 * 1024

    async with ServiceWorld(one=healthy()) as world:
        assert_told(
            await world.client.request("POST", CHAT, body=b" " * 26 * 1024 * 1024), 413, "request_too_large"
        )
        assert_told(await world.client.request("POST", CHAT, body=pieces()), 413, "request_too_large")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/nope", 404, "not_found"),
        ("POST", "/v1/messages", 404, "not_found"),
        ("GET", "/v1/models/gpt-9", 404, "model_not_found"),
        ("GET", "/web/../settings.py", 404, "not_found"),
        ("GET", "/health?deep=perhaps", 400, "invalid_request"),
    ],
)
async def test_paths_and_methods(method: str, path: str, status: int, code: str) -> None:
    """Unknown paths and methods are answered in the same shape."""
    async with ServiceWorld(one=healthy()) as world:
        answer = await world.client.request(method, path)
    assert_told(answer, status, code)
    if status == 405:
        assert "allow" in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("POST", "/chat/completions", CHAT),
        ("POST", "/v1/v1/chat/completions", CHAT),
        ("POST", "/v1/chat/completions/chat/completions", CHAT),
        ("POST", "/api/V1/Chat/Completions/", CHAT),
        ("POST", "/embeddings", "/v1/embeddings"),
        ("GET", "/models", "/v1/models"),
    ],
)
async def test_a_wrong_base_url(method: str, path: str, meant: str) -> None:
    """The message itself, which is all that most SDKs show, says what the base URL must be."""
    async with ServiceWorld(one=healthy()) as world:
        answer = await world.client.request(method, path, json=body() if method == "POST" else None)
    assert_told(answer, 404, "not_found")
    message = answer.json()["error"]["message"]
    assert f"It would be {meant}: the base URL of a client must end with /v1" in message


async def test_the_message_says_what_to_do() -> None:
    """The suggestion is part of the message of each error of our own."""
    async with ServiceWorld(one=healthy(), caller_keys=("k",)) as world:
        for headers in ({}, {"authorization": "Bearer k", "x-deadline-ms": "soon"}):
            error = (await world.ask(headers=headers)).json()["error"]
            assert error["message"].endswith(f". {error['suggestion']}")


@pytest.mark.parametrize(
    "headers",
    [
        {"x-deadline-ms": "soon"},
        {"x-deadline-ms": "-5"},
        {"x-deadline-ms": "0"},
        {"x-deadline-ms": "9" * 400},
        {"x-deadline-ms": "0" * 4000 + "1"},
        {"content-type": "text/plain"},
        {"content-type": ""},
        {"content-type": "application/x-www-form-urlencoded"},
        {f"x-{n}": "v" for n in range(101)},
    ],
    ids=lambda headers: str(headers)[:40],
)
async def test_headers(headers: dict[str, str]) -> None:
    """Headers that make no sense are refused as bodies are."""
    async with ServiceWorld(one=healthy()) as world:
        assert_told(await world.ask(headers=headers), 400, "invalid_request")


async def test_keys() -> None:
    """Where callers need keys, everything but health does; a wrong key learns nothing."""
    async with ServiceWorld(one=healthy(), caller_keys=("right",)) as world:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "right"}):
            assert_told(await world.ask(headers=headers), 401, "invalid_api_key")
        for path in ("/v1/models", "/status", "/metrics"):
            assert_told(await world.client.request("GET", path), 401, "invalid_api_key")
        assert (await world.ask(headers={"authorization": "Bearer right"})).status == 200
        assert (await world.client.request("GET", "/health?deep=true")).status == 200
        assert "right" not in json.dumps((await world.client.request("GET", "/livez")).json())


@examples(150)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=20) | st.integers(),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(
                        [
                            "model",
                            "messages",
                            "role",
                            "content",
                            "stream",
                            "stream_options",
                            "n",
                            "stop",
                            "tools",
                        ]
                    ),
                    inner,
                    max_size=6,
                )
            ),
            max_leaves=20,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_anything(sent: bytes) -> None:
    """No body makes a 500."""

    async def send() -> None:
        async with ServiceWorld(one=healthy()) as world:
            answer = await world.client.request("POST", CHAT, body=sent, headers=JSON)
            assert answer.status < 500
            assert answer.status == 200 or set(answer.json()["error"]) == FIELDS

    run(send())


async def test_a_defect_of_ours() -> None:
    """If our own code breaks, the client hears an id and nothing of our inside; the log hears where."""

    def broken(request):
        raise ZeroDivisionError("SECRET inside")

    async with ServiceWorld(one=broken) as world:
        answer = await world.ask()
    assert (answer.status, answer.json()["error"]["code"]) == (500, "internal_error")
    assert b"SECRET" not in answer.body
    incident = world.service.board.snapshot()["incidents"][0]
    assert incident["why"].startswith("ZeroDivisionError at ")
    assert "SECRET" not in str(incident)
