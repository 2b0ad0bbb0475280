"""A free tier behind Cloudflare: no key, OpenAI's format for answers, one of three shapes for errors.

The origin's own 429 is its rate limit; a 429 of a host behind the origin becomes a 502. When the tunnel is
down, Cloudflare answers.
"""

from datetime import UTC, datetime
from typing import Any

from dub5.simulators.limits.rate import LimitExceeded
from dub5.simulators.personas.base import FixedResponse, PersonaContext, Refusal, retry_after
from dub5.simulators.personas.openai import OpenAIPersona

TIER = (
    "Model not found or tier not high enough. "
    "Your tier: anonymous, required tier: seed. See our docs for tiers."
)
TYPICAL = {  # status: message, code
    400: ("Bad Request", "BAD_REQUEST"),
    401: ("Authentication required", "UNAUTHORIZED"),
    403: ("Access denied", "FORBIDDEN"),
    404: ("Not Found", "NOT_FOUND"),
    429: ("Too Many Requests", "RATE_LIMITED"),
    503: ("Service Unavailable", "UNAVAILABLE"),
}


class FreePersona(OpenAIPersona):
    """`/v1/chat/completions`."""

    name = "free"
    other_paths = ()
    models = ("openai-sim", "mistral-sim-free")
    daily_windows = True
    edge = "cloudflare"

    def headers(self, context: PersonaContext) -> dict[str, str]:
        ray = {"server": "cloudflare", "cf-ray": f"{context.hex(16)}-FRA", "cf-cache-status": "DYNAMIC"}
        return {**ray, "access-control-allow-origin": "*"}

    def refusal(self, refusal: Refusal, context: PersonaContext) -> FixedResponse:
        return self._error_response(
            refusal.status, refusal.message or TYPICAL.get(refusal.status, ("Error", ""))[0], context
        )

    def error(self, status: int, context: PersonaContext) -> FixedResponse:
        if status == 402:
            return self.json_response(402, {"error": TIER, "status": 402}, context)
        return self._error_response(status, TYPICAL.get(status, ("Internal Server Error", ""))[0], context)

    def limited(self, excess: LimitExceeded, context: PersonaContext) -> FixedResponse:
        state = excess.state
        text = f"Too Many Requests: {state.limit} {state.what} per {state.span} for your IP"
        response = self.json_response(429, {"error": text, "status": 429}, context)
        return FixedResponse(429, {**response.headers, **retry_after(excess)}, response.body)

    def _error_response(self, status: int, message: str, context: PersonaContext) -> FixedResponse:
        """Return the error in one of three shapes, drawn at random."""
        code = TYPICAL.get(status, ("", "INTERNAL_ERROR"))[1]
        at = f"{datetime.fromtimestamp(context.created, UTC):%Y-%m-%dT%H:%M:%S.000Z}"
        shapes: list[dict[str, Any]] = [
            {"error": message, "status": status},
            {
                "success": False,
                "error": {"message": message, "code": code, "timestamp": at},
                "status": status,
            },
            {
                "error": f"{status} {message}",
                "status": status,
                "details": {"error": {"message": message, "type": "upstream_error"}, "provider": "openai"},
            },
        ]
        return self.json_response(status, context.rng.choice(shapes), context)
