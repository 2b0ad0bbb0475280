"""The openai dialect: what passes unchanged, and what is not an answer."""

import msgspec
import pytest

from dub5.service.model import Chunk
from dub5.service.providers.base import ProviderFault
from dub5.service.providers.openai import OpenAIDialect
from tests.support.dialect_requests import request
from tests.support.openai_events import CONTENT, DONE, STOP, USAGE, choice, event

DIALECT = OpenAIDialect(event_bytes_max=10_000)


def read(data: bytes, **fields: object) -> list[Chunk]:
    reader = DIALECT.stream(request(stream=True, **fields), "gpt")
    chunks = reader.feed(data)
    if reader.fault is not None:
        raise reader.fault
    return chunks + reader.end()


class TestRequest:
    def test_unknown_fields_pass_unchanged(self) -> None:
        """A field nobody here knows reaches the provider byte for byte."""
        call = DIALECT.encode(
            request(reasoning_effort="high", top_k=7, nested={"a": [1.50, None]}), "gpt", "sk"
        )
        sent = msgspec.json.decode(call.body)
        assert sent["model"] == "gpt"
        assert (sent["reasoning_effort"], sent["top_k"], sent["nested"]) == ("high", 7, {"a": [1.5, None]})
        assert b"1.50" not in call.body or b'"a":[1.50,null]' in call.body.replace(b" ", b"")
        assert call.headers["authorization"] == "Bearer sk"

    def test_usage_is_always_asked_for(self) -> None:
        """Usage is always requested; the client's other stream options are kept."""
        sent = msgspec.json.decode(
            DIALECT.encode(
                request(stream=True, stream_options={"include_obfuscation": False}), "gpt", None
            ).body
        )
        assert sent["stream_options"] == {"include_usage": True, "include_obfuscation": False}


class TestStream:
    def test_chunks_pass_as_received(self) -> None:
        """What the provider sent is what the client gets, without the `[DONE]` that is ours to say."""
        assert [chunk.raw for chunk in read(CONTENT + STOP + USAGE + DONE)] == [CONTENT, STOP, b""]

    def test_usage_chunk(self) -> None:
        """The usage chunk is always counted, and relayed only to a client that requested it."""
        silent = read(CONTENT + STOP + USAGE + DONE)
        assert silent[-1].raw == b""
        assert silent[-1].usage is not None
        asked = read(CONTENT + STOP + USAGE + DONE, stream_options={"include_usage": True})
        assert asked[-1].raw == USAGE

    def test_a_number_that_cannot_be_read(self) -> None:
        """An invalid number in an unread field of the usage chunk is relayed as it came."""
        odd = (
            b'data: {"id":-1e999,"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'
        )
        chunks = read(odd + DONE, stream_options={"include_usage": True})
        assert b'"id":-1e999' in chunks[-1].raw and chunks[-1].usage is not None

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (CONTENT + DONE, "truncated"),
            (CONTENT, "truncated"),
            (b"", "truncated"),
            (CONTENT + STOP[:-30], "truncated"),
            (event(error={"message": "overloaded", "code": 503}), "error_event"),
            (CONTENT + event(choices=[choice({"content": ""}, "error")]), "error_event"),
            (b"data: <html>\n\n", "not_json"),
            (b'data: {"choices": [{"ind\n\n', "garbled"),
            (event(hello="world"), "garbled"),
            (
                event(choices=[choice({"content": "a"}, None, 0), choice({"content": "b"}, "stop", 1)]),
                "truncated",
            ),
            (event(choices=[choice({"content": "Hi"}, "")]) + DONE, "truncated"),
            (event(choices=[choice({}, "stop", 1)]) + CONTENT + DONE, "truncated"),
            (b'data: {"choices":[],"extra":"\xff"}\n\n', "garbled"),
        ],
    )
    def test_not_whole(self, data: bytes, reason: str) -> None:
        """Anything but a finish reason in the provider's own words is a failure with its own name."""
        with pytest.raises(ProviderFault, match=reason):
            read(data)


class TestAnswer:
    def body(self, **choice_fields: object) -> bytes:
        return msgspec.json.encode({"choices": [{"index": 0, "finish_reason": "stop", **choice_fields}]})

    def test_whole(self) -> None:
        """A JSON answer is relayed as it came."""
        usage = b'{ "prompt_tokens": 1, "completion_tokens": 2 , "total_tokens": 3}'
        body = self.body(message={"role": "assistant", "content": "Hi"})[:-1] + b', "usage":' + usage + b"}"
        assert DIALECT.answer(body, request()).body == body

    def test_a_filtered_answer_is_an_answer(self) -> None:
        """An answer emptied by a content filter ends the failover."""
        assert DIALECT.answer(self.body(message={"content": ""}, finish_reason="content_filter"), request())

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (b"", "not_json"),
            (b"<!DOCTYPE html>", "not_json"),
            (b'{"choices": [', "garbled"),
            (b'{"choices": []}', "empty_answer"),
            (b'{"choices": null}', "empty_answer"),
            (b"{}", "garbled"),
            (b'{"error": {"message": "no", "code": 502}}', "error_event"),
            (b'{"choices":[{"message":{"content":""},"finish_reason":"stop"}]}', "empty_answer"),
            (b'{"choices":[{"message":{"content":"a"}}]}', "truncated"),
            (b'{"choices":[{"message":{"content":"a"},"finish_reason":""}]}', "truncated"),
            (b'{"choices":[{"message":{"content":"\xff"},"finish_reason":"stop"}]}', "garbled"),
            (b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"extra":"\xff"}', "garbled"),
        ],
    )
    def test_no_answer(self, body: bytes, reason: str) -> None:
        """A 200 without an answer in it is a failure."""
        with pytest.raises(ProviderFault, match=reason):
            DIALECT.answer(body, request())


class TestFault:
    @pytest.mark.parametrize(
        ("body", "code", "message"),
        [
            (b'{"error":{"message":"m","type":"t","code":"c"}}', "c", "m"),
            (b'{"error":{"message":"m","type":"t","code":null}}', "t", "m"),
            (b'{"message":"m","request_id":"r"}', "", "m"),
            (b'{"detail":"Unauthorized"}', "", "Unauthorized"),
            (b'{"error":"m","status":402}', "", "m"),
            (b'{"object":"error","message":"m","type":"t","code":"1300"}', "1300", "m"),
            (
                b'{"type":"error","error":{"type":"t","message":"m","details":{"error_code":"ramp"}}}',
                "ramp",
                "m",
            ),
            (b'{"error":{"code":429,"message":"m","metadata":{}}}', "429", "m"),
            (
                b'{"detail":[{"loc":["body","messages"],"msg":"Field required"}]}',
                "",
                "messages: Field required",
            ),
            (b'{"title":"Error 1033","status":530,"cloudflare_error":true,"error_code":1033}', "1033", ""),
            (b"error code: 1033", "1033", ""),
            (b"<title>Cloudflare Tunnel error</title><script>x={errorCode:1016}", "1016", ""),
            (b'{"error":{"code":"a\\r\\nset-cookie: x","message":"m"}}', "", "m"),
            (b"<html>", "", ""),
            (b"[" * 100_000, "", ""),
            (b"\xff\xfe", "", ""),
        ],
        ids=lambda value: str(value)[:40],
    )
    async def test_bodies(self, body: bytes, code: str, message: str) -> None:
        """Every shape of error body seen in the field is read; none that is not can hurt."""
        fault = DIALECT.fault(500, {}, body)
        assert (fault.code, fault.message) == (code, message)
