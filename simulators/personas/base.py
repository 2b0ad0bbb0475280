"""What every persona shares: reading the request, choosing the answer, playing it in time.

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

from dub5.simulators.answers import answer_text, pieces
from dub5.simulators.latency import Latency, Pace
from dub5.simulators.limits.rate import BucketState, LimitExceeded
from dub5.simulators.script import Data, End, Head, Script, SimRequest

JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"
MODELS_PATH = "/v1/models"
CHARS_PER_TOKEN = 4  # of prompts; tokens of answers are counted
OPENING_TOKENS = 7  # of an answer, beside its words


@dataclass(frozen=True, slots=True)
class Profile:
    """What one simulated provider is like. `key`: the only one accepted; None accepts any, and none."""

    name: str
    latency: Latency
    words: int = 40  # of an answer that no `max_tokens` cuts short
    key: str | None = None
    models: tuple[str, ...] = ()
    edge: str | None = None  # what stands in front; None: what does at the original
    saying: str | None = None  # what it says whatever it is asked


@dataclass(frozen=True, slots=True)
class PersonaContext:
    """One request's share of the world: the provider's profile, the date, and its own rng."""

    profile: Profile
    created: int  # epoch seconds
    rng: random.Random
    accept: str = ""  # the header of that name

    def hex(self, digits: int) -> str:
        """A fresh id."""
        return f"{self.rng.getrandbits(digits * 4):0{digits}x}"


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request's body, leniently read. `fields` is None if it is no JSON object."""

    fields: Mapping[str, Any] | None
    model: str = ""
    prompt: str = ""  # content of the last user message
    stream: bool = False
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TokenizedAnswer:
    """The answer as tokens; `whole` is false if `max_tokens` cut it short."""

    tokens: Sequence[str]
    whole: bool

    @property
    def text(self) -> str:
        """All that is said."""
        return "".join(self.tokens)


@dataclass(frozen=True, slots=True)
class FixedResponse:
    """A whole answer of known length."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def script(self) -> Script:
        """The page at once, without delay."""
        return self.after((), 0)

    def after(self, waits: Iterable[Any], tokens: int) -> Script:
        """The page after some waits; its body carries so many tokens."""
        yield from waits
        yield Head(self.status, {**self.headers, "content-length": str(len(self.body))})
        yield Data(self.body, tokens)
        yield End()


class Refusal(Exception):
    """A request that the provider turns down. `details` are for the persona's own error shape."""

    def __init__(self, status: int, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.details = details


class Persona(ABC):
    """One provider's way of speaking. It keeps nothing: one instance serves any number of providers."""

    name: str
    chat_path: str
    models: tuple[str, ...]
    other_paths: tuple[str, ...] = ()
    edge = "none"  # what stands in front of the original
    daily_windows = False  # whether limits per day begin anew at midnight, not bit by bit

    def answer(self, request: SimRequest, parsed: ParsedRequest, context: PersonaContext) -> Script:
        """The healthy script, or the provider's own refusal of a wrong request."""
        try:
            return self._route(request, parsed, context)
        except Refusal as refusal:
            return self.refusal(refusal, context).script()

    @abstractmethod
    def refusal(self, refusal: Refusal, context: PersonaContext) -> FixedResponse:
        """The refusal in this provider's words."""

    @abstractmethod
    def error(self, status: int, context: PersonaContext) -> FixedResponse:
        """The typical page of a status: this provider's fault, or the limit that the caller has met."""

    def overloaded(self, context: PersonaContext) -> FixedResponse:
        """What is told to those for whom there is no room in the queue."""
        return self.error(503, context)

    def limited(self, excess: LimitExceeded, context: PersonaContext) -> FixedResponse:
        """The refusal of a request that the caller's limits do not cover."""
        response = self.error(429, context)
        return FixedResponse(429, {**response.headers, **retry_after(excess)}, response.body)

    def limit_headers(
        self, bucket_states: Sequence[BucketState], now_s: float, *, refused: bool
    ) -> dict[str, str]:
        """How the limits stand, as this provider's answers tell it; `now_s` is the epoch time."""
        return {}

    @abstractmethod
    def error_event(self, context: PersonaContext) -> bytes:
        """The event that breaks a stream off."""

    @abstractmethod
    def blank(self, body: bytes) -> bytes:
        """A whole JSON answer without its words: nothing said, yet properly finished."""

    @abstractmethod
    def headers(self, context: PersonaContext) -> dict[str, str]:
        """What every answer carries, beside its content type."""

    @abstractmethod
    def check(self, request: SimRequest, fields: Mapping[str, Any]) -> None:
        """Raises Refusal if this is no proper chat request."""

    @abstractmethod
    def chat(self, parsed: ParsedRequest, context: PersonaContext) -> Script:
        """The answer to a proper chat request."""

    def other(self, path: str, fields: Mapping[str, Any], context: PersonaContext) -> Script:
        """The answer to a POST to one of `other_paths`."""
        raise NotImplementedError(path)

    @abstractmethod
    def model_card(self, model: str, context: PersonaContext) -> dict[str, Any]:
        """One line of the list of models."""

    def model_list(self, cards: list[dict[str, Any]]) -> dict[str, Any]:
        """The list of models."""
        return {"object": "list", "data": cards}

    def not_json(self) -> Refusal:
        """The body is no JSON object."""
        return Refusal(400, "The request body is not valid JSON")

    def key_of(self, request: SimRequest) -> str:
        """The key that came with the request, "" if there is none."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""

    def json_response(self, status: int, body: object, context: PersonaContext, **more: str) -> FixedResponse:
        """`body` as JSON, with this provider's headers."""
        headers = {"content-type": JSON, **self.headers(context), **more}
        return FixedResponse(status, headers, msgspec.json.encode(body))

    def stream_head(self, context: PersonaContext) -> Head:
        """How a stream begins."""
        return Head(200, {"content-type": SSE, "cache-control": "no-cache", **self.headers(context)})

    def _route(self, request: SimRequest, parsed: ParsedRequest, context: PersonaContext) -> Script:
        listing = request.path == MODELS_PATH
        posted = request.path in (self.chat_path, *self.other_paths)
        if not (posted or listing or request.path.startswith(MODELS_PATH + "/")):
            raise Refusal(404, f"Invalid URL ({request.method} {request.path})", kind="path")
        if request.method != ("POST" if posted else "GET"):
            raise Refusal(405, f"Not allowed to {request.method} on {request.path}.", kind="method")
        self._check_key(request, context.profile.key)
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

    def _check_key(self, request: SimRequest, wanted: str | None) -> None:
        given = self.key_of(request)
        if wanted is not None and given != wanted:
            raise Refusal(401, given, kind="key")


def parse_request(body: bytes) -> ParsedRequest:
    """What a body asks, as far as it can be told."""
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ParsedRequest(None)
    if not isinstance(fields, dict):
        return ParsedRequest(None)
    said = [fields.get("system"), *_contents(fields.get("messages"), None)]
    length = sum(len(_text(content)) for content in said)
    users = _contents(fields.get("messages"), "user")
    return ParsedRequest(
        fields,
        model=str(fields.get("model") or ""),
        prompt=_text(users[-1]) if users else "",
        stream=fields.get("stream") is True,
        prompt_tokens=max(1, length // CHARS_PER_TOKEN),
    )


def retry_after(excess: LimitExceeded) -> dict[str, str]:
    """Whole seconds, never too few; nothing for what will never fit."""
    return {} if excess.too_large else {"retry-after": str(math.ceil(excess.wait_s))}


def answer_tokens(parsed: ParsedRequest, profile: Profile) -> int:
    """How long the answer will be."""
    fields, length = parsed.fields or {}, profile.words + OPENING_TOKENS
    limits = [fields.get(name) for name in ("max_tokens", "max_completion_tokens")]
    return min([length, *(n for n in limits if isinstance(n, int) and n > 0)])


def compose_answer(parsed: ParsedRequest, context: PersonaContext, tokens_max: int | None) -> TokenizedAnswer:
    """The self-proving answer to what was asked, in at most so many tokens."""
    profile = context.profile
    tokens = pieces(profile.saying or answer_text(profile.name, parsed.prompt, profile.words))
    if tokens_max is not None and tokens_max < len(tokens):
        return TokenizedAnswer(tokens[:tokens_max], whole=False)
    return TokenizedAnswer(tokens, whole=True)


def streamed(
    head: Head, opening: Iterable[bytes], tokens: Iterable[bytes], closing: Iterable[bytes], pace: Pace
) -> Script:
    """Head, opening events, one event per token, closing events, in time."""
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


def _contents(messages: object, role: str | None) -> list[object]:
    """The contents of all messages, or of those of one role."""
    turns = messages if isinstance(messages, list) else []
    return [m.get("content") for m in turns if isinstance(m, dict) and role in (None, m.get("role"))]


def _text(content: object) -> str:
    """Content as one string, whether it came as a string or in parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(p["text"]) for p in parts if isinstance(p, dict) and isinstance(p.get("text"), str))
