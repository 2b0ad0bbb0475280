"""Rate limit errors and headers in the format of OpenAI and of the providers that copy it."""

from collections.abc import Mapping
from typing import Any

from dub5.simulators.limits.rate import BucketState, LimitExceeded, duration


def limit_error(excess: LimitExceeded, model: str, organisation: str = "org-sim") -> dict[str, Any]:
    """Return the error object of an exceeded limit, with true numbers."""
    state = excess.state
    unit = f"{state.what.replace('_', ' ')} per {'min' if state.span == 'minute' else state.span}"
    short = f"{state.what[0].upper()}P{state.span[0].upper()}"
    where = f"{model} in organization {organisation} on {unit} ({short})"
    url = "Visit https://platform.openai.com/account/rate-limits to learn more."
    if excess.too_large:
        text = f"Request too large for {where}: Limit {state.limit}, Requested {excess.requested}. {url}"
    else:
        used = state.limit - state.remaining
        text = f"Limit {state.limit}, Used {used}, Requested {excess.requested}. "
        text = f"Rate limit reached for {where}: {text}Please try again in {duration(excess.wait_s)}. {url}"
    return {"message": text, "type": state.what, "param": None, "code": "rate_limit_exceeded"}


def ratelimit_headers(bucket_states: Mapping[str, BucketState]) -> dict[str, str]:
    """Return `x-ratelimit-*` for requests and tokens, with durations as Go writes them."""
    found = {}
    for what, state in bucket_states.items():
        found[f"x-ratelimit-limit-{what}"] = str(state.limit)
        found[f"x-ratelimit-remaining-{what}"] = str(state.remaining)
        found[f"x-ratelimit-reset-{what}"] = duration(state.reset_s)
    return found
