"""What clients send in good faith: taken where its meaning is plain, and else told what is wrong with it."""

import asyncio
import gzip
import json
from typing import Any

import pytest

from dub5.simulators.virtual import AppResponse
from tests.support.world import ServiceWorld, body, healthy

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
PLAIN = json.dumps(body()).encode()


async def send(data: bytes, **headers: str) -> tuple[AppResponse, list[Any]]:
    """Return the answer, and the bodies that the provider got."""
    async with ServiceWorld(one=healthy()) as world:
        sent = JSON | {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await world.client.request("POST", CHAT, body=data, headers=sent)
    return answer, [json.loads(request.body) for request in world.asked["one"]]


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (gzip.compress(PLAIN), {"content_encoding": "gzip"}),
        (gzip.compress(PLAIN), {}),
        (b"\x28\xb5\x2f\xfd" + PLAIN, {}),
        (PLAIN, {"content_encoding": "br"}),
    ],
    ids=["gzip", "gzip unsaid", "zstd unsaid", "br"],
)
async def test_compressed(data: bytes, headers: dict[str, str]) -> None:
    """A compressed body is refused with a status and a message that say so."""
    answer, asked = await send(data, **headers)
    error = answer.json()["error"]
    assert (answer.status, error["code"], asked) == (415, "compressed_body", [])
    assert "is compressed (" in error["message"]


async def test_identity() -> None:
    """The content-encoding `identity` is none."""
    assert (await send(PLAIN, content_encoding="identity"))[0].status == 200


async def test_byte_order_mark() -> None:
    """A byte order mark before the JSON is skipped, and providers do not get it."""
    answer, asked = await send(b"\xef\xbb\xbf" + PLAIN)
    assert (answer.status, len(asked)) == (200, 1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (PLAIN[:-1], "it ends too early"),
        (PLAIN.decode().encode("utf-16"), "looks like UTF-16"),
        (PLAIN.decode().encode("utf-16-le"), "looks like UTF-16"),
        (PLAIN.replace(b"Hi", b"\xff"), "not UTF-8"),
        (PLAIN.replace(b"Hi", b"a \\ud83d"), "\\ud83d at byte 62 is half of a character"),
        (PLAIN.replace(b"Hi", b"\\uDC00 b"), "\\uDC00 at byte 60 is half of a character"),
        (PLAIN.replace(b"Hi", b"\\ud83d\\ude00 \\ud83d"), "\\ud83d at byte 73 is half of a character"),
        (PLAIN.replace(b'"Hi"', b"NaN"), "invalid character (byte 59)"),
        (PLAIN[:-1] + b",}", "trailing comma"),
        (b"\xef\xbb\xbf{'model': 1}", "object keys must be strings"),
    ],
)
async def test_not_json(data: bytes, said: str) -> None:
    """What is wrong with a body that is not JSON is said, with its place."""
    answer, _ = await send(data)
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (400, "invalid_request")
    assert error["message"].startswith("The body is not valid JSON: ") and said in error["message"]


async def test_a_whole_character() -> None:
    """An escaped pair of surrogates is a character."""
    answer, asked = await send(PLAIN.replace(b"Hi", b"\\ud83d\\ude00"))
    assert (answer.status, asked[0]["messages"][0]["content"]) == (200, "\U0001f600")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n"])
@pytest.mark.parametrize("written", [b"5.0", b"5e0", b"50.00e0"])
async def test_whole_numbers(name: str, written: bytes) -> None:
    """A whole number may be written as 5.0: some clients have one kind of number. Providers get it as 5."""
    answer, asked = await send(PLAIN[:-1] + b', "%s": %s}' % (name.encode(), written))
    assert answer.status == 200
    assert isinstance(asked[0][name], int) and asked[0][name] == float(written)


@pytest.mark.parametrize("written", [b"5.5", b'"5"', b"1e400", b"[5.0]", b"true"])
async def test_other_numbers(written: bytes) -> None:
    """Other values stay refused."""
    answer, asked = await send(PLAIN[:-1] + b', "max_tokens": %s}' % written)
    assert (answer.status, answer.json()["error"]["param"], asked) == (400, "max_tokens", [])


@pytest.mark.parametrize("given", ["7", "a-B_c:9.x", "0" * 128])
async def test_the_callers_id(given: str) -> None:
    """A well-formed x-request-id is kept: in answers, in errors, on any path."""
    async with ServiceWorld(one=healthy()) as world:
        headers = {"x-request-id": given}
        good = await world.ask(headers=headers)
        bad = await world.ask(headers=headers, messages=[])
        lost = await world.client.request("GET", "/nope", headers=headers)
    assert good.headers["x-request-id"] == bad.headers["x-request-id"] == given
    assert bad.json()["error"]["id"] == lost.json()["error"]["id"] == given


@pytest.mark.parametrize("given", ["", " ", "a b", "0" * 129, "<b>", "é", "-x", "a\tb"])
async def test_no_id_of_the_caller(given: str) -> None:
    """Any other one is replaced by ours."""
    async with ServiceWorld(one=healthy()) as world:
        answer = await world.ask(headers={"x-request-id": given})
    assert answer.headers["x-request-id"].startswith("req_")


async def test_head() -> None:
    """HEAD is answered as GET is, without a body, on each path that has GET."""
    paths = ("/", "/web/app.js", "/v1/models", "/v1/models/chat", "/v1/offline", "/status", "/metrics")
    async with ServiceWorld(one=healthy()) as world:
        for path in (*paths, "/livez", "/readyz", "/health", "/v1/models/none", "/web/none"):
            got = await world.client.request("GET", path)
            head = await world.client.request("HEAD", path)
            assert (head.status, head.body) == (got.status, b""), path
            assert head.headers["content-type"].partition(";")[0], path


async def test_a_stalled_upload() -> None:
    """A client that stalls in its upload is told so with 408, in our shape, and the connection is closed."""

    async def stalled() -> Any:
        yield b'{"model": '
        await asyncio.sleep(1000)

    async with ServiceWorld(one=healthy()) as world:
        answer = await world.client.request("POST", CHAT, body=stalled(), headers=JSON)
    assert (answer.status, answer.json()["error"]["code"]) == (408, "request_timeout")
    assert answer.headers["connection"] == "close"
    assert world.outcomes() == {"refused": 1}
