"""Failures that only a change of settings mends, each with what to look at."""

MISTAKES = {
    "http_401": "The provider refuses the key: check key_env and the variable that it names.",
    "http_402": "The account of the key has no credit, or needs a way to pay.",
    "http_403": "If this stays so, the key may not use this model: check its rights.",
    "http_404": "Unknown model, or wrong base_url (most end in /v1, without /chat/completions).",
    "http_405": "Wrong base_url: most end in /v1, without /chat/completions.",
    "resolve_refused": "The host in base_url does not resolve: is it misspelt?",
    "connect_protocol": "No TLS with this host: check scheme, host and port of base_url.",
}
"""By the reason of an attempt. None of them passes by itself, as an outage does."""
