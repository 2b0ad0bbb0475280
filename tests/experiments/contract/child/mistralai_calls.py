"""The calls of the mistralai package, whose module moved between its first and its third version."""

import asyncio
import json
import time
from typing import Any

try:
    from mistralai.client import Mistral, utils
except ImportError:  # 1.x
    from mistralai import Mistral, utils

ASK: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TOOL: Any = {
    "tools": [{"type": "function", "function": {"name": "reply", "parameters": {"type": "object"}}}],
    "tool_choice": "any",
}


def client(url: str, timeout_s: float) -> Any:
    return Mistral(api_key="k", server_url=url, timeout_ms=round(timeout_s * 1000))


def chat(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    return read_reply(client(url, timeout_s).chat.complete(**{**ASK, **params}))


def chat_with_retries(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    """Call with retries configured; the package has none by default."""
    backoff = utils.BackoffStrategy(10, 1_000, 2.0, 20_000)
    retries = utils.RetryConfig("backoff", backoff, retry_connection_errors=True)
    return read_reply(client(url, timeout_s).chat.complete(retries=retries, **{**ASK, **params}))


def tool(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    choice = client(url, timeout_s).chat.complete(**{**ASK, **TOOL, **params}).choices[0]
    arguments = choice.message.tool_calls[0].function.arguments
    return {"text": json.loads(arguments)["answer"], "finish": choice.finish_reason}


def stream(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    heard = StreamSoFar()
    for event in client(url, timeout_s).chat.stream(**{**ASK, **params}):
        heard.hear(event.data)
    return heard.seen


def tool_stream(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    heard = StreamSoFar()
    for event in client(url, timeout_s).chat.stream(**{**ASK, **TOOL, **params}):
        heard.hear(event.data)
    return {**heard.seen, "text": json.loads(heard.seen["arguments"])["answer"]}


def async_stream(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        heard = StreamSoFar()
        async with client(url, timeout_s) as ai:
            async for event in await ai.chat.stream_async(**{**ASK, **params}):
                heard.hear(event.data)
        return heard.seen

    return asyncio.run(run())


def models(url: str, timeout_s: float, params: dict[str, Any]) -> dict[str, Any]:
    return {"text": "", "models": [model.id for model in client(url, timeout_s).models.list().data]}


def read_reply(reply: Any) -> dict[str, Any]:
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
        for choice in chunk.choices:
            content, reason = choice.delta.content, choice.finish_reason
            self.seen["text"] += content if isinstance(content, str) else ""
            self.seen["finish"] = reason if isinstance(reason, str) else self.seen["finish"]
            for call in choice.delta.tool_calls or ():
                self.seen["arguments"] += call.function.arguments


CALLS = {
    "chat": chat,
    "chat_with_retries": chat_with_retries,
    "tool": tool,
    "stream": stream,
    "tool_stream": tool_stream,
    "async_stream": async_stream,
    "models": models,
}
