"""How OpenAI, and those who copy it, speak of limits."""

from collections.abc import Mapping
from typing import Any

from dub5.simulators.limits.rate import Excess, Standing, duration


def limit_error(excess: Excess, model: str, organisation: str = "org-sim") -> dict[str, Any]:
    """In which the numbers are true."""
    standing = excess.standing
    unit = f"{standing.what.replace('_', ' ')} per {'min' if standing.span == 'minute' else standing.span}"
    short = f"{standing.what[0].upper()}P{standing.span[0].upper()}"
    where = f"{model} in organization {organisation} on {unit} ({short})"
    url = "Visit https://platform.openai.com/account/rate-limits to learn more."
    if excess.too_large:
        text = f"Request too large for {where}: Limit {standing.limit}, Requested {excess.requested}. {url}"
    else:
        used = standing.limit - standing.remaining
        text = f"Limit {standing.limit}, Used {used}, Requested {excess.requested}. "
        text = f"Rate limit reached for {where}: {text}Please try again in {duration(excess.wait_s)}. {url}"
    return {"message": text, "type": standing.what, "param": None, "code": "rate_limit_exceeded"}


def ratelimit_headers(standings: Mapping[str, Standing]) -> dict[str, str]:
    """`x-ratelimit-*` for requests and tokens, with durations as Go writes them."""
    found = {}
    for what, standing in standings.items():
        found[f"x-ratelimit-limit-{what}"] = str(standing.limit)
        found[f"x-ratelimit-remaining-{what}"] = str(standing.remaining)
        found[f"x-ratelimit-reset-{what}"] = duration(standing.reset_s)
    return found
