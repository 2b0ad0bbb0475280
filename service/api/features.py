"""Feature availability: which features of a route are available now.

available     a usable target supports the feature
unavailable   only unhealthy targets support it
unsupported   no target supports it
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dub5.service.providers.features import Feature
from dub5.service.resilience.health import Health, TargetSnapshot

CHAT = "chat"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The capabilities of a target. `context_tokens` is None if the context window is unknown."""

    missing_features: Collection[str]
    context_tokens: int | None = None


def features(
    targets: Sequence[str], capabilities: Mapping[str, Capabilities], states: Mapping[str, TargetSnapshot]
) -> dict[str, str]:
    """Return the availability by feature; `long_context` only where the targets' windows differ."""
    usable = [name for name in targets if states[name].health is not Health.UNHEALTHY]
    availability = {CHAT: _availability(usable, targets, targets)}
    for feature in Feature:
        if feature is not Feature.LONG_CONTEXT:
            supporting = [name for name in targets if feature not in capabilities[name].missing_features]
            if feature is Feature.JSON_OBJECT:
                supporting = supporting or list(targets)  # the prompt asks for it
            availability[feature] = _availability(usable, targets, supporting)
    context_tokens = {name: capabilities[name].context_tokens or 0 for name in targets}
    known = [tokens for tokens in context_tokens.values() if tokens]
    if known and any(tokens != min(known) for tokens in context_tokens.values()):
        longer = [name for name, tokens in context_tokens.items() if tokens == 0 or tokens > min(known)]
        availability[Feature.LONG_CONTEXT] = _availability(usable, targets, longer)
    return availability


def _availability(usable: Sequence[str], targets: Sequence[str], supporting: Sequence[str]) -> str:
    if not supporting:
        return "unsupported"
    return "available" if any(name in usable for name in supporting) else "unavailable"
