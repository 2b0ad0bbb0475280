"""The personas write the formats of the real providers: exact bytes for answers, exact shapes for errors."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.simulators.answers import Proof, answer_text, judge
from dub5.simulators.personas import PERSONAS
from dub5.simulators.script import SimRequest
from tests.support.play import ASK, ASK_ANTHROPIC, PlayedScript, ask, ended_well, play, post, provider

TOOLS = [{"type": "function", "function": {"name": "reply", "parameters": {"type": "object"}}}]
ANTHROPIC_TOOLS = [{"name": "reply", "input_schema": {"type": "object"}}]
FIELDS = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
]
FIELDS += ["top_p", "n", "tools", "tool_choice", "system", "stop"]
LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text(max_size=3)
NAMES = st.sampled_from(
    ["role", "content", "user", "type", "text", "function", "name", "tool", "any", "required"]
)
ANY_JSON = st.recursive(
    LEAVES | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
ANY_FIELDS = st.dictionaries(st.sampled_from(FIELDS), ANY_JSON, max_size=6)
SSE = "text/event-stream; charset=utf-8"


def masked(body: bytes, *ids: str) -> str:
    """Return the body with these drawn ids replaced by ID."""
    text = body.decode()
    for drawn in ids:
        text = text.replace(drawn, "ID")
    return text


class TestOpenAI:
    def test_json(self) -> None:
        """A whole OpenAI answer has every field of the real one, and its usage adds up."""
        answer = ask("openai")

        said = answer.json
        assert judge(said["choices"][0]["message"].pop("content"), "hi") is Proof.WHOLE
        assert said.pop("id").startswith("chatcmpl-")
        assert said["usage"].pop("prompt_tokens_details") == {"cached_tokens": 0, "audio_tokens": 0}
        assert said["usage"].pop("completion_tokens_details")["reasoning_tokens"] == 0
        message: dict[str, Any] = {"role": "assistant", "refusal": None, "annotations": []}
        assert said == {
            "object": "chat.completion",
            "created": 1_763_700_000,
            "model": "m-sim",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 47, "total_tokens": 48},
            "service_tier": "default",
            "system_fingerprint": "fp_sim",
        }
        assert answer.tokens == 47
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-request-id"].startswith("req_")

    def test_stream(self) -> None:
        """An OpenAI stream is, byte for byte: role, one event a token, finish, usage if requested, [DONE]."""
        answer = ask("openai", stream=True, stream_options={"include_usage": True}, max_tokens=2)

        drawn = answer.events[0]["id"]
        head = (
            'data: {"id":"ID","object":"chat.completion.chunk","created":1763700000,"model":"m-sim",'
            '"service_tier":"default","system_fingerprint":"fp_sim","choices":['
        )
        choice = '{"index":0,"delta":%s,"logprobs":null,"finish_reason":%s}],"usage":null}\n\n'
        assert masked(answer.body, drawn) == (
            head
            + choice % ('{"role":"assistant","content":"","refusal":null}', "null")
            + head
            + choice % ('{"content":"one "}', "null")
            + head
            + choice % ('{"content":"answers "}', "null")
            + head
            + choice % ("{}", '"length"')
            + head
            + '],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}\n\ndata: [DONE]\n\n'
        )
        assert answer.headers["content-type"] == SSE
        assert "content-length" not in answer.headers

    def test_stream_without_usage(self) -> None:
        """Usage comes only if it was requested."""
        assert not any("usage" in event for event in ask("openai", stream=True).events)

    @pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "reply"}}])
    def test_tool_call(self, choice: object) -> None:
        """A required call carries the answer as its argument, whole or in fragments."""
        whole = ask("openai", tools=TOOLS, tool_choice=choice).json["choices"][0]
        events = ask("openai", stream=True, tools=TOOLS, tool_choice=choice).events
        calls = [event["choices"][0]["delta"].get("tool_calls", [{}])[0] for event in events]

        function = whole["message"]["tool_calls"][0]["function"]
        assert (function["name"], whole["finish_reason"]) == ("reply", "tool_calls")
        assert judge(json.loads(function["arguments"])["answer"], "hi") is Proof.WHOLE
        assert calls[0]["function"] == {"name": "reply", "arguments": ""}
        assert "".join(c["function"]["arguments"] for c in calls if c) == function["arguments"]
        assert set(calls[1]) == {"index", "function"}

    @pytest.mark.parametrize(
        "body, status, error",
        [
            (b"{", 400, {"param": None, "code": None}),
            (b"[1]", 400, {"param": None, "code": None}),
            (b'"' + b"[" * 100_000, 400, {"param": None, "code": None}),
            ({"messages": []}, 400, {"message": "you must provide a model parameter"}),
            ({"model": "m"}, 400, {"param": "messages", "code": "missing_required_parameter"}),
            ({**ASK, "messages": "hi"}, 400, {"param": "messages", "code": "invalid_type"}),
            ({**ASK, "messages": []}, 400, {"param": "messages", "code": "empty_array"}),
            ({**ASK, "max_tokens": 0}, 400, {"param": "max_tokens", "code": "integer_below_min_value"}),
            ({**ASK, "max_tokens": "5"}, 400, {"param": "max_tokens", "code": "invalid_type"}),
            ({**ASK, "stream_options": {}}, 400, {"param": "stream_options"}),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_wrong_body(self, body: object, status: int, error: dict[str, Any]) -> None:
        """A body that OpenAI rejects is rejected with its message."""
        refused = play(provider("openai")(post("openai", body)))

        assert refused.status == status
        said = refused.json["error"]
        assert set(said) == {"message", "type", "param", "code"}
        assert said["type"] == "invalid_request_error"
        assert error.items() <= said.items()

    def test_other_calls(self) -> None:
        """Models are listed and looked up; unknown paths, models and methods are rejected."""
        listing, one, none, path, method = (
            play(provider("openai", models=("a", "b"))(SimRequest(verb, f"/v1/{what}", {}, b"")))
            for verb, what in [
                ("GET", "models"),
                ("GET", "models/b"),
                ("GET", "models/c"),
                ("POST", "completions"),
                ("GET", "chat/completions"),
            ]
        )

        assert [card["id"] for card in listing.json["data"]] == ["a", "b"]
        assert one.json == listing.json["data"][1]
        assert (none.status, none.json["error"]["code"]) == (404, "model_not_found")
        assert (path.status, path.json["error"]["message"]) == (404, "Invalid URL (POST /v1/completions)")
        assert (method.status, method.json["error"]["code"]) == (405, "method_not_supported")


class TestMistral:
    def test_stream(self) -> None:
        """A Mistral stream has the usage in the event with the finish reason; ids are bare hex."""
        answer = ask("mistral", stream=True, max_tokens=1)

        drawn = answer.events[0]["id"]
        assert int(drawn, 16) and len(drawn) == 32
        head = 'data: {"id":"ID","object":"chat.completion.chunk","created":1763700000,"model":"m-sim",'
        head += '"choices":['
        choice = '{"index":0,"delta":%s,"finish_reason":%s}]'
        assert masked(answer.body, drawn) == (
            head
            + choice % ('{"role":"assistant","content":""}', "null")
            + "}\n\n"
            + head
            + choice % ('{"content":"one "}', "null")
            + "}\n\n"
            + head
            + choice % ('{"content":""}', '"length"')
            + ',"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}\n\n'
            + "data: [DONE]\n\n"
        )

    def test_json(self) -> None:
        """A whole Mistral answer has the fields that its package requires."""
        said = ask("mistral").json
        assert {"id", "object", "model", "usage", "created", "choices"} == set(said)
        assert judge(said["choices"][0]["message"]["content"], "hi") is Proof.WHOLE

    @pytest.mark.parametrize(
        "body, problem",
        [
            ({"model": "m"}, {"loc": ["body", "messages"], "msg": "Field required", "type": "missing"}),
            ({**ASK, "stream_options": {}}, {"loc": ["body", "stream_options"], "type": "extra_forbidden"}),
            ({**ASK, "user": "u"}, {"loc": ["body", "user"], "type": "extra_forbidden"}),
            ({**ASK, "messages": 5}, {"loc": ["body", "messages"], "type": "list_type"}),
            (b"{", {"type": "json_invalid"}),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_wrong_body(self, body: object, problem: dict[str, Any]) -> None:
        """An invalid or unknown field is a 422 that names its place."""
        refused = play(provider("mistral")(post("mistral", body)))
        assert refused.status == 422
        assert any(problem.items() <= said.items() for said in refused.json["detail"])


class TestAnthropic:
    def test_json(self) -> None:
        """An Anthropic message has one text block, a stop reason and both token counts."""
        answer = ask("anthropic", system="be brief")

        said = answer.json
        assert judge(said["content"][0].pop("text"), "hi") is Proof.WHOLE
        assert said.pop("id").startswith("msg_")
        usage = {"input_tokens": 2, "output_tokens": 47, "service_tier": "standard"}
        usage |= {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        assert said == {
            "type": "message",
            "role": "assistant",
            "model": "m-sim",
            "content": [{"type": "text"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": usage,
        }
        assert answer.headers["request-id"].startswith("req_")

    def test_stream(self) -> None:
        """An Anthropic stream is, byte for byte, the sequence of named events of the real one."""
        answer = ask("anthropic", stream=True, max_tokens=1)

        drawn = answer.events[0]["message"]["id"]
        message = (
            '{"id":"ID","type":"message","role":"assistant","model":"m-sim","content":[],"stop_reason":null,'
            '"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}'
        )
        events = [
            ("message_start", f',"message":{message}'),
            ("content_block_start", ',"index":0,"content_block":{"type":"text","text":""}'),
            ("ping", ""),
            ("content_block_delta", ',"index":0,"delta":{"type":"text_delta","text":"one "}'),
            ("content_block_stop", ',"index":0'),
            (
                "message_delta",
                ',"delta":{"stop_reason":"max_tokens","stop_sequence":null},"usage":{"output_tokens":1}',
            ),
            ("message_stop", ""),
        ]
        expected = "".join(f'event: {kind}\ndata: {{"type":"{kind}"{rest}}}\n\n' for kind, rest in events)
        assert masked(answer.body, drawn) == expected

    @pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "reply"}])
    def test_tool_use(self, choice: object) -> None:
        """A required tool is used with the answer as its input, whole or in fragments."""
        whole = ask("anthropic", tools=ANTHROPIC_TOOLS, tool_choice=choice).json
        events = ask("anthropic", stream=True, tools=ANTHROPIC_TOOLS, tool_choice=choice).events
        parts = [e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta"]

        assert (whole["content"][0]["name"], whole["stop_reason"]) == ("reply", "tool_use")
        assert judge(whole["content"][0]["input"]["answer"], "hi") is Proof.WHOLE
        assert json.loads("".join(parts)) == whole["content"][0]["input"]

    @pytest.mark.parametrize(
        "fields, version, message",
        [
            ({"max_tokens": None}, "2023-06-01", "max_tokens: Field required"),
            ({"messages": None}, "2023-06-01", "messages: Field required"),
            ({"stream_options": {}}, "2023-06-01", "stream_options: Extra inputs are not permitted"),
            ({"temperature": 1.5}, "2023-06-01", "temperature: range: 0..1"),
            ({"temperature": "hot"}, "2023-06-01", "temperature: range: 0..1"),
            (
                {"temperature": 0.5},
                "2026-10-21",
                "temperature: not supported by anthropic-version 2026-10-21",
            ),
            ({"top_k": 3}, "2026-10-21", "top_k: not supported by anthropic-version 2026-10-21"),
            (
                {"messages": [{"role": "system", "content": "x"}]},
                "2023-06-01",
                'messages: Unexpected role "system"',
            ),
            ({}, "2019-01-01", 'anthropic-version: "2019-01-01" is not a valid version'),
        ],
    )
    def test_wrong_request(self, fields: dict[str, Any], version: str, message: str) -> None:
        """What Anthropic rejects is rejected, by the rules of each version; the body repeats the request's
        id."""
        body = {**ASK_ANTHROPIC, **fields}
        refused = play(provider("anthropic")(post("anthropic", body, **{"anthropic-version": version})))

        assert refused.status == 400
        assert refused.json["error"]["type"] == "invalid_request_error"
        assert refused.json["error"]["message"].startswith(message)
        assert refused.json["request_id"] == refused.headers["request-id"]

    def test_version_is_required(self) -> None:
        """Without a version there is no answer; the old version accepts sampling parameters."""
        request = SimRequest("POST", "/v1/messages", {}, json.dumps(ASK_ANTHROPIC).encode())
        assert (
            play(provider("anthropic")(request)).json["error"]["message"]
            == "anthropic-version: header is required"
        )
        assert ask("anthropic", temperature=0.5, top_p=0.9, top_k=3).status == 200


def with_key(persona: str, **headers: str) -> PlayedScript:
    return play(provider(persona, key="right")(post(persona, **headers)))


@pytest.mark.parametrize("persona", PERSONAS)
class TestEveryPersona:
    def test_key(self, persona: str) -> None:
        """By default any key is accepted, or none; a provider with a key rejects every other with 401."""
        assert ask(persona).status == 200
        assert with_key(persona).status == 401
        assert with_key(persona, authorization="Bearer wrong").status == 401
        assert with_key(persona, authorization="Bearer right").status == 200
        if persona == "anthropic":
            assert with_key(persona, **{"x-api-key": "right"}).status == 200

    def test_prompt(self, persona: str) -> None:
        """The answer is to the last user message, also if that comes in parts."""
        turns = [
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "yes?"},
            {"role": "user", "content": [{"type": "text", "text": "sec"}, {"type": "text", "text": "ond"}]},
        ]
        assert answer_text("one", "second", 40)[:20].encode() in ask(persona, messages=turns).body

    @given(fields=ANY_FIELDS)
    def test_any_body(self, persona: str, fields: dict[str, Any]) -> None:
        """Whatever the fields hold, there is an answer or a refusal in the persona's JSON, never a broken
        script."""
        body = {**(ASK_ANTHROPIC if persona == "anthropic" else ASK), **fields}
        played = play(provider(persona)(post(persona, body)))
        assert ended_well(played)
        assert played.status in (200, 400, 422)
        assert played.headers["content-type"] == SSE or played.json

    def test_latency(self, persona: str) -> None:
        """The first token and each gap take their time, streamed or not; equal seeds give equal answers."""
        one, same, other = (
            play(provider(persona, latency="quick", seed=seed)(post(persona))) for seed in (1, 1, 2)
        )
        assert one == same != other
        assert ended_well(one) and 0.1 < one.waited_s < 2
        assert ask(persona).waited_s == 0
