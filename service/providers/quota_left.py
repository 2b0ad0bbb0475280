"""Quota left: what a provider's headers say is left of a key's limits, before it refuses a request for them.

x-ratelimit-remaining-requests: 0        x-ratelimit-reset-requests: 12s            OpenAI, Groq, Azure
anthropic-ratelimit-tokens-remaining: 0  anthropic-ratelimit-tokens-reset: 2025-08-21T12:40:59Z

A header that makes no sense (no number, negative, of more than 15 digits) says nothing; so does one whose
reset is absent, past, or more than a day away.
"""

from collections.abc import Mapping
from typing import NamedTuple

from dub5.service.providers.retry_after import LONGEST_S, date_s, moment_s

DIGITS_MAX = 15


class QuotaHeaders(NamedTuple):
    """The names of the headers of one limit. `what`: requests, tokens, input_tokens or output_tokens."""

    what: str
    remaining: str
    reset: str


class QuotaLeft(NamedTuple):
    """What was left of a limit as a response began. `reset`: as the header says it; `date`: the reply's."""

    what: str
    left: int
    reset: str
    date: str

    def reset_s(self, wall: float) -> float | None:
        """Return the seconds from the response to the reset; None where the header makes no sense."""
        wait_s = moment_s(self.reset, date_s(self.date) or wall)
        return wait_s if wait_s is not None and 0.0 < wait_s <= LONGEST_S else None


def _x_ratelimit(what: str) -> QuotaHeaders:
    return QuotaHeaders(what, f"x-ratelimit-remaining-{what}", f"x-ratelimit-reset-{what}")


def _anthropic(what: str) -> QuotaHeaders:
    stem = f"anthropic-ratelimit-{what.replace('_', '-')}"
    return QuotaHeaders(what, f"{stem}-remaining", f"{stem}-reset")


OPENAI_QUOTA: tuple[QuotaHeaders, ...] = (_x_ratelimit("requests"), _x_ratelimit("tokens"))
ANTHROPIC_QUOTA = tuple(map(_anthropic, ("requests", "tokens", "input_tokens", "output_tokens")))

REMAINING = frozenset(one.remaining for one in (*OPENAI_QUOTA, *ANTHROPIC_QUOTA))  # each response is asked


def has_room(
    names: tuple[QuotaHeaders, ...], headers: Mapping[str, str], needs: Mapping[str, float]
) -> bool | None:
    """Return whether what is left of each limit covers these needs; None where no header says.

    What it finds lacking is read by `quota_left`.
    """
    room: bool | None = None
    for what, remaining, _ in names:
        text = headers.get(remaining)
        if text is not None and _is_count(text):
            if int(text) < needs[what]:
                return False
            room = True
    return room


def quota_left(names: tuple[QuotaHeaders, ...], headers: Mapping[str, str]) -> list[QuotaLeft]:
    """Return what is left of each limit that the headers name."""
    found = []
    for what, remaining, reset in names:
        text = headers.get(remaining)
        if text is not None and _is_count(text):
            found.append(QuotaLeft(what, int(text), headers.get(reset, ""), headers.get("date", "")))
    return found


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX
