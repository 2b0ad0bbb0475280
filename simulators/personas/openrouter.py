"""OpenRouter: one API in front of many hosts.

Once a host has begun, its errors come with status 200, in the body.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dub5.simulators.limits.rate import BucketState, LimitExceeded
from dub5.simulators.personas.base import (
    FixedResponse,
    ParsedRequest,
    PersonaContext,
    Refusal,
    retry_after,
)
from dub5.simulators.personas.openai import OpenAIPersona, check_minimum
from dub5.simulators.personas.output import TokenizedAnswer
from dub5.simulators.script import Data, Script, Wait

COMMENT = b": OPENROUTER PROCESSING\n\n"
COMMENT_S = 0.5  # interval of the comments while the host is silent
HOST = "Sim Host"
USER = "user_sim"
TYPICAL = {  # status: message
    400: "Invalid request",
    401: "User not found.",
    402: "Insufficient credits. Add more using https://openrouter.ai/credits",
    403: "Your chosen model requires moderation and your input was flagged",
    408: "Your request timed out",
    429: "Provider returned error",
    502: "Provider returned error",
    503: "There is no available model provider that meets your routing requirements",
}
UPSTREAM = (429, 502)


class OpenRouterPersona(OpenAIPersona):
    """`/v1/chat/completions`; at the real provider below /api."""

    name = "openrouter"
    other_paths = ()
    models = ("sim/chat-large:free", "sim/chat-small:free")
    models_are_public = True
    id_prefix = "gen-"
    daily_windows = True

    def headers(self, context: PersonaContext) -> dict[str, str]:
        generation = f"gen-{context.created}-{context.hex(20)}"
        return {"x-generation-id": generation, "server": "cloudflare", "cf-ray": f"{context.hex(16)}-FRA"}

    def check(self, request: Any, fields: Mapping[str, Any]) -> None:
        messages = fields.get("messages")
        if not fields.get("model"):
            raise Refusal(400, "No models provided")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise Refusal(400, 'Input required: specify "prompt" or "messages"')
        check_minimum(fields, "max_tokens")
        check_minimum(fields, "max_completion_tokens")

    def chat(self, parsed: ParsedRequest, context: PersonaContext) -> Script:
        script = super().chat(parsed, context)
        return commented(script) if parsed.stream else script

    def completion(
        self, parsed: ParsedRequest, context: PersonaContext, answer: TokenizedAnswer
    ) -> dict[str, Any]:
        body = super().completion(parsed, context, answer)
        body["choices"][0]["native_finish_reason"] = body["choices"][0]["finish_reason"]
        return {"provider": HOST, **body}

    def refusal(self, refusal: Refusal, context: PersonaContext) -> FixedResponse:
        message = "No auth credentials found" if refusal.details.get("kind") == "key" else refusal.message
        body = {"error": {"message": message, "code": refusal.status}, "user_id": USER}
        return self.json_response(refusal.status, body, context)

    def error(self, status: int, context: PersonaContext) -> FixedResponse:
        error: dict[str, Any] = {"code": status, "message": TYPICAL.get(status, "Internal Server Error")}
        if status in UPSTREAM:
            limited = "is temporarily rate-limited upstream. Please retry shortly, or add your own key."
            error["metadata"] = {
                "raw": f"{self.models[0]} {limited}" if status == 429 else '{"error":"upstream error"}',
                "provider_name": HOST,
            }
        return self.json_response(status, {"error": error, "user_id": USER}, context)

    def limited(self, excess: LimitExceeded, context: PersonaContext) -> FixedResponse:
        span = {"minute": "free-models-per-min", "day": "free-models-per-day"}.get(excess.state.span, "rate")
        error = {"code": 429, "message": f"Rate limit exceeded: {span}. "}
        response = self.json_response(429, {"error": error, "user_id": USER}, context)
        return FixedResponse(429, {**response.headers, **retry_after(excess)}, response.body)

    def limit_headers(
        self, bucket_states: Sequence[BucketState], now_s: float, *, refused: bool
    ) -> dict[str, str]:
        """Return headers for refusals only: the emptiest bucket, its reset in epoch milliseconds."""
        requests = [s for s in bucket_states if s.what == "requests"]
        if not refused or not requests:
            return {}
        worst = min(requests, key=lambda state: state.remaining)
        reset_ms = int((now_s + worst.reset_s) * 1000)
        values = {"limit": worst.limit, "remaining": worst.remaining, "reset": reset_ms}
        return {f"x-ratelimit-{name}": str(value) for name, value in values.items()}

    def error_event(self, context: PersonaContext) -> bytes:
        """Return an error next to a choice that ends with `error`; its code is a string only here."""
        error = {"code": "server_error", "message": "Provider disconnected unexpectedly"}
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
        head = {"id": f"gen-{context.hex(24)}", "object": "chat.completion.chunk", "created": context.created}
        body = {**head, "model": self.models[0], "provider": HOST, "error": error, "choices": [choice]}
        return b"data: " + msgspec.json.encode(body) + b"\n\n"


def commented(script: Script) -> Script:
    """Send the head at once, and comments while the host is silent, so that no proxy on the way times out."""
    held: list[Wait] = []
    begun = False
    for action in script:
        if isinstance(action, Wait) and not begun:
            held.append(action)
            continue
        yield action
        if not begun:
            begun = True
            yield Data(COMMENT)
            for wait in held:
                yield from _filled(wait.s)


def _filled(s: float) -> Script:
    while s > COMMENT_S:
        yield Wait(COMMENT_S)
        yield Data(COMMENT)
        s -= COMMENT_S
    yield Wait(s)
