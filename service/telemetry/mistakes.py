"""Failures that only a change of settings mends, each with what to look at."""

from dub5.service.events import AttemptEnded
from dub5.service.resilience.classify import CooldownReason

MISTAKES = {
    "http_401": "The provider refuses the key: check key_env and the variable that it names.",
    "http_402": "The account of the key has no credit, or needs a way to pay.",
    "http_403": "If this stays so, the key may not use this model: check its rights.",
    "http_404": "Unknown model, or wrong base_url (most end in /v1, without /chat/completions).",
    "key_refused": "The provider refuses the key or its account: check key_env, credit and rights.",
    "http_405": "Wrong base_url: most end in /v1, without /chat/completions.",
    "resolve_refused": "The host in base_url does not resolve: is it misspelt?",
    "connect_protocol": "No TLS with this host: check scheme, host and port of base_url.",
}
"""By the reason of an attempt. None of them passes by itself, as an outage does."""


def mistake_reason(event: AttemptEnded) -> str | None:
    """Return the key in MISTAKES of what an attempt shows to be wrong, or None."""
    reason = event.attempt.reason
    if reason in MISTAKES:
        return reason
    return CooldownReason.REFUSED if event.key_refused else None  # said with another status, or in a 200
