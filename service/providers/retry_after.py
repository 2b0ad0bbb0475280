"""Retry-After: when a provider accepts requests again, in every form that providers use.

retry-after-ms: 250                             milliseconds; wins over all others
retry-after: 20 | 1.5 | Sun, 06 Nov ... GMT     seconds, or a date read against the reply's own Date
x-ratelimit-reset-requests: 6m0s | 12ms | 7     with x-ratelimit-remaining-requests: 0 (OpenAI, Groq, Azure)
anthropic-ratelimit-tokens-reset: 2025-08-21T12:40:59Z   with ...-remaining: 0
x-ratelimit-reset: 1741305600000                epoch milliseconds (OpenRouter)
"Please try again in 174ms." | "retry in 36s"     inside a message

Negative values count as 0, invalid ones as absent, and none as more than a day. RFC 9110 (10.2.3) defines the
forms of `retry-after`; the others are the providers' own.
"""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_S = 86_400.0  # one header must not disable a target for longer than a day
EPOCH_MS_MIN = 1e11  # a larger number counts milliseconds

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:ms|[smhd]))+")
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|[smhd])")
_TRY_AGAIN = re.compile(r"(?:try again|retry) in ((?:\d{1,9}(?:\.\d{1,9})?(?:ms|[smhd]))+)")
_RESET = re.compile(
    r"(?:x-ratelimit-reset(?P<a>-requests|-tokens)?|(?P<b>anthropic-ratelimit-(?:[a-z]+-)?(?:requests|tokens))-reset)"
)


def retry_after_s(headers: Mapping[str, str], message: str, now_s: float) -> float | None:
    """Return the seconds to wait, or None if neither headers nor message name a time.

    Header names are lower case; `now_s` is epoch seconds, used where the response has no Date of its own.
    """
    at_s = date_s(headers.get("date", "")) or now_s
    wait_s = _milliseconds(headers.get("retry-after-ms", ""))
    if wait_s is None:
        wait_s = moment_s(headers.get("retry-after", ""), at_s)
    if wait_s is None:
        wait_s = max(_exhausted_resets(headers, at_s), default=None)
    if wait_s is None and (found := _TRY_AGAIN.search(message)):
        wait_s = _duration_s(found[1])
    return None if wait_s is None else min(max(0.0, wait_s), LONGEST_S)


def _exhausted_resets(headers: Mapping[str, str], at_s: float) -> Iterator[float]:
    """Yield the resets (s) of exhausted limits, and of limits without a `remaining` header."""
    for name, value in headers.items():
        reset = _RESET.fullmatch(name)
        if reset is None:
            continue
        remaining = f"{reset['b']}-remaining" if reset["b"] else f"x-ratelimit-remaining{reset['a'] or ''}"
        left = headers.get(remaining, "0")
        wait_s = moment_s(value, at_s)
        if left.strip() == "0" and wait_s is not None:
            yield wait_s


def moment_s(value: str, at_s: float) -> float | None:
    """Return seconds from a number, a duration, a date of either kind, or an epoch."""
    number = _number(value)
    if number is not None:
        if number > EPOCH_MS_MIN:
            return number / 1000 - at_s
        return number - at_s if number > at_s / 2 else number
    if (duration := _duration_s(value)) is not None:
        return duration
    epoch_s = date_s(value)
    return None if epoch_s is None else epoch_s - at_s


def _milliseconds(value: str) -> float | None:
    number = _number(value)
    return None if number is None else number / 1000


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _duration_s(value: str) -> float | None:
    if not _DURATION.fullmatch(value.strip()):
        return None
    return sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(value))


def date_s(value: str) -> float | None:
    """Return the epoch seconds of an HTTP date or an RFC 3339 time; None if the value is neither."""
    if not value:
        return None
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = read(value.strip())
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return None
