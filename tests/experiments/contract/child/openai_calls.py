"""The calls of the openai package."""

import asyncio
import json
import time
from typing import Any

import openai

ASK: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TOOL: Any = {
    "tools": [{"type": "function", "function": {"name": "reply", "parameters": {"type": "object"}}}],
    "tool_choice": "required",
}


def client(url: str, timeout_s: float) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="k", timeout=timeout_s)


def chat(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    return read_reply(client(url, timeout_s).chat.completions.create(**{**ASK, **params}))


def tool(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    reply = client(url, timeout_s).chat.completions.create(**{**ASK, **TOOL, **params})
    call: Any = reply.choices[0].message.tool_calls[0]
    return {"text": json.loads(call.function.arguments)["answer"], "finish": reply.choices[0].finish_reason}


def stream(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    heard = StreamSoFar()
    for chunk in client(url, timeout_s).chat.completions.create(stream=True, **{**ASK, **params}):
        heard.hear(chunk)
    return heard.seen


def tool_stream(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    heard = StreamSoFar()
    for chunk in client(url, timeout_s).chat.completions.create(stream=True, **{**ASK, **TOOL, **params}):
        heard.hear(chunk)
    return {**heard.seen, "text": json.loads(heard.seen["arguments"])["answer"]}


def async_stream(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        heard = StreamSoFar()
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", timeout=timeout_s) as ai:
            async for chunk in await ai.chat.completions.create(stream=True, **{**ASK, **params}):
                heard.hear(chunk)
        return heard.seen

    return asyncio.run(run())


def helper(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    """Use the package's own helper that gathers a stream."""
    with client(url, timeout_s).chat.completions.stream(**{**ASK, **params}) as events:
        events.until_done()
        choice = events.get_final_completion().choices[0]
    return {"text": choice.message.content or "", "finish": choice.finish_reason, "events": 1}


def models(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    return {"text": "", "models": [model.id for model in client(url, timeout_s).models.list()]}


def read_reply(reply: Any) -> dict[str, Any]:
    if isinstance(reply, str):
        return {"text": reply, "form": "a str"}
    choices = reply.choices
    if not choices:
        return {"text": "", "form": f"choices={choices}"}
    return {"text": choices[0].message.content or "", "finish": choices[0].finish_reason}


class StreamSoFar:
    """The part of a stream that has arrived."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {"text": "", "finish": None, "events": 0, "odd": 0, "arguments": ""}

    def hear(self, chunk: Any) -> None:
        self.seen["events"] += 1
        self.seen["last_event_s"] = time.monotonic()
        choices = getattr(chunk, "choices", None)
        self.seen["odd"] += choices is None
        for choice in choices or ():
            self.seen["text"] += choice.delta.content or ""
            self.seen["finish"] = choice.finish_reason or self.seen["finish"]
            for call in choice.delta.tool_calls or ():
                self.seen["arguments"] += call.function.arguments or ""
        if getattr(chunk, "usage", None):
            self.seen["usage"] = chunk.usage.completion_tokens


CALLS = {
    "chat": chat,
    "tool": tool,
    "stream": stream,
    "tool_stream": tool_stream,
    "async_stream": async_stream,
    "helper": helper,
    "models": models,
}
