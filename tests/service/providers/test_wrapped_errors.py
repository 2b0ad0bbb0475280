"""Errors as gateways wrap them, and errors inside a 200: each means what it means bare, with its status."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dub5.service.providers.anthropic import AnthropicDialect
from dub5.service.providers.base import Dialect, ProviderFault, event_fault, status_fault
from dub5.service.providers.mistral import MistralDialect
from dub5.service.providers.openai import OpenAIDialect
from dub5.service.resilience.classify import Blame, Classification, Then, classify
from dub5.simulators import virtual
from tests.support.dialect_requests import request
from tests.support.examples import examples

# An error as the provider says it, with its status.
BARE: tuple[tuple[int, dict[str, Any]], ...] = (
    (
        400,
        {
            "error": {
                "message": "This model's maximum context length is 4096 tokens. You asked for 5000.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        },
    ),
    (400, {"object": "error", "message": "maximum context length is 4096 tokens", "type": "BadRequestError"}),
    (
        400,
        {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "prompt is too long: 2 tokens > 1 maximum"},
        },
    ),
    (400, {"error": {"message": "Your credit balance is too low to access the API."}}),
    (400, {"error": {"code": "content_filter", "message": "The prompt was filtered."}}),
    (400, {"error": {"message": "The model `m` has been decommissioned.", "code": "model_decommissioned"}}),
    (400, {"error": {"message": "Invalid value for temperature: 3."}}),
    (400, {"detail": "Unsupported parameter: top_k"}),
    (
        422,
        {
            "detail": [
                {"loc": ["body", "stop"], "msg": "Input should be a valid string", "type": "string_type"}
            ]
        },
    ),
    (401, {"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}}),
    (402, {"error": {"message": "You requested up to 64000 tokens, but can only afford 100."}}),
    (403, {"error": {"message": "Your input was flagged for violence."}}),
    (404, {"error": {"message": "The model `x` does not exist.", "code": "model_not_found"}}),
    (429, {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}),
    (429, {"error": {"message": "Rate limit reached. Please try again in 7.5s.", "type": "tokens"}}),
    (
        429,
        {
            "error": {
                "code": 429,
                "message": "Resource has been exhausted.",
                "status": "RESOURCE_EXHAUSTED",
                "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36s"}],
            }
        },
    ),
    (429, {"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "code": "1300"}),
    (503, {"error": {"message": "The engine is currently overloaded.", "type": "server_is_overloaded"}}),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
)

Wrapper = Callable[[Any, int], Any]


def text(error: Any) -> str:
    return error if isinstance(error, str) else json.dumps(error)


WRAPPERS: Mapping[str, Wrapper] = {
    "openrouter": lambda error, status: {
        "error": {
            "code": status,
            "message": "Provider returned error",
            "metadata": {"raw": text(error), "provider_name": "Some AI"},
        },
        "user_id": "user_x",
    },
    "openrouter, raw as an object": lambda error, status: {
        "error": {"code": status, "message": "Provider returned error", "metadata": {"raw": error}}
    },
    "litellm": lambda error, status: {
        "error": {
            "message": f"litellm.BadRequestError: OpenAIException - {text(error)}",
            "type": None,
            "param": None,
            "code": str(status),
        }
    },
    "cloudflare": lambda error, status: {
        "success": False,
        "errors": [{"code": 7003, "message": text(error)}],
        "messages": [],
        "result": None,
    },
    "fastapi": lambda error, status: {"detail": error},
    "fastapi, as text": lambda error, status: {"detail": text(error)},
    "python": lambda error, status: {"detail": f"Error code: {status} - {error!r}"},
    "aws": lambda error, status: {"message": text(error)},
    "aws, an exception": lambda error, status: {"__type": "ModelErrorException", "message": text(error)},
    "azure": lambda error, status: {"statusCode": status, "message": text(error)},
    "error as text": lambda error, status: {"error": text(error)},
    "error as an object": lambda error, status: {"error": error},
    "message as text": lambda error, status: {"error": {"message": text(error), "type": "upstream_error"}},
    "pollinations": lambda error, status: {
        "error": f"{status} Bad Request",
        "status": status,
        "details": error if isinstance(error, dict) else {"error": error},
    },
    "list": lambda error, status: [error],
    "unknown field": lambda error, status: {"status": "failed", "upstream_answer": text(error)},
    "prefix": lambda error, status: f"upstream said {status}: {text(error)}",
    "event": lambda error, status: f"event: error\ndata: {text(error)}\n\n",
    "plain": lambda error, status: error,
}
errors = st.sampled_from(BARE)
wrappers = st.lists(st.sampled_from(sorted(WRAPPERS)), min_size=1, max_size=3)
DIALECTS: Mapping[str, Dialect] = {
    "openai": OpenAIDialect(100_000),
    "mistral": MistralDialect(100_000),
    "anthropic": AnthropicDialect(100_000, None, 100),
}


def meaning(fault: ProviderFault) -> tuple[Any, ...]:
    found = classify(fault)
    return (found.then, found.blame, found.cooldown_s, found.cooldown_reason, found.message, found.overload)


def bare(status: int, error: Any) -> Classification:
    return classify(status_fault(status, {}, json.dumps(error).encode()))


def wrap(error: Any, status: int, names: list[str]) -> bytes:
    for name in names:
        error = WRAPPERS[name](error, status)
    return text(error).encode()


@given(errors, wrappers)
@example(BARE[0], ["openrouter"])
@example(BARE[3], ["litellm", "python"])
@examples(300)
def test_a_wrapped_error(case: tuple[int, Any], names: list[str]) -> None:
    """A gateway's wrapping changes neither what follows nor whose fault it is, nor the sentence told."""
    status, error = case
    expected = status_fault(status, {}, json.dumps(error).encode())
    fault = status_fault(status, {}, wrap(error, status, names))
    assert meaning(fault) == meaning(expected), fault.message
    if expected.code and not expected.code.isdecimal():
        assert fault.code == expected.code


@pytest.mark.parametrize("how", ["json", "stream", "named event"])
@given(errors, wrappers, st.sampled_from(sorted(DIALECTS)))
@examples(100)
def test_inside_a_200(how: str, case: tuple[int, Any], names: list[str], dialect: str) -> None:
    """An error inside a 200 that tells its status is classified as with that status."""
    status, error = case
    body = wrap({**error, "status": status}, status, [n for n in names if n not in ("prefix", "event")])
    dialect_ = DIALECTS[dialect]

    async def read() -> None:
        if how == "json":
            dialect_.answer(body, request())
        reader = dialect_.stream(request(stream=True), "m")
        reader.feed((b"event: error\n" if how == "named event" else b"") + b"data: " + body + b"\n\n")
        if reader.fault is not None:
            raise reader.fault
        reader.end()

    with pytest.raises(ProviderFault) as caught:
        virtual.run(read())
    assert meaning(caught.value) == meaning(status_fault(status, {}, json.dumps(error).encode()))


@pytest.mark.parametrize(
    ("error", "then", "blame"),
    [
        ({"type": "rate_limit_error"}, Then.NEXT, Blame.KEY),
        ({"type": "overloaded_error"}, Then.NEXT, Blame.TARGET),
        ({"type": "authentication_error"}, Then.NEXT, Blame.KEY),
        ({"type": "invalid_request_error"}, Then.ASK_ANOTHER, Blame.NOBODY),
        ({"code": "rate_limit_exceeded"}, Then.NEXT, Blame.KEY),
        ({"status": "UNAVAILABLE"}, Then.RETRY, Blame.TARGET),
        ({"message": "maximum context length is 4096 tokens"}, Then.NEXT, Blame.NOBODY),
        ({"message": "Your credit balance is too low."}, Then.NEXT, Blame.KEY),
        ({"message": "Something odd."}, Then.NEXT, Blame.TARGET),
    ],
)
def test_a_200_without_a_status(error: dict[str, str], then: Then, blame: Blame) -> None:
    """Where no status is told, the error's name has one, or its subject; any other is the target's fault."""
    found = classify(event_fault(json.dumps({"error": error}).encode()))
    assert (found.then, found.blame) == (then, blame)


def test_pages_inside_a_200() -> None:
    """A page of an edge that comes with 200 means what its code means."""
    for page, blame in ((b"error code: 1033", Blame.HOST), (b"<h1>You have been blocked</h1>", Blame.NOBODY)):
        with pytest.raises(ProviderFault, match="not_json") as caught:
            DIALECTS["openai"].answer(page, request())
        assert classify(caught.value).blame is blame


ECHOED = json.dumps({"error": {"code": "insufficient_quota", "message": "no quota", "status": 401}})


@pytest.mark.parametrize("inside", [False, True])
@given(st.sampled_from(("input", "value", "message", "body", "metadata", "got")), st.booleans())
def test_what_a_caller_wrote_proves_nothing(inside: bool, place: str, as_text: bool) -> None:
    """An error that a caller may have written, and the provider repeats, rests no key by itself."""
    written = f"Invalid value: {ECHOED}" if as_text or place == "message" else json.loads(ECHOED)
    body = json.dumps({"error": {"message": "Invalid value.", place: written}}).encode()
    found = classify(event_fault(body) if inside else status_fault(400, {}, body))
    assert found.blame is not Blame.KEY or found.unproven


@given(
    st.recursive(
        st.text(max_size=30),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(
                st.sampled_from(("error", "message", "code", "detail", "raw", "x")), inner, max_size=4
            ),
            inner.map(json.dumps),
        ),
        max_leaves=20,
    )
)
def test_any_body(error: Any) -> None:
    """Whatever a body holds, it is read without a defect."""
    fault = status_fault(400, {}, json.dumps(error).encode())
    assert len(fault.message) <= 300 and len(fault.code) <= 64


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":' * 7000,
        b"[" * 60_000,
        ('{"error": "' + "{'a': " * 10_000 + '"}').encode(),
        b'{"message": "' + b"{" * 60_000 + b'"}',
        json.dumps({"errors": [{"message": "{" * 3000}] * 20}).encode(),
        b'{"detail":[{"msg":"no","input":"' + b"x" * 100_000,
        json.dumps({str(n): "{'a':" * 600 + "1" + "}" * 600 for n in range(15)}).encode(),
    ],
    ids=lambda body: body[:20],
)
def test_a_hostile_body(body: bytes) -> None:
    """A body made to cost much is read within 20 ms."""
    began = time.thread_time()
    status_fault(400, {}, body)
    assert time.thread_time() - began < 0.020 * 3


def test_a_body_that_is_cut_off() -> None:
    """Of a body longer than is read, the first message still tells what it is about."""
    body = b'{"error":{"message":"maximum context length is 4096 tokens","code":"x","input":"' + b"a" * 70_000
    assert bare(400, {"error": {"message": "maximum context length is 4096 tokens"}}).then is Then.NEXT
    assert classify(status_fault(400, {}, body)).blame is Blame.NOBODY
    assert status_fault(400, {}, body).message == "maximum context length is 4096 tokens"


NUMBER = "0x" + "f" * 3900  # of more digits than Python turns into a text


@pytest.mark.parametrize(
    "text",
    [
        "failed: {{'a': 1}: 1}",
        f"failed: {{'message': 'no', 'loc': [{NUMBER}]}}",
        f"failed: {{'message': 'no', 'details': [{{'retryDelay': {NUMBER}}}]}}",
        f"failed: {{'message': 'no', 'details': [{{'reason': {NUMBER}}}]}}",
        f"failed: {{'message': 'no', 'metadata': {{'headers': {{'retry-after': {NUMBER}}}}}}}",
    ],
    ids=["key", "place", "wait", "reason", "headers"],
)
@pytest.mark.parametrize("bare_text", [True, False])
async def test_objects_of_python(bare_text: bool, text: str) -> None:
    """What Python prints and JSON cannot hold is read without a defect."""
    body = text if bare_text else json.dumps({"error": {"message": text}})
    assert status_fault(400, {}, body.encode()).message


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "a \\ud83d b"}}',
        json.dumps({"error": {"metadata": {"raw": '{"error": {"message": "a \\ud83d b"}}'}}}).encode(),
        b"failed: {'error': {'message': 'a \\ud83d b'}}",
    ],
    ids=["JSON", "raw", "printed"],
)
def test_half_a_character(body: bytes) -> None:
    """Half of a character in a message does not keep the message from the client."""
    assert status_fault(400, {}, body).message.encode() == b"a ? b"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("streamed", [False, True])
async def test_half_a_character_inside_a_200(streamed: bool, dialect: str) -> None:
    """A filter's refusal is one, too, where its text is cut within a character."""
    error = b'{"type": "error", "error": {"code": "content_filter", "message": "No: \\ud83d"}}'
    if streamed:
        reader = DIALECTS[dialect].stream(request(), "m")
        reader.feed(b"data: " + error + b"\n\n")
        fault = reader.fault
    else:
        with pytest.raises(ProviderFault) as caught:
            DIALECTS[dialect].answer(error, request())
        fault = caught.value
    assert fault is not None and classify(fault).then is Then.GIVE_UP


@pytest.mark.parametrize(
    "where",
    [
        {"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "999999999s"}]},
        {"metadata": {"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": 9741305600000}}},
    ],
    ids=["details", "headers"],
)
async def test_a_wait_of_years(where: Mapping[str, Any]) -> None:
    """No error, wherever it names a wait, disables a target for longer than a day."""
    error = {"error": {"message": "no", **where}}
    assert status_fault(429, {}, json.dumps(error).encode()).retry_after_s == 86_400
