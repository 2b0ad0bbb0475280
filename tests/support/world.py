"""A service in virtual time over providers whose scripts a test writes out in full."""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Self

from msgspec.structs import replace

from dub5.service import clock
from dub5.service.app import Service
from dub5.service.config.options import BreakerOptions, KeysOptions, TimeoutOptions
from dub5.service.config.settings import (
    LoadedSettings,
    ProviderSettings,
    RouteSettings,
    Secret,
    ServerSettings,
    Settings,
)
from dub5.simulators.script import Action, Data, End, Head, Respond, Script, SimRequest, Wait
from dub5.simulators.virtual import AppClient, AppResponse, VirtualWire

WORDS = ("hello ", "big ", "world")
SSE = {"content-type": "text/event-stream"}
NAMES = ("one", "two", "three")
# Who takes longer is given up: for tests of that, and of what follows.
STRICT = TimeoutOptions(first_token_s=10.0, whole_answer_s=60.0)


class ServiceWorld:
    """A service over scripted providers: `async with ServiceWorld(one=script, two=script) as world`.

    The providers are the targets of the model "chat", in this order. `options`: further tables of the
    settings, as `{"retry": RetryOptions()}`. Keys are not checked unless these say so. `fields`:
    further settings of a provider, by its name.
    """

    def __init__(
        self,
        *,
        timeouts: TimeoutOptions | None = None,
        breaker: BreakerOptions | None = None,
        server: ServerSettings | None = None,
        route: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        caller_keys: tuple[str, ...] = (),
        keys: Mapping[str, tuple[str, ...]] | None = None,
        session_secrets: tuple[str, ...] = (),
        fields: Mapping[str, dict[str, Any]] | None = None,
        **providers: Respond,
    ) -> None:
        self.asked: dict[str, list[SimRequest]] = {name: [] for name in providers}
        urls = {name: f"http://{name}.test/v1" for name in providers}
        self.wire = VirtualWire({urls[name]: self._noting(name, providers[name]) for name in providers})
        targets = tuple(f"{name}/m" for name in providers)
        settings = Settings(
            provider=tuple(
                ProviderSettings(name, "openai", urls[name], **(fields or {}).get(name, {}))
                for name in providers
            ),
            route=(
                RouteSettings(
                    **{"name": "chat", "targets": targets, "timeouts": timeouts or TimeoutOptions()}
                    | (route or {})
                ),
            ),
            **{
                "breaker": breaker or BreakerOptions(),
                "server": server or ServerSettings(),
                "keys": KeysOptions(check_s=0.0),
            }
            | (options or {}),
        )
        secrets = {name: tuple(map(Secret, (keys or {}).get(name, (f"sk-{name}",)))) for name in providers}
        self.loaded = LoadedSettings(
            settings,
            secrets,
            tuple(map(Secret, caller_keys)),
            session_secrets=tuple(map(Secret, session_secrets)),
        )
        self.service = Service(self.loaded, wire=self.wire, seed="test")
        self.client = AppClient(self.service.asgi)

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.client.__aexit__(*error)

    def _noting(self, name: str, respond: Respond) -> Respond:
        def noted(request: SimRequest) -> Script:
            self.asked[name].append(request)
            return respond(request)

        return noted

    def with_keys(self, keys: Mapping[str, tuple[str, ...]]) -> LoadedSettings:
        """Return the settings with these keys of these providers, for a reload."""
        given = {name: tuple(map(Secret, secrets)) for name, secrets in keys.items()}
        return replace(self.loaded, provider_keys={**self.loaded.provider_keys, **given})

    def ask(
        self, *, stream: bool = False, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> Awaitable[AppResponse]:
        """Send a chat request and return its whole reply."""
        return self.client.request(
            "POST", "/v1/chat/completions", json=body(stream=stream, **fields), headers=headers
        )

    def stream(self, headers: Mapping[str, str] | None = None, **fields: Any) -> Any:
        """Send a streamed chat request; the reply is read as it arrives."""
        return self.client.stream(
            "POST", "/v1/chat/completions", json=body(stream=True, **fields), headers=headers
        )

    def happened(self, what: str) -> int:
        """Return the service's own count of an event."""
        return self.service.board.happened[what]

    def outcomes(self) -> dict[str, int]:
        """Return the counts of the outcomes so far, without zeros."""
        return {name: count for name, count in self.service.board.outcomes.items() if count}


def body(*, stream: bool = False, **fields: Any) -> dict[str, Any]:
    """Return a request's JSON."""
    return {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "stream": stream, **fields}


def chunk(delta: Mapping[str, Any], finish: str | None = None) -> Data:
    """Return an event of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    payload = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return Data(b"data: " + json.dumps(payload).encode() + b"\n\n")


def completion(text: str, finish: str | None = "stop") -> bytes:
    """Return a JSON answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
    return json.dumps({"id": "c", "created": 1, "model": "m", "choices": [choice], "usage": usage}).encode()


def healthy(*, first_s: float = 0.1, gap_s: float = 0.02, words: tuple[str, ...] = WORDS) -> Respond:
    """Answer whole, as JSON or as a stream, as requested."""

    def respond(request: SimRequest) -> Script:
        if json.loads(request.body).get("stream"):
            yield Head(200, SSE)
            yield Wait(first_s)
            for word in words:
                yield chunk({"content": word})
                yield Wait(gap_s)
            yield chunk({}, "stop")
            yield Data(b"data: [DONE]\n\n")
            yield End()
        else:
            yield Wait(first_s)
            yield from reply(200, completion("".join(words)))

    return respond


def reply(status: int, data: bytes = b"", headers: Mapping[str, str] | None = None) -> Iterator[Action]:
    """Return a whole HTTP reply."""
    known = {"content-type": "application/json", "content-length": str(len(data))}
    yield Head(status, known | dict(headers or {}))
    yield Data(data)
    yield End()


def status(number: int, data: bytes = b"", headers: Mapping[str, str] | None = None) -> Respond:
    """Answer every request with this status."""
    return lambda request: reply(number, data, headers)


def script(*actions: Action) -> Respond:
    """Answer every request with these actions."""
    return lambda request: iter(actions)


def in_turn(*responds: Respond) -> Respond:
    """Answer the first call by the first script, and so on; the last script stays."""
    left = list(responds)
    take: Callable[[], Respond] = lambda: left.pop(0) if len(left) > 1 else left[0]
    return lambda request: take()(request)


def limited(retry_after: str) -> Respond:
    """Answer every request with 429 and this Retry-After."""
    return status(429, b"{}", {"retry-after": retry_after})


def until(at_s: float, before: Respond, after: Respond) -> Respond:
    """`before` until this moment of virtual time, then `after`."""
    return lambda request: (before if clock.now() < at_s else after)(request)


def share(of: float, failing: Respond, else_: Respond) -> Respond:
    """Fail evenly: one request in 1/`of`."""
    asked = 0

    def respond(request: SimRequest) -> Script:
        nonlocal asked
        asked += 1
        return (failing if int(asked * of) > int((asked - 1) * of) else else_)(request)

    return respond


def text_of(data: bytes) -> str:
    """Return the text of a stream."""
    return "".join(
        choice["delta"].get("content") or ""
        for payload in payloads(data)
        if isinstance(payload, dict)
        for choice in payload.get("choices", ())
    )


def payloads(data: bytes) -> list[Any]:
    """Return the events of a stream, decoded; `[DONE]` as itself."""
    found = [line.removeprefix(b"data: ") for line in data.split(b"\n\n") if line.startswith(b"data: ")]
    return ["[DONE]" if one == b"[DONE]" else json.loads(one) for one in found]
