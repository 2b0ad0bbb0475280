"""The calls of the anthropic package."""

import asyncio
import time
from typing import Any

import anthropic

ASK: Any = {"model": "m", "max_tokens": 1000, "messages": [{"role": "user", "content": "hi"}]}
TOOL: Any = {
    "tools": [{"name": "reply", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "tool", "name": "reply"},
}
KNOWN = (
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
    "ping",
)


def client(url: str, timeout_s: float) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="k", timeout=timeout_s)


def chat(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    reply: Any = client(url, timeout_s).messages.create(**{**ASK, **params})
    if isinstance(reply, str):
        return {"text": reply, "form": "a str"}
    if not reply.content:
        return {"text": "", "form": f"content={reply.content}"}
    return {"text": reply.content[0].text, "finish": reply.stop_reason}


def tool(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    reply: Any = client(url, timeout_s).messages.create(**{**ASK, **TOOL, **params})
    return {"text": reply.content[0].input["answer"], "finish": reply.stop_reason}


def stream(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    heard = StreamSoFar()
    for event in client(url, timeout_s).messages.create(stream=True, **{**ASK, **params}):
        heard.hear(event)
    return heard.seen


def tool_stream(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    with client(url, timeout_s).messages.stream(**{**ASK, **TOOL, **params}) as events:
        final: Any = events.get_final_message()
    return {"text": final.content[0].input["answer"], "finish": final.stop_reason, "events": 1}


def async_stream(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        heard = StreamSoFar()
        async with anthropic.AsyncAnthropic(base_url=url, api_key="k", timeout=timeout_s) as ai:
            async for event in await ai.messages.create(stream=True, **{**ASK, **params}):
                heard.hear(event)
        return heard.seen

    return asyncio.run(run())


def helper(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    """Use the package's own helper that gathers a stream."""
    with client(url, timeout_s).messages.stream(**{**ASK, **params}) as events:
        final: Any = events.get_final_message()
    return {"text": final.content[0].text, "finish": final.stop_reason, "events": 1}


def models(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    return {"text": "", "models": [model.id for model in client(url, timeout_s).models.list()]}


class StreamSoFar:
    """The part of a stream that has arrived."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {"text": "", "finish": None, "events": 0, "odd": 0}

    def hear(self, event: Any) -> None:
        self.seen["events"] += 1
        self.seen["last_event_s"] = time.monotonic()
        kind = getattr(event, "type", "")
        self.seen["odd"] += kind not in KNOWN
        if kind == "content_block_delta":
            self.seen["text"] += event.delta.text
        if kind == "message_delta":
            self.seen["finish"] = event.delta.stop_reason


CALLS = {
    "chat": chat,
    "tool": tool,
    "stream": stream,
    "tool_stream": tool_stream,
    "async_stream": async_stream,
    "helper": helper,
    "models": models,
}
