"""Groq: OpenAI's format with `x_groq`, a limit per day, 413 for a request too large and 498 for overload."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from dub5.simulators.limits.rate import BucketState, LimitExceeded, by_kind
from dub5.simulators.personas.base import (
    FixedResponse,
    ParsedRequest,
    PersonaContext,
    retry_after,
)
from dub5.simulators.personas.limit_words import limit_error, ratelimit_headers
from dub5.simulators.personas.openai import OpenAIPersona, usage
from dub5.simulators.personas.output import TokenizedAnswer

CAPACITY = "Over capacity, please try again later. See https://console.groq.com/docs/flex-processing"


class GroqPersona(OpenAIPersona):
    """`/v1/chat/completions`."""

    name = "groq"
    other_paths = ()
    models = ("llama-sim-70b", "llama-sim-8b")

    def headers(self, context: PersonaContext) -> dict[str, str]:
        ray = f"{context.hex(16)}-FRA"
        return {"x-request-id": f"req_{context.hex(26)}", "server": "cloudflare", "cf-ray": ray}

    def completion(
        self, parsed: ParsedRequest, context: PersonaContext, answer: TokenizedAnswer
    ) -> dict[str, Any]:
        body = super().completion(parsed, context, answer)
        return {**body, "usage": usage(parsed, answer), "x_groq": {"id": f"req_{context.hex(26)}"}}

    def events(
        self, parsed: ParsedRequest, context: PersonaContext, answer: TokenizedAnswer
    ) -> tuple[Iterable[bytes], Iterable[bytes], Iterable[bytes]]:
        """Return OpenAI's stream with `x_groq` in the first event, and with the usage in the finish event."""
        (first,), tokens, (finish, *rest) = super().events(parsed, context, answer)
        id = f"req_{context.hex(26)}"
        counts = usage(parsed, answer)
        return [marked(first, {"id": id})], tokens, [marked(finish, {"id": id, "usage": counts}), *rest]

    def error(self, status: int, context: PersonaContext) -> FixedResponse:
        if status == 498:
            error = {"message": CAPACITY, "type": "server_error", "code": "capacity_exceeded"}
            return self.json_response(498, {"error": error}, context)
        return super().error(status, context)

    def overloaded(self, context: PersonaContext) -> FixedResponse:
        return self.error(498, context)

    def error_event(self, context: PersonaContext) -> bytes:
        """Return the error event: the error is in `x_groq` too, and there are no choices."""
        head = {
            "id": f"chatcmpl-{context.hex(24)}",
            "object": "chat.completion.chunk",
            "created": context.created,
        }
        x_groq = {"id": f"req_{context.hex(26)}", "error": "Internal Server Error"}
        error = {"message": "Internal Server Error", "type": "internal_server_error"}
        body = {**head, "model": "", "choices": [], "error": error, "x_groq": x_groq}
        return b"data: " + msgspec.json.encode(body) + b"\n\n"

    def limited(self, excess: LimitExceeded, context: PersonaContext) -> FixedResponse:
        full = limit_error(excess, f"`{self.models[0]}`", "`org_sim` service tier `on_demand`")
        error = {name: full[name] for name in ("message", "type", "code")}
        response = self.json_response(413 if excess.too_large else 429, {"error": error}, context)
        return FixedResponse(response.status, {**response.headers, **retry_after(excess)}, response.body)

    def limit_headers(
        self, bucket_states: Sequence[BucketState], now_s: float, *, refused: bool
    ) -> dict[str, str]:
        """Return the headers of requests per day and tokens per minute."""
        a_day, a_minute = by_kind(bucket_states, "day", "minute"), by_kind(bucket_states, "minute", "day")
        values = {"requests": a_day.get("requests"), "tokens": a_minute.get("tokens")}
        return ratelimit_headers({what: s for what, s in values.items() if s is not None})


def marked(event: bytes, x_groq: dict[str, Any]) -> bytes:
    """Return the event with `x_groq` as its last field."""
    return event[: -len(b"}\n\n")] + b',"x_groq":' + msgspec.json.encode(x_groq) + b"}\n\n"
