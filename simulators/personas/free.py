"""A free tier behind Cloudflare: keyless, OpenAI's shapes when it is well, one of three error shapes when it is not.

The origin's own 429 is its limit; a 429 of a host behind it leaves as 502. When the tunnel is gone Cloudflare answers.
"""

from datetime import UTC, datetime
from typing import Any

from dub5.simulators.limits.rate import Excess
from dub5.simulators.personas.base import Page, Refusal, Turn, retry_after
from dub5.simulators.personas.openai import OpenAI

TIER = "Model not found or tier not high enough. Your tier: anonymous, required tier: seed. See our docs for tiers."
TYPICAL = {  # status: message, code
    400: ("Bad Request", "BAD_REQUEST"),
    401: ("Authentication required", "UNAUTHORIZED"),
    403: ("Access denied", "FORBIDDEN"),
    404: ("Not Found", "NOT_FOUND"),
    429: ("Too Many Requests", "RATE_LIMITED"),
    503: ("Service Unavailable", "UNAVAILABLE"),
}


class Free(OpenAI):
    """`/v1/chat/completions`."""

    name = "free"
    other_paths = ()
    models = ("openai-sim", "mistral-sim-free")
    daily_windows = True
    edge = "cloudflare"

    def headers(self, turn: Turn) -> dict[str, str]:
        ray = {"server": "cloudflare", "cf-ray": f"{turn.hex(16)}-FRA", "cf-cache-status": "DYNAMIC"}
        return {**ray, "access-control-allow-origin": "*"}

    def refusal(self, refusal: Refusal, turn: Turn) -> Page:
        return self._page(
            refusal.status, refusal.message or TYPICAL.get(refusal.status, ("Error", ""))[0], turn
        )

    def error(self, status: int, turn: Turn) -> Page:
        if status == 402:
            return self.page(402, {"error": TIER, "status": 402}, turn)
        return self._page(status, TYPICAL.get(status, ("Internal Server Error", ""))[0], turn)

    def limited(self, excess: Excess, turn: Turn) -> Page:
        standing = excess.standing
        text = f"Too Many Requests: {standing.limit} {standing.what} per {standing.span} for your IP"
        page = self.page(429, {"error": text, "status": 429}, turn)
        return Page(429, {**page.headers, **retry_after(excess)}, page.body)

    def _page(self, status: int, message: str, turn: Turn) -> Page:
        """One of three shapes, by the luck of the day."""
        code = TYPICAL.get(status, ("", "INTERNAL_ERROR"))[1]
        at = f"{datetime.fromtimestamp(turn.created, UTC):%Y-%m-%dT%H:%M:%S.000Z}"
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
        return self.page(status, turn.chance.choice(shapes), turn)
