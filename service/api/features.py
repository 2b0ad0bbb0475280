"""Which features of a route can be had now.

available     a target that has it may be asked
unavailable   only targets that are out of reach have it
unsupported   none of them has it
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dub5.service.providers.features import Feature
from dub5.service.resilience.health import Health, TargetSnapshot

CHAT = "chat"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a target can do; `context_tokens` None: how much it takes is not known."""

    missing_features: Collection[str]
    context_tokens: int | None = None


def features(
    targets: Sequence[str], capabilities: Mapping[str, Capabilities], states: Mapping[str, TargetSnapshot]
) -> dict[str, str]:
    """Each feature, and whether it can be had. `long_context` only where targets are told to differ in it."""
    usable = [name for name in targets if states[name].health is not Health.UNHEALTHY]
    availability = {CHAT: _availability(usable, targets, targets)}
    for feature in Feature:
        if feature is not Feature.LONG_CONTEXT:
            availability[feature] = _availability(
                usable, targets, [n for n in targets if feature not in capabilities[n].missing_features]
            )
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
