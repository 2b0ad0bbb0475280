"""Shared keys: one key of a provider in two places, so that neither can be limited or revoked alone."""

from collections import defaultdict
from pathlib import Path

import msgspec

from dub5.service.config.settings import LoadedSettings


def with_shared_key_warnings(loaded: LoadedSettings) -> LoadedSettings:
    """Return the settings with a warning for each key that stands in two places of them."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for key, place in _places(loaded):
        places[key].append(place)
    for secret in loaded.caller_keys:
        if secret.reveal() in places:
            places[secret.reveal()].append("server.caller_keys_env")
    warnings = [
        f"{' and '.join(several)}: hold the same key; give each its own, so that it can be revoked alone."
        for several in places.values()
        if len(several) > 1
    ]
    return msgspec.structs.replace(loaded, warnings=(*loaded.warnings, *warnings))


def shared_between(file: Path, loaded: LoadedSettings, other: Path, also: LoadedSettings) -> list[str]:
    """Return a warning for each key that stands in both files, as those of two environments should not."""
    places = dict(_places(loaded))
    return [
        f"{file}: {places[key]} and {other}: {place} hold the same key: one environment spends the other's"
        " quota, and both stop when it is revoked."
        for key, place in _places(also)
        if key in places
    ]


def _places(loaded: LoadedSettings) -> list[tuple[str, str]]:
    return [
        (secret.reveal(), f"provider {provider.name!r}.key_env {variable}")
        for provider in loaded.settings.provider
        for variable, secret in zip(provider.key_env, loaded.provider_keys[provider.name], strict=True)
    ]
