"""Answers that are odd, as far as the gateway takes them: what is shown is what is kept."""

import json
from typing import Any

import pytest

from dub5.service.events import Crashed
from dub5.simulators.script import Data, End, Head, Respond, Script, SimRequest
from tests.support.conversation_world import ConversationWorld, counting, messages, said
from tests.support.world import SSE, healthy, in_turn, reply

Json = dict[str, Any]
STOP: Json = {"delta": {}, "finish_reason": "stop"}
COUNTED: Json = {"prompt_tokens": 5, "completion_tokens": 4}


def answering(*choices: Json, **fields: Any) -> Respond:
    """Answer with these choices: as events of a stream, or as one body. `fields`: of the last one."""

    def respond(request: SimRequest) -> Script:
        if json.loads(request.body).get("stream"):
            yield Head(200, SSE)
            for choice in choices:
                yield Data(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
            stops = [{**STOP, "index": index} for index in range(len(choices))]
            yield Data(b"data: " + json.dumps({"choices": stops, **fields}).encode() + b"\n\n")
            yield Data(b"data: [DONE]\n\n")
            yield End()
            return
        whole = [{**one, "message": one["delta"], "finish_reason": "stop"} for one in choices]
        yield from reply(200, json.dumps({"choices": whole, **fields}).encode())

    return respond


ODD: dict[str, Respond] = {
    "NUL": answering({"delta": {"content": "Hel\0lo"}}),
    "parts": answering({"delta": {"content": [{"type": "text", "text": "Hello"}]}}),
    "index null": answering({"index": None, "delta": {"content": "Hello"}}),
    "index as text": answering({"index": "0", "delta": {"content": "Hello"}}),
    "refusal []": answering({"delta": {"content": "Hello", "refusal": []}}),
    "refusal": answering({"delta": {"content": None, "refusal": "Hello"}}),
    "message beside a delta": answering({"delta": {"content": "Hello"}, "message": ""}),
    "details no object": answering(
        {"delta": {"content": "Hello"}}, usage={**COUNTED, "completion_tokens_details": 1}
    ),
    "details in a list": answering(
        {"delta": {"content": "Hello"}}, usage={**COUNTED, "completion_tokens_details": []}
    ),
    "usage as text": answering({"delta": {"content": "Hello"}}, usage="many"),
    "a second choice": answering({"delta": {"content": "Hello"}}, {"index": 1, "delta": {"content": "Hi"}}),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", ODD)
async def test_an_odd_answer(name: str, stream: bool) -> None:
    """Whatever surrounds the text of an answer, the text is shown, kept, and asked with."""
    async with ConversationWorld(one=ODD[name]) as world:
        id_ = await world.begin()
        answered = await world.ask_in(id_, "Hi", stream=stream)
        assert answered.status == 200, answered.body
        if stream:
            end = messages(answered.body)[-1]
            assert (said(answered.body), end["kept"], end["finish"]) == ("Hello", True, "stop")
        else:
            turn = answered.json()
            assert (turn["answer"]["text"], turn["kept"], turn["finish"]) == ("Hello", True, "stop")
        (kept,) = (await world.read(id_))["turns"]
        assert (kept["state"], kept["answer"]["text"]) == ("ended", "Hello")
        await world.turn(id_, "And?")
        assert world.prompts()[-1][1] == {"role": "assistant", "content": "Hello"}
        assert world.of(Crashed) == []


async def test_odd_counts() -> None:
    """Counts that a text cannot have are not those of the text: what was said before is not left out."""
    odd = counting("Hello", prompt=10**16, answer=10**16)
    async with ConversationWorld(one=in_turn(odd, healthy())) as world:
        id_ = await world.begin()
        first = await world.turn(id_, "Hi")
        sources = {first[part]["tokens_source"] for part in ("question", "answer")}
        assert sources == {"estimate"}
        second = await world.turn(id_, "And?")
        assert "pruned" not in second
        assert [message["content"] for message in world.prompts()[-1]] == ["Hi", "Hello", "And?"]
