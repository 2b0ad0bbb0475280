"""Every error has one shape, and its message says what to do: of each class of errors, and of any request."""

import gzip
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from dub5.service.api.errors import REQUEST_ID, error_body, error_headers
from dub5.service.errors import GatewayError, ProviderRefused, every_error
from dub5.simulators.script import Respond
from dub5.simulators.virtual import AppResponse, run
from tests.support.examples import examples
from tests.support.play import provider
from tests.support.world import ServiceWorld, status

CHAT = "/v1/chat/completions"
FIELDS = {"message", "type", "code", "param", "id", "retry_after", "suggestion", "attempts"}
ERRORS = list(every_error())
STATUSES = {error.status for error in ERRORS} | {422}
READABLE = (
    *("/", "/web/app.js", "/v1/models", "/v1/models/chat", "/v1/offline", "/status", "/metrics", "/livez"),
    *("/readyz", "/health", "/health?deep=true"),
)
PATHS = (
    *(CHAT, "/v1/embeddings", "/admin/cache/invalidate", *READABLE, "/health?deep=2", "/favicon.ico"),
    *("/chat/completions", "/v1/v1/models", "/v1/responses", "/v1/messages", "/v1/models/none", "/web/none"),
    *(
        "/v1/chat/completions/",
        "/v1//chat/completions",
        "//v1/embeddings/",
        "/V1/models",
        "/v1/%ff",
        "/?a=%zz",
        "/docs",
    ),
)
CALL = {"id": "a", "type": "function", "function": {}}
FULL: dict[str, Any] = {
    "model": "chat",
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "Hi"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": {}}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "user", "content": "Hi"},
    ],
    "stream": False,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "top_p": 1.0,
    "max_tokens": 5,
    "max_completion_tokens": 5,
    "stop": ["a"],
    "n": 1,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": "auto",
    "response_format": {"type": "text"},
    "logprobs": False,
    "store": False,
    "input": ["a", "b"],
    "encoding_format": "float",
    "user": "u",
}
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 5.0, 5.5, 1e300, 10**30, "", "x", "5", [], [[]], [None], {}, {"a": 1}),
)
METHODS = ("POST", "POST", "POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")
JSON = "application/json"


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of each value within a body."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, child in inner for place in places(child, (*at, key)))]


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """Return the body with another value at a path."""
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = changed(value[place[0]], place[1:], new)
    return copy


PLACES = places(FULL)
ENCODINGS: Mapping[str, Any] = {
    "plain": lambda text: text.encode(),
    "bom": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "latin-1": lambda text: text.replace("Hi", "\xe9").encode("latin-1"),
    "gzip": lambda text: gzip.compress(text.encode()),
    "surrogate": lambda text: text.replace("Hi", "\\ud83d").encode(),
    "cut": lambda text: text[:-3].encode(),
    "comma": lambda text: text[:-1].encode() + b",}",
    "nan": lambda text: text.replace("0.5", "NaN").encode(),
    "twice": lambda text: text.encode() * 2,
    "empty": lambda text: b"",
}


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Draw a body: a good one with an odd value anywhere, perhaps badly written."""
    body = FULL
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.sampled_from(PLACES))
        try:
            body = changed(body, place, draw(st.sampled_from(ODD)))
        except (TypeError, LookupError):
            continue  # the place is gone
    how = draw(st.sampled_from(["plain", "plain", "plain", *ENCODINGS]))
    return bytes(ENCODINGS[how](json.dumps(body)))


HEADERS = st.fixed_dictionaries(
    {
        "content-type": st.sampled_from(
            ["application/json"] * 3 + ["text/plain", "", "application/json; charset=x"]
        )
    },
    optional={
        "content-encoding": st.sampled_from(["gzip", "br", "identity", "x"]),
        "x-request-id": st.sampled_from(["mine-7", "a b", "\xe9", "x" * 200]),
        "authorization": st.sampled_from(["Bearer k", "Basic \xff", ""]),
        "x-deadline-ms": st.sampled_from(["1000", "0", "soon", "\xb2"]),
        "x-dub5-delivery": st.sampled_from(["whole", "live", "x"]),
        "accept": st.sampled_from(["text/html", "text/event-stream", "*"]),
        "if-none-match": st.sampled_from(['"x"', "*"]),
        "origin": st.just("http://evil.test"),
    },
)


def assert_error(answer: AppResponse, sent: Mapping[str, str]) -> None:
    """Check the one shape, and that the message alone says what to do."""
    assert answer.status in STATUSES
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-should-retry"] in ("true", "false")
    own_id = sent.get("x-request-id", "")
    if REQUEST_ID.fullmatch(own_id):
        assert answer.headers["x-request-id"] == own_id
    assert ("retry-after" in answer.headers) is ("retry-after-ms" in answer.headers)
    if not answer.body:  # HEAD
        return
    error = answer.json()["error"]
    assert set(error) == FIELDS
    assert error["id"] == answer.headers["x-request-id"]
    assert error["message"].endswith(f" {error['suggestion']}")
    assert len(error["message"]) > len(error["suggestion"]) + 5
    assert error["code"] in {kind.code for kind in ERRORS}
    assert "Traceback" not in answer.body.decode()


@examples(150)
@given(
    method=st.sampled_from(
        ["POST", "POST", "POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"]
    ),
    path=st.one_of(st.just(CHAT), st.sampled_from(PATHS)),
    headers=HEADERS,
    body=bodies(),
    keys=st.sampled_from([(), ("k",)]),
)
def test_any_request(
    method: str, path: str, headers: dict[str, str], body: bytes, keys: tuple[str, ...]
) -> None:
    """No request makes a 500; whatever is wrong with it is told in one shape, for HEAD without a body."""
    note(f"{method} {path} {headers} {body[:200]!r}")

    async def send() -> AppResponse:
        async with ServiceWorld(one=provider("openai"), caller_keys=keys) as world:
            answer: AppResponse = await world.client.request(method, path, headers=headers, body=body)
            return answer

    answer = run(send())
    assert answer.status < 500
    if method == "HEAD":
        assert answer.body == b""
    if answer.status >= 400:
        assert answer.headers["x-should-retry"] == "false"
        assert_error(answer, headers)
    if answer.status == 405:
        assert method not in answer.headers["allow"].split(", ")
    if (
        method in ("GET", "HEAD")
        and path in READABLE
        and (not keys or headers.get("authorization") == "Bearer k")
    ):
        assert answer.status in (200, 304)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("retry_after_s", [None, 0.2, 4.2, 3600.0])
def test_every_class(kind: type[GatewayError], retry_after_s: float | None) -> None:
    """Each error can be told, and a retry is advised only with a time that SDKs wait for."""
    if issubclass(kind, ProviderRefused):
        error: GatewayError = kind("Something is wrong", 422)
    else:
        error = kind("Something is wrong", retry_after_s=retry_after_s)
    body = json.dumps(error_body(error, "req_1")).encode()
    headers = error_headers(error, "req_1")
    assert_error(AppResponse(error.status, headers, body), {})
    assert error.status not in (502, 504)
    assert headers["x-should-retry"] == "false" or int(headers["retry-after"]) <= 60


ACCOUNT_TEXTS = (
    "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing (org-SECRET).",
    "API key not valid. Please pass a valid API key. SECRET",
    "You exceeded your current quota, org-SECRET, please check your plan and billing details.",
    "Insufficient credits. Add more using https://openrouter.ai/credits?account=SECRET",
    "Your organization SECRET has been disabled.",
    "Incorrect API key provided: sk-SECRET.",
    "The project proj_SECRET has reached its monthly limit.",
)


def saying(number: int, text: str, code: str) -> Respond:
    """Return a provider that answers with this status and error."""
    error = {"message": text, "code": code, "type": code, "param": text}
    return status(number, json.dumps({"error": error}).encode(), {"x-request-id": text, "retry-after": "7"})


@examples(100)
@given(
    texts=st.lists(st.sampled_from(ACCOUNT_TEXTS), min_size=1, max_size=3),
    number=st.sampled_from([200, 400, 401, 402, 403, 404, 405, 408, 409, 413, 422, 429, 500, 503, 529, 530]),
    code=st.sampled_from(["", "invalid_api_key", "insufficient_quota", "429", "rate_limit_exceeded"]),
    stream=st.booleans(),
    delivery=st.sampled_from(["live", "whole"]),
)
def test_accounts_stay_secret(texts: list[str], number: int, code: str, stream: bool, delivery: str) -> None:
    """What providers say of our accounts reaches no caller, whatever status it comes with."""

    async def send() -> AppResponse:
        providers = {f"p{n}": saying(number, text, code) for n, text in enumerate(texts)}
        async with ServiceWorld(**providers) as world:
            return await world.ask(stream=stream, headers={"x-dub5-delivery": delivery})

    answer = run(send())
    note(f"{answer.status} {answer.body!r}")
    assert b"SECRET" not in answer.body
    assert "SECRET" not in str(answer.headers)
    assert answer.status in (413, 429, 503)
    assert_error(answer, {})
