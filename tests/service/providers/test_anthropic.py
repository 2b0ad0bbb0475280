"""The anthropic dialect: translated both ways, and honest about what cannot be."""

import json

import msgspec
import pytest

from dub5.service.providers.base import ProviderFault, Unsupported
from tests.support.anthropic_events import END, NEW, OLD, START, STOP, event, read
from tests.support.dialect_requests import request
from tests.support.world import payloads, text_of

TEXT = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi"})
THINKING = event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "Hm"})
ALL = START + event("ping") + THINKING + TEXT + STOP + END


class TestRequest:
    def test_turns(self) -> None:
        """System and developer turns go to `system`; neighbours of one role are joined."""
        messages = [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "One"},
            {"role": "user", "content": [{"type": "text", "text": "Two"}]},
            {"role": "assistant", "content": "Three"},
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": "Four"},
        ]
        sent = json.loads(OLD.encode(request(messages=messages), "claude", "sk").body)
        assert sent["system"] == "Be kind.\n\nBe short."
        assert sent["messages"] == [
            {"role": "user", "content": "One\n\nTwo"},
            {"role": "assistant", "content": "Three"},
            {"role": "user", "content": "Four"},
        ]
        assert sent["max_tokens"] == 4096

    def test_versions(self) -> None:
        """Each version has its own way to authenticate, and the newer one takes no sampling parameters."""
        old, new = (d.encode(request(temperature=1.7, stop="x"), "claude", "sk") for d in (OLD, NEW))
        assert (old.headers["x-api-key"], new.headers["authorization"]) == ("sk", "Bearer sk")
        assert json.loads(old.body)["temperature"] == 1.0
        assert "temperature" not in json.loads(new.body)
        assert (old.dropped, new.dropped) == ((), ("temperature",))
        assert json.loads(new.body)["stop_sequences"] == ["x"]

    def test_what_it_has_no_word_for(self) -> None:
        """Fields that Anthropic does not have are dropped, and named in the answer."""
        assert OLD.encode(request(seed=1, service_tier="flex"), "claude", None).dropped == (
            "seed",
            "service_tier",
        )

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"tools": [{"type": "custom"}]}, "tools"),
            ({"tool_choice": "required"}, "tool_choice"),
            ({"logprobs": True}, "logprobs"),
            ({"modalities": ["text", "audio"]}, "modalities"),
            ({"response_format": {"type": "json_object"}}, "response_format"),
            ({"n": 2}, "n"),
            ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ],
    )
    def test_what_would_change_the_answer(self, fields: dict[str, object], param: str) -> None:
        """Better another target than an answer to another question."""
        with pytest.raises(Unsupported, match=param):
            OLD.encode(request(**fields), "claude", None)


class TestStream:
    async def test_whole(self) -> None:
        """Text, thinking, finish reason and usage arrive as OpenAI's chunks."""
        chunks = await read(ALL, stream_options={"include_usage": True})
        data = b"".join(chunk.raw for chunk in chunks)
        events = payloads(data)
        assert text_of(data) == "Hi"
        assert events[1]["choices"][0]["delta"] == {"reasoning_content": "Hm"}
        assert events[-2]["choices"][0]["finish_reason"] == "stop"
        assert events[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        assert {event["model"] for event in events} == {"claude-sim"}

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (START + TEXT, "truncated"),
            (START + TEXT + STOP, "truncated"),
            (START + TEXT + END, "truncated"),
            (START + TEXT + event("message_delta", delta={"stop_reason": ""}) + END, "truncated"),
            (
                START + event("error", error={"type": "overloaded_error", "message": "Overloaded"}),
                "error_event",
            ),
            (b"data: <html>\n\n", "not_json"),
            (b'data: {"type": 3}\n\n', "garbled"),
        ],
    )
    async def test_not_whole(self, data: bytes, reason: str) -> None:
        """Only `message_stop` ends a stream as whole."""
        with pytest.raises(ProviderFault, match=reason):
            await read(data)


class TestAnswer:
    async def test_whole(self) -> None:
        """A message becomes a chat.completion."""
        body = msgspec.json.encode(
            {
                "id": "msg_1",
                "type": "message",
                "model": "claude-sim",
                "content": [{"type": "text", "text": "Hi"}],
                "stop_reason": "max_tokens",
                "usage": {"input_tokens": 5, "output_tokens": 1},
            }
        )
        answer = json.loads(OLD.answer(body, request()).body)
        assert answer["choices"][0]["message"]["content"] == "Hi"
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["total_tokens"] == 6

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (b'{"type":"error","error":{"type":"overloaded_error"}}', "error_event"),
            (b'{"content":[],"stop_reason":"end_turn"}', "empty_answer"),
            (b'{"content":[{"type":"text","text":"a"}]}', "truncated"),
            (b'{"content":[{"type":"text","text":"a"}],"stop_reason":""}', "truncated"),
            (b"<html>", "not_json"),
        ],
    )
    async def test_no_answer(self, body: bytes, reason: str) -> None:
        """A 200 without an answer in it is a failure."""
        with pytest.raises(ProviderFault, match=reason):
            OLD.answer(body, request())
