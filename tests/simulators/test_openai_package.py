"""The official openai package, in strict mode, accepts the simulated provider as the real one."""

import json
from typing import Any, cast

import openai
import pytest

from dub5.simulators.answers import Proof, judge
from dub5.simulators.faults.answers import parse_fault
from dub5.simulators.server.sockets import serve
from tests.support.play import provider

pytestmark = pytest.mark.real_sockets

MESSAGES = cast(Any, [{"role": "user", "content": "hi"}])
TOOLS = cast(Any, [{"type": "function", "function": {"name": "reply", "parameters": {"type": "object"}}}])


def client(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="k", max_retries=0, _strict_response_validation=True
    )


async def test_healthy() -> None:
    """Answers, streams, tool calls and models are parsed without an error, and the answers are whole."""
    async with serve(provider("openai")) as server, client(server.url) as ai:
        whole = await ai.chat.completions.create(model="m", messages=MESSAGES)
        assert judge(whole.choices[0].message.content or "", "hi") is Proof.WHOLE

        options = cast(Any, {"include_usage": True})
        text, usage = "", None
        async for chunk in await ai.chat.completions.create(
            model="m", messages=MESSAGES, stream=True, stream_options=options
        ):
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
        assert judge(text, "hi") is Proof.WHOLE
        assert usage is not None and usage.completion_tokens == 47

        async with ai.chat.completions.stream(
            model="m", messages=MESSAGES, tools=TOOLS, tool_choice="required"
        ) as stream:
            final = await stream.get_final_completion()
        calls = cast(Any, final.choices[0].message.tool_calls)
        assert judge(json.loads(calls[0].function.arguments)["answer"], "hi") is Proof.WHOLE

        assert [model.id async for model in ai.models.list()] == ["gpt-sim", "gpt-sim-mini"]


@pytest.mark.parametrize(
    "fault, error",
    [
        ({"kind": "status", "status": 401}, openai.AuthenticationError),
        ({"kind": "status", "status": 429}, openai.RateLimitError),
        ({"kind": "status", "status": 530, "body": "cloudflare_1033_text"}, openai.InternalServerError),
        ({"kind": "cut", "after_tokens": 3, "how": "close"}, openai.APIConnectionError),
        ({"kind": "cut", "after_tokens": 3, "how": "reset"}, openai.APIConnectionError),
        ({"kind": "cut", "after_tokens": 3, "how": "error_event"}, openai.APIError),
        ({"kind": "garbage", "where": "sse"}, json.JSONDecodeError),
        ({"kind": "cut", "after_tokens": 3, "how": "end_without_finish"}, None),
        ({"kind": "empty"}, None),
    ],
    ids=str,
)
async def test_faults(fault: dict[str, Any], error: type[Exception] | None) -> None:
    """Each fault looks to the package like the real one; two of them it does not notice."""
    text = ""
    async with serve(provider("openai", parse_fault(fault))) as server, client(server.url) as ai:
        try:
            async for chunk in await ai.chat.completions.create(model="m", messages=MESSAGES, stream=True):
                text += chunk.choices[0].delta.content or ""
        except (openai.APIError, json.JSONDecodeError) as raised:
            assert error is not None and isinstance(raised, error)
        else:
            assert error is None
    assert judge(text, "hi") is Proof.CUT


@pytest.mark.parametrize("persona", ["groq", "openrouter", "free"])
async def test_compatibles(persona: str) -> None:
    """Providers that copy OpenAI are understood as well, with their comments and fields."""
    async with serve(provider(persona)) as server, client(server.url) as ai:
        text = ""
        async for chunk in await ai.chat.completions.create(model="m", messages=MESSAGES, stream=True):
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
        assert judge(text, "hi") is Proof.WHOLE
        whole = await ai.chat.completions.create(model="m", messages=MESSAGES)
        assert judge(whole.choices[0].message.content or "", "hi") is Proof.WHOLE


async def test_embeddings() -> None:
    """The package requests base64 by itself, and decodes numbers from it; its strict mode forgets that."""
    async with (
        serve(provider("openai")) as server,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="k") as ai,
    ):
        answer = await ai.embeddings.create(model="m", input=["a", "b"], dimensions=8)
        assert [len(item.embedding) for item in answer.data] == [8, 8]
