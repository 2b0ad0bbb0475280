"""What an application hears of an answer through the openai package, the way applications use it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai

MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]


@dataclass
class Heard:
    """An answer as far as it was heard. `error` names what the package raised."""

    text: str = ""
    calls: dict[object, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    error: str = ""

    def add(self, part: Any) -> None:
        """Hear a message, or a piece of one."""
        if isinstance(content := getattr(part, "content", None), str):
            self.text += content
        for call in listed(getattr(part, "tool_calls", None)):
            at, function = getattr(call, "index", None), getattr(call, "function", None)
            self.calls[at] = self.calls.get(at, "") + str(getattr(function, "arguments", None) or "")
        self.others += [name for name in ("audio", "images") if getattr(part, name, None)]


def listed(value: object) -> list[Any]:
    """Return a list, or an empty one for anything else: packages do not check types."""
    return value if isinstance(value, list) else []


def hear(client: openai.OpenAI, model: str, *, stream: bool, **fields: Any) -> Heard:
    """Ask for an answer."""
    heard = Heard()
    try:
        create: Any = client.chat.completions.create
        answer = create(model=model, messages=MESSAGES, stream=stream, **fields)
        for one in answer if stream else [answer]:
            for choice in listed(one.choices):
                heard.add(getattr(choice, "delta" if stream else "message", None))
    except Exception as error:  # noqa: BLE001 whatever the package raises is what we came to hear
        heard.error = error_name(error)
    return heard


def hear_bytes(status: int, body: bytes, broken: bool = False) -> Heard:
    """Hear a stream of these bytes. `broken`: then the connection breaks off."""
    reply = httpx2.Response(
        status, headers={"content-type": "text/event-stream"}, stream=_Bytes(body, broken)
    )
    http = httpx2.Client(transport=httpx2.MockTransport(lambda request: reply))
    with openai.OpenAI(base_url="http://one.test", api_key="k", max_retries=0, http_client=http) as client:
        return hear(client, "m", stream=True)


class _Bytes(httpx2.SyncByteStream):
    def __init__(self, body: bytes, broken: bool) -> None:
        self._body, self._broken = body, broken

    def __iter__(self) -> Iterator[bytes]:
        yield self._body
        if self._broken:
            raise httpx2.ReadError("closed")


def error_name(error: Exception) -> str:
    """Return an exception's class, with the code of an error of the service."""
    code = getattr(error, "code", None)
    return f"{type(error).__name__} ({code})" if code else type(error).__name__


Heards = tuple[Heard, Heard, Heard]  # from the package itself, from the service live, and with `whole`
