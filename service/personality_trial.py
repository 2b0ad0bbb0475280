"""Personalities on trial: the service itself, in this process, asked the same question with several texts.

    async with Trial(loaded, route, {"tutor": text, "tutor-new.md": other}) as trial:
        answer = await trial.ask("tutor", "What is a derivative?")

Failover and timeouts are those of the route. Cache and fallback answers are off: they would hide a text.
So are sessions and the limits of clients: whoever tries a text is none.
"""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from dub5.service import clock
from dub5.service.api.chat import Exchange
from dub5.service.app import Service
from dub5.service.config.options import CacheOptions, DegradedOptions, LimitsOptions
from dub5.service.config.personalities import model_name
from dub5.service.config.settings import LoadedSettings, Personality, RouteSettings
from dub5.service.wire.base import Wire

ROUTE = "trial"


class TrialAnswer(Struct, frozen=True):
    """One answer. `problem`: the error in its place; empty if there is an answer."""

    text: str
    target: str
    took_s: float
    problem: str = ""


class Trial:
    """A service with one model name for each text. `texts`: by the label that `ask` takes."""

    def __init__(
        self,
        loaded: LoadedSettings,
        route: RouteSettings,
        texts: Mapping[str, str],
        *,
        wire: Wire | None = None,
        seed: str | None = None,
    ) -> None:
        self._names = {label: f"text-{number}" for number, label in enumerate(texts)}
        names = tuple(self._names.values())
        tried = replace(
            route, name=ROUTE, personalities=names, cache=CacheOptions(), degraded=DegradedOptions()
        )
        personalities = {
            self._names[label]: Personality(self._names[label], label, text) for label, text in texts.items()
        }
        settings = replace(
            loaded.settings, route=(tried,), personality=(), session=None, limits=LimitsOptions()
        )
        self._keys = loaded.caller_keys
        self._service = Service(
            replace(loaded, settings=settings, personalities=personalities), wire=wire, seed=seed
        )

    async def __aenter__(self) -> Self:
        await self._service.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._service.aclose()

    async def ask(self, label: str, question: str) -> TrialAnswer:
        """Ask a question with the text of this label."""
        began_s = clock.now()
        model = model_name(ROUTE, self._names[label])
        messages = [{"role": "user", "content": question}]
        headers, body = await self._post(msgspec.json.encode({"model": model, "messages": messages}))
        target, took_s = headers.get("x-dub5-target", ""), clock.now() - began_s
        if "error" in body:
            return TrialAnswer("", target, took_s, _problem(body["error"]))
        message = body["choices"][0]["message"]
        return TrialAnswer(message.get("content") or message.get("refusal") or "", target, took_s)

    async def _post(self, body: bytes) -> tuple[dict[str, str], dict[str, Any]]:
        """Send a chat request past the socket. Return the headers and the body of the response."""
        headers = [(b"content-type", b"application/json")]
        if self._keys:
            headers.append((b"authorization", f"Bearer {self._keys[0].reveal()}".encode()))
        requests = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            return requests.pop() if requests else await asyncio.Event().wait()  # we do not leave

        async def send(message: Any) -> None:
            sent.append(message)

        scope: Any = {"type": "http", "client": None, "headers": headers}
        await Exchange(self._service.deps)(scope, receive, send)
        start, *parts = sent
        data = b"".join(part["body"] for part in parts)
        return {name.decode(): value.decode() for name, value in start["headers"]}, msgspec.json.decode(data)


def _problem(error: dict[str, Any]) -> str:
    """Return an error in words: its code, why each target gave no answer, and its message."""
    reasons = ", ".join(f"{attempt['target']} {attempt['reason']}" for attempt in error["attempts"])
    return f"{error['code']}{reasons and f' ({reasons})'}: {error['message']}"
