"""The final error when all targets failed: which GatewayError the client gets. Pure."""

from dub5.service.errors import (
    AllTargetsDown,
    AllTargetsLimited,
    DeadlineExceeded,
    FeatureUnavailable,
    GatewayError,
    InvalidRequest,
    KeysRefused,
    Overloaded,
    ProviderRefused,
    TooLarge,
)
from dub5.service.failover.account_words import without_account
from dub5.service.failover.context import RequestContext
from dub5.service.providers.features import FEATURE_NAMES, Feature, feature_of
from dub5.service.resilience.classify import Blame, Classification, CooldownReason, Then
from dub5.service.wire.base import FailureKind

LIMITED = frozenset({"http_429", CooldownReason.LIMITED, CooldownReason.QUOTA})
PROVIDER_FULL = "provider_full"
OWN_LACK = f"_{FailureKind.LOCAL}"  # after the stage
TOO_LARGE = frozenset({402, 413, 429})  # of one request: smaller ones are taken
UNSUPPORTED = "unsupported_"  # before the field that a target cannot carry


def exhausted_error(
    context: RequestContext, wait_s: float, *, out_of_time: bool, feature_available: bool = True
) -> GatewayError:
    """Return the error for a request that no target answered.

    `wait_s`: seconds until a target may be called again. `out_of_time`: the deadline has passed.
    `feature_available`: a target supports all that the request needs.
    """
    trail = context.progress.trail
    if refusal := _refusal(context):
        return refusal
    if out_of_time:
        return DeadlineExceeded(
            "No provider answered before the deadline.", retry_after_s=max(1.0, wait_s), attempts=trail
        )
    reasons = [attempt.reason for attempt in trail]
    wait_s = max(1.0, wait_s)
    if params := [reason.removeprefix(UNSUPPORTED) for reason in reasons if reason.startswith(UNSUPPORTED)]:
        return (
            _feature_unavailable(context, params, wait_s)
            if feature_available
            else _unsupported(context, params[0])
        )
    if _all_keys_refused(context):
        return KeysRefused(
            f"No provider behind {context.route!r} accepts this service's key or account"
            f" ({', '.join(dict.fromkeys(reasons))}).",
            attempts=trail,  # and no Retry-After: waiting mends no key
        )
    if reasons and all(reason.endswith(OWN_LACK) for reason in reasons):
        return Overloaded(
            "This gateway has run out of descriptors, ports or memory of its own; no provider is at fault.",
            retry_after_s=wait_s,
            attempts=trail,
        )
    if reasons and all(reason == PROVIDER_FULL for reason in reasons):
        return Overloaded(
            "All providers for this model are at capacity.",
            retry_after_s=wait_s,
            attempts=trail,
        )
    if reasons and all(reason in LIMITED for reason in reasons):
        return AllTargetsLimited(
            "All providers for this model have reached a rate limit or quota.",
            retry_after_s=wait_s,
            attempts=trail,
        )
    return AllTargetsDown("No provider for this model can answer now.", retry_after_s=wait_s, attempts=trail)


def _unsupported(context: RequestContext, param: str) -> GatewayError:
    """Return the error for a request that no target of this route supports."""
    if param == Feature.LONG_CONTEXT:
        message = (
            f"The conversation, with room for its answer, is too long for every model of {context.route!r}."
        )
        return InvalidRequest(message, param="messages", attempts=context.progress.trail)
    return InvalidRequest(
        f"No model behind {context.route!r} supports the field {param!r}.",
        param=param,
        attempts=context.progress.trail,
    )


def _feature_unavailable(context: RequestContext, params: list[str], wait_s: float) -> GatewayError:
    """Return the error where the targets that support the request are down, and others answer."""
    features = list(dict.fromkeys(filter(None, (feature_of(param, context.request) for param in params))))
    what = " and ".join(FEATURE_NAMES[feature] for feature in features) or f"the field {params[0]!r}"
    are, them = ("are", "them") if features else ("is", "it")
    return FeatureUnavailable(
        f"{what[0].upper()}{what[1:]} {are} temporarily unavailable for model {context.route!r}."
        f" Requests without {them} are served.",
        param=features[0].value if features else params[0],
        retry_after_s=wait_s,
        attempts=context.progress.trail,
    )


def _refusal(context: RequestContext) -> GatewayError | None:
    """Return the providers' refusal of the request itself: a final one, or that of every target asked."""
    progress = context.progress
    classifications, all_tried = progress.classifications, all(attempt.tried for attempt in progress.trail)
    if not classifications:
        return None
    refusals = [v for v in classifications if v.then in (Then.GIVE_UP, Then.ASK_ANOTHER)]
    # Targets that were passed over, or cannot carry the request, do not speak against a refusal.
    asked = (
        [v for v in classifications if not v.reason.startswith(UNSUPPORTED)] if refusals else classifications
    )
    if not (progress.given_up or (all(map(_at_fault, asked)) and (refusals or all_tried))):
        return None
    refusal = next((v for v in refusals if v.then is Then.GIVE_UP), (refusals or classifications)[0])
    if refusal.status in TOO_LARGE:
        return TooLarge("The request is too large for every provider of this model.", attempts=progress.trail)
    message = without_account(refusal.message).strip() or "A provider rejected the request."
    return ProviderRefused(message, 422 if refusal.status == 422 else 400, attempts=progress.trail)


def _all_keys_refused(context: RequestContext) -> bool:
    """Return whether a refused key or account is the reason of every target."""
    skipped = [attempt.reason for attempt in context.progress.trail if not attempt.tried]
    reasons = skipped + [v.cooldown_reason for v in context.progress.classifications if v.cooldown_s > 0]
    return (
        bool(reasons)
        and all(v.blame is Blame.KEY for v in context.progress.classifications)
        and all(reason == CooldownReason.REFUSED for reason in reasons)
    )


def _at_fault(classification: Classification) -> bool:
    """Return whether the provider found the request itself at fault: too long, for example."""
    return classification.blame is Blame.NOBODY and classification.status is not None
