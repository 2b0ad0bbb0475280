"""The base of all personas: parse the request, compose the answer, write the script of it.

SimRequest + ParsedRequest + PersonaContext -> Persona.answer -> Script
    a Refusal on the way -> the persona's error response
"""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dub5.simulators.latency import Latency, Pace
from dub5.simulators.limits.rate import BucketState, LimitExceeded
from dub5.simulators.script import Data, End, Head, Script, SimRequest

JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"
MODELS_PATH = "/v1/models"
CHARS_PER_TOKEN = 4  # of prompts; tokens of answers are counted
OPENING_TOKENS = 7  # of an answer, in addition to its words


@dataclass(frozen=True, slots=True)
class Profile:
    """Configuration of one simulated provider.

    `key`: the only accepted key; None accepts any key, or none. `revoked`: keys that are accepted no more.
    """

    name: str
    latency: Latency
    words: int = 40  # of an answer that `max_tokens` does not cut short
    key: str | None = None
    models: tuple[str, ...] = ()
    edge: str | None = None  # the proxy in front of the provider; None: that of the real provider
    saying: str | None = None  # a fixed text instead of an answer to the prompt
    revoked: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PersonaContext:
    """The context of one request: the provider's profile, the date, and a random generator of its own."""

    profile: Profile
    created: int  # epoch seconds
    rng: random.Random
    accept: str = ""  # the header of that name

    def hex(self, digits: int) -> str:
        """Draw an id of this many hex digits."""
        return f"{self.rng.getrandbits(digits * 4):0{digits}x}"


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request's body, leniently parsed. `fields` is None if the body is no JSON object."""

    fields: Mapping[str, Any] | None
    model: str = ""
    prompt: str = ""  # of the last user message with a text: a later one may hold the results of tools
    stream: bool = False
    prompt_tokens: int = 0
    text: str = ""  # of all messages


@dataclass(frozen=True, slots=True)
class FixedResponse:
    """A whole response of known length."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def script(self) -> Script:
        """Return the script of the response, without delay."""
        return self.after((), 0)

    def after(self, waits: Iterable[Any], tokens: int) -> Script:
        """Yield some waits, then the response; its body carries `tokens` tokens."""
        yield from waits
        yield Head(self.status, {**self.headers, "content-length": str(len(self.body))})
        yield Data(self.body, tokens)
        yield End()


class Refusal(Exception):
    """A request that the provider rejects. `details` are for the persona's own error shape."""

    def __init__(self, status: int, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.details = details


class Persona(ABC):
    """The wire format of one provider. It is stateless: one instance serves any number of providers."""

    name: str
    chat_path: str
    models: tuple[str, ...]
    other_paths: tuple[str, ...] = ()
    edge = "none"  # the proxy in front of the real provider
    models_are_public = False  # the list of models is there without a key
    daily_windows = False  # whether limits per day are reset at midnight, and do not refill steadily

    def answer(self, request: SimRequest, parsed: ParsedRequest, context: PersonaContext) -> Script:
        """Return the healthy script, or the provider's own refusal of a wrong request."""
        try:
            return self._route(request, parsed, context)
        except Refusal as refusal:
            return self.refusal(refusal, context).script()

    @abstractmethod
    def refusal(self, refusal: Refusal, context: PersonaContext) -> FixedResponse:
        """Return the refusal in this provider's error shape."""

    @abstractmethod
    def error(self, status: int, context: PersonaContext) -> FixedResponse:
        """Return the typical response of an error status."""

    def overloaded(self, context: PersonaContext) -> FixedResponse:
        """Return the response to a request that finds the queue full."""
        return self.error(503, context)

    def limited(self, excess: LimitExceeded, context: PersonaContext) -> FixedResponse:
        """Return the response to a request that exceeds the caller's rate limits."""
        response = self.error(429, context)
        return FixedResponse(429, {**response.headers, **retry_after(excess)}, response.body)

    def limit_headers(
        self, bucket_states: Sequence[BucketState], now_s: float, *, refused: bool
    ) -> dict[str, str]:
        """Return this provider's rate limit headers; `now_s` is the epoch time."""
        return {}

    @abstractmethod
    def error_event(self, context: PersonaContext) -> bytes:
        """Return the error event that breaks a stream off."""

    @abstractmethod
    def blank(self, body: bytes) -> bytes:
        """Return a whole JSON answer without its content, yet properly finished."""

    @abstractmethod
    def headers(self, context: PersonaContext) -> dict[str, str]:
        """Return the headers of every response, without the content type."""

    @abstractmethod
    def check(self, request: SimRequest, fields: Mapping[str, Any]) -> None:
        """Check a chat request. Raises Refusal."""

    @abstractmethod
    def chat(self, parsed: ParsedRequest, context: PersonaContext) -> Script:
        """Return the answer to a valid chat request."""

    def other(self, path: str, fields: Mapping[str, Any], context: PersonaContext) -> Script:
        """Return the answer to a POST to one of `other_paths`."""
        raise NotImplementedError(path)

    @abstractmethod
    def model_card(self, model: str, context: PersonaContext) -> dict[str, Any]:
        """Return one entry of the list of models."""

    def model_list(self, cards: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the list of models."""
        return {"object": "list", "data": cards}

    def not_json(self) -> Refusal:
        """Return the refusal of a body that is no JSON object."""
        return Refusal(400, "The request body is not valid JSON")

    def key_of(self, request: SimRequest) -> str:
        """Return the API key of the request, "" if there is none."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""

    def json_response(self, status: int, body: object, context: PersonaContext, **more: str) -> FixedResponse:
        """Return a response with `body` as JSON and this provider's headers."""
        headers = {"content-type": JSON, **self.headers(context), **more}
        return FixedResponse(status, headers, msgspec.json.encode(body))

    def stream_head(self, context: PersonaContext) -> Head:
        """Return the head of a stream."""
        return Head(200, {"content-type": SSE, "cache-control": "no-cache", **self.headers(context)})

    def _route(self, request: SimRequest, parsed: ParsedRequest, context: PersonaContext) -> Script:
        listing = request.path == MODELS_PATH
        posted = request.path in (self.chat_path, *self.other_paths)
        if not (posted or listing or request.path.startswith(MODELS_PATH + "/")):
            raise Refusal(404, f"Invalid URL ({request.method} {request.path})", kind="path")
        if request.method != ("POST" if posted else "GET"):
            raise Refusal(405, f"Not allowed to {request.method} on {request.path}.", kind="method")
        if posted or not self.models_are_public:
            self._check_key(request, context.profile)
        if posted:
            if parsed.fields is None:
                raise self.not_json()
            if request.path != self.chat_path:
                return self.other(request.path, parsed.fields, context)
            self.check(request, parsed.fields)
            return self.chat(parsed, context)
        cards = [self.model_card(model, context) for model in context.profile.models or self.models]
        if listing:
            return self.json_response(200, self.model_list(cards), context).script()
        wanted = request.path.removeprefix(MODELS_PATH + "/")
        for card in cards:
            if card["id"] == wanted:
                return self.json_response(200, card, context).script()
        raise Refusal(404, f"The model '{wanted}' does not exist", kind="model")

    def _check_key(self, request: SimRequest, profile: Profile) -> None:
        given = self.key_of(request)
        if (profile.key is not None and given != profile.key) or given in profile.revoked:
            raise Refusal(401, given, kind="key")


def parse_request(body: bytes) -> ParsedRequest:
    """Parse a request's body, as far as it is valid."""
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ParsedRequest(None)
    if not isinstance(fields, dict):
        return ParsedRequest(None)
    contents = [fields.get("system"), *_contents(fields.get("messages"), None)]
    text = "".join(map(content_text, contents))
    users = filter(None, map(content_text, reversed(_contents(fields.get("messages"), "user"))))
    return ParsedRequest(
        fields,
        model=str(fields.get("model") or ""),
        prompt=next(users, ""),
        stream=fields.get("stream") is True,
        prompt_tokens=max(1, len(text) // CHARS_PER_TOKEN),
        text=text,
    )


def retry_after(excess: LimitExceeded) -> dict[str, str]:
    """Return the Retry-After header in whole seconds, rounded up; no header if the request will never fit."""
    return {} if excess.too_large else {"retry-after": str(math.ceil(excess.wait_s))}


def answer_tokens(parsed: ParsedRequest, profile: Profile) -> int:
    """Return the length of the answer in tokens."""
    fields, length = parsed.fields or {}, profile.words + OPENING_TOKENS
    limits = [fields.get(name) for name in ("max_tokens", "max_completion_tokens")]
    return min([length, *(n for n in limits if isinstance(n, int) and n > 0)])


def streamed(
    head: Head, opening: Iterable[bytes], tokens: Iterable[bytes], closing: Iterable[bytes], pace: Pace
) -> Script:
    """Yield head, opening events, one event per token and closing events, with the waits of `pace`."""
    yield from pace.head()
    yield head
    for event in opening:
        yield Data(event)
    waits = pace.first_token()
    for token in tokens:
        yield from waits
        yield Data(token, 1)
        waits = pace.gap()
    for event in closing:
        yield Data(event)
    yield End()


def last_role(fields: Mapping[str, Any]) -> object:
    """Return the role of the last message."""
    messages = fields.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return last.get("role") if isinstance(last, dict) else None


def _contents(messages: object, role: str | None) -> list[object]:
    """Return the contents of all messages, or of the messages of one role."""
    turns = messages if isinstance(messages, list) else []
    return [m.get("content") for m in turns if isinstance(m, dict) and role in (None, m.get("role"))]


def content_text(content: object) -> str:
    """Return a content as one string, whether it is a string or a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(p["text"]) for p in parts if isinstance(p, dict) and isinstance(p.get("text"), str))
