"""Addresses that are valid and hardly meant: `address_warnings` says what is odd about one. Offline."""

import difflib
from urllib.parse import urlsplit

from dub5.service.config.settings import ProviderSettings

# The services' own paths: the dialect adds them to base_url.
ENDPOINTS = ("/chat/completions", "/completions", "/embeddings", "/messages", "/models", "/responses")
# Hosts of public providers, each with the path that base_url has there.
PUBLIC_HOSTS = {
    "api.openai.com": "/v1",
    "api.mistral.ai": "/v1",
    "api.anthropic.com": "",
    "openrouter.ai": "/api/v1",
    "api.groq.com": "/openai/v1",
    "api.deepseek.com": "/v1",
    "api.together.xyz": "/v1",
    "api.fireworks.ai": "/inference/v1",
    "api.cerebras.ai": "/v1",
    "api.x.ai": "/v1",
    "generativelanguage.googleapis.com": "/v1beta/openai",
}
WITHOUT_V1 = ("api.deepseek.com",)  # take both
ALIKE = 0.85


def address_warnings(provider: ProviderSettings) -> list[str]:
    """Return one sentence for each thing that is odd about the provider's address."""
    where = f"provider {provider.name!r}.base_url"
    try:
        parts = urlsplit(provider.base_url)
    except ValueError:
        return []  # an error of its own
    host, path = (parts.hostname or "").rstrip("."), parts.path.rstrip("/")
    return [
        f"{where}: {text}"
        for text in (*_path_remarks(provider, host, path), *_host_remarks(parts.scheme, host))
    ] + (
        [f"provider {provider.name!r}: has no key_env, but {host} answers only with a key."]
        if host in PUBLIC_HOSTS and not provider.key_env
        else []
    )


def _path_remarks(provider: ProviderSettings, host: str, path: str) -> list[str]:
    for endpoint in ENDPOINTS:
        if path.endswith(endpoint):
            return [
                f"ends in {endpoint}, which the service adds itself; write {path[: -len(endpoint)] or '/'!r}."
            ]
    if provider.dialect == "anthropic":
        if path.endswith("/v1"):
            return ["ends in /v1, which the service adds itself for this dialect; leave it out."]
        return []
    own_path = PUBLIC_HOSTS.get(host)
    if own_path and not path.endswith(own_path) and host not in WITHOUT_V1:
        return [f"the API of {host} is at {own_path!r}, not at {path or '/'!r}."]
    if own_path is None and not path:
        return [
            "has no path, and most providers of this dialect want /v1 at the end; `check --online` tries it."
        ]
    return []


def _host_remarks(scheme: str, host: str) -> list[str]:
    if host in PUBLIC_HOSTS:
        return ["sends keys without encryption: write https://."] if scheme == "http" else []
    near = difflib.get_close_matches(host, PUBLIC_HOSTS, n=1, cutoff=ALIKE)
    if near and not host.endswith(f".{near[0]}"):
        return [f"names the host {host!r}; did you mean {near[0]!r}?"]
    return []
