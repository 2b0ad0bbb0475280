"""Groq: OpenAI's shapes, with `x_groq`, a limit per day, 413 for what is too large and 498 for what is too much."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from dub5.simulators.limits.rate import Excess, Standing, by_kind
from dub5.simulators.personas.base import Asked, Page, Spoken, Turn, retry_after
from dub5.simulators.personas.limit_words import limit_error, ratelimit_headers
from dub5.simulators.personas.openai import OpenAI, usage

CAPACITY = "Over capacity, please try again later. See https://console.groq.com/docs/flex-processing"


class Groq(OpenAI):
    """`/v1/chat/completions`."""

    name = "groq"
    other_paths = ()
    models = ("llama-sim-70b", "llama-sim-8b")

    def headers(self, turn: Turn) -> dict[str, str]:
        ray = f"{turn.hex(16)}-FRA"
        return {"x-request-id": f"req_{turn.hex(26)}", "server": "cloudflare", "cf-ray": ray}

    def completion(self, asked: Asked, turn: Turn, spoken: Spoken, tool: str | None) -> dict[str, Any]:
        said = super().completion(asked, turn, spoken, tool)
        return {**said, "usage": usage(asked, spoken), "x_groq": {"id": f"req_{turn.hex(26)}"}}

    def events(
        self, asked: Asked, turn: Turn, spoken: Spoken, tool: str | None
    ) -> tuple[Iterable[bytes], Iterable[bytes], Iterable[bytes]]:
        """`x_groq` rides on the first event, and again, with the usage, on the one with the finish reason."""
        (first,), tokens, (finish, *rest) = super().events(asked, turn, spoken, tool)
        id = f"req_{turn.hex(26)}"
        counts = usage(asked, spoken)
        return [marked(first, {"id": id})], tokens, [marked(finish, {"id": id, "usage": counts}), *rest]

    def error(self, status: int, turn: Turn) -> Page:
        if status == 498:
            error = {"message": CAPACITY, "type": "server_error", "code": "capacity_exceeded"}
            return self.page(498, {"error": error}, turn)
        return super().error(status, turn)

    def overloaded(self, turn: Turn) -> Page:
        return self.error(498, turn)

    def error_event(self, turn: Turn) -> bytes:
        """An error of the model's host hides in `x_groq`; there are no choices."""
        head = {"id": f"chatcmpl-{turn.hex(24)}", "object": "chat.completion.chunk", "created": turn.created}
        x_groq = {"id": f"req_{turn.hex(26)}", "error": "Internal Server Error"}
        error = {"message": "Internal Server Error", "type": "internal_server_error"}
        body = {**head, "model": "", "choices": [], "error": error, "x_groq": x_groq}
        return b"data: " + msgspec.json.encode(body) + b"\n\n"

    def limited(self, excess: Excess, turn: Turn) -> Page:
        said = limit_error(excess, f"`{self.models[0]}`", "`org_sim` service tier `on_demand`")
        error = {name: said[name] for name in ("message", "type", "code")}
        page = self.page(413 if excess.too_large else 429, {"error": error}, turn)
        return Page(page.status, {**page.headers, **retry_after(excess)}, page.body)

    def limit_headers(self, standings: Sequence[Standing], now_s: float, *, refused: bool) -> dict[str, str]:
        """Requests are told per day, tokens per minute."""
        a_day, a_minute = by_kind(standings, "day", "minute"), by_kind(standings, "minute", "day")
        told = {"requests": a_day.get("requests"), "tokens": a_minute.get("tokens")}
        return ratelimit_headers({what: s for what, s in told.items() if s is not None})


def marked(event: bytes, x_groq: dict[str, Any]) -> bytes:
    """The event with `x_groq` as its last field."""
    return event[: -len(b"}\n\n")] + b',"x_groq":' + msgspec.json.encode(x_groq) + b"}\n\n"
