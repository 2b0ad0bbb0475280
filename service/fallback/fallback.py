"""Fallback answers (labelled substitutes) to requests that no provider could answer, if a route wants them.

    a stale answer from the cache -> the operator's text -> our text, which says what to do

Not where a program reads the answer (tools, JSON, logprobs, several choices, audio): a person can read a
label, a program cannot. A fallback answer is labelled as such by `model`, a top-level object `degraded`, and
x-dub5-degraded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from dub5.service import clock
from dub5.service.cache.replay import as_chunks
from dub5.service.config import templates
from dub5.service.config.options import DegradedOptions
from dub5.service.config.templates import GENERAL, Templates
from dub5.service.errors import AllTargetsDown, AllTargetsLimited, DeadlineExceeded, GatewayError, Overloaded
from dub5.service.model import ChatRequest, Chunk
from dub5.service.providers.base import Unsupported
from dub5.service.providers.fields import decode_field, is_neutral
from dub5.service.providers.openai import sse_event, sse_payload

MODEL = "dub5/degraded"
FALLBACK_ERRORS = (AllTargetsDown, AllTargetsLimited, DeadlineExceeded, Overloaded)
NEVER_WITH = ("tools", "functions", "logprobs", "top_logprobs", "audio", "modalities", "response_format", "n")
NO_TOKENS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
MINUTES_FROM_S = 90.0
SOON_TO_S = 600.0  # a longer wait is called "soon": minutes would promise too much


class FallbackSource(StrEnum):
    """Where a fallback answer comes from."""

    STALE = "stale"
    TEMPLATE = "template"
    WORDS = "words"


class FallbackLabel(msgspec.Struct, frozen=True):
    """The object `degraded` of an answer. `reason`: the code of the error that the answer replaces."""

    source: FallbackSource
    reason: str
    retry_after: float | None = None  # seconds
    age_s: float | None = None  # of a stale answer
    model: str | None = None  # the model that gave the stale answer
    language: str | None = None


@dataclass(frozen=True, slots=True)
class StaleAnswer:
    """A stored answer that is too old for the cache, but not for a fallback."""

    body: bytes
    age_s: float | None = None


@dataclass(frozen=True, slots=True)
class FallbackAnswer:
    """A fallback answer with its label. `body` is a chat.completion."""

    label: FallbackLabel
    body: bytes

    def chunks(self, *, with_usage: bool) -> list[Chunk]:
        """Return the answer as a stream, labelled on its first chunk, its finish, and all after that."""
        chunks = as_chunks(self.body, with_usage=with_usage)
        finish = next(i for i, chunk in enumerate(chunks) if chunk.finish_reason is not None)
        for i in (0, *range(finish, len(chunks))):
            chunks[i] = self._labelled(chunks[i])
        return chunks

    def _labelled(self, chunk: Chunk) -> Chunk:
        event = {**msgspec.json.decode(sse_payload(chunk.raw)), "degraded": self.label}
        return msgspec.structs.replace(chunk, raw=sse_event(msgspec.json.encode(event)))


class Fallbacks:
    """The fallback answers of one route."""

    def __init__(self, options: DegradedOptions) -> None:
        self.options = options
        self.templates: Templates = own_templates() if options.enabled else {}
        self._own: Templates = {}
        if options.enabled and options.templates is not None:
            self._own, _ = templates.read(Path(options.templates))
            self.templates = templates.merged(self.templates, self._own)

    def allowed_for(self, request: ChatRequest) -> bool:
        """Return whether the route has fallbacks and a person, who spoke last, will read the answer."""
        if not self.options.enabled or request.body.messages[-1].role != "user":
            return False
        return all(_is_neutral(name, request) for name in NEVER_WITH)

    def until_s(self, started_s: float, deadline_s: float) -> float:
        """Return the time until which providers may be asked. Times are loop seconds."""
        within_s = self.options.answer_within_s
        return deadline_s if within_s is None else min(deadline_s, started_s + within_s)

    def fallback_for(
        self, error: GatewayError, request: ChatRequest, stale: StaleAnswer | None
    ) -> FallbackAnswer:
        """Return the best fallback answer for this error: the stale answer, if there is one, or a text."""
        if stale is not None:
            return _stale_fallback(error, request, stale)
        accepted = accepted_languages(request.languages)
        language = next((name for name in accepted if GENERAL in self.templates.get(name, {})), "en")
        source = FallbackSource.TEMPLATE if GENERAL in self._own.get(language, {}) else FallbackSource.WORDS
        label, text = _label(error, source, language=language), self.templates[language][GENERAL]
        text = text.replace("{wait}", wait_phrase(self.templates, language, error.retry_after_s))
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return FallbackAnswer(label, _completion(request, label, [choice]))


def accepted_languages(header: str) -> list[str]:
    """Return the languages of an Accept-Language header, the most wanted first (RFC 9110, 12.5.4)."""
    weighted = []
    for part in header[:500].lower().split(","):
        name, _, weight = part.partition(";")
        try:
            q = float(weight.strip().removeprefix("q=") or 1)
        except ValueError:
            q = 0.0
        if q > 0:
            weighted.append((-q, name.strip().partition("-")[0]))
    return [name for _, name in sorted(weighted, key=lambda pair: pair[0])]


def wait_phrase(texts: Templates, language: str, wait_s: float | None) -> str:
    """Return the phrase that replaces `{wait}` in a text."""
    if wait_s is None or wait_s > SOON_TO_S:
        name, n = "soon", 0
    elif wait_s < MINUTES_FROM_S:
        name, n = "seconds", max(2, round(wait_s))
    else:
        name, n = "minutes", max(2, round(wait_s / 60))
    phrases = texts[language] if name in texts[language] else texts["en"]
    return phrases[name].replace("{n}", str(n))


@cache
def own_templates() -> Templates:
    """Return the texts that come with the service."""
    merged: Templates = {}
    for path in sorted(Path(str(files("dub5.service") / "fallback" / "templates")).glob("*.toml")):
        texts, problems = templates.read(path)
        assert not problems, problems
        merged = templates.merged(merged, texts)
    return merged


def _is_neutral(name: str, request: ChatRequest) -> bool:
    if name not in request.fields:
        return True
    try:
        return is_neutral(name, decode_field(name, request.fields[name]))
    except Unsupported:
        return False


def _stale_fallback(error: GatewayError, request: ChatRequest, stale: StaleAnswer) -> FallbackAnswer:
    before: dict[str, Any] = msgspec.json.decode(stale.body)
    age_s = None if stale.age_s is None else round(stale.age_s, 1)
    label = _label(error, FallbackSource.STALE, age_s=age_s, model=before.get("model"))
    return FallbackAnswer(label, _completion(request, label, before["choices"]))


def _label(error: GatewayError, source: FallbackSource, **more: Any) -> FallbackLabel:
    retry_after = None if error.retry_after_s is None else round(error.retry_after_s, 3)
    return FallbackLabel(source, error.code, retry_after, **more)


def _completion(request: ChatRequest, label: FallbackLabel, choices: list[Mapping[str, Any]]) -> bytes:
    head = {"id": f"chatcmpl-{request.id}", "object": "chat.completion", "created": int(clock.wall())}
    body = {**head, "model": MODEL, "choices": choices, "usage": NO_TOKENS, "degraded": label}
    return msgspec.json.encode(body)
