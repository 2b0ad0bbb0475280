"""The honest error for a request that nobody answered. Pure."""

from dub5.service.errors import (
    AllTargetsDown,
    AllTargetsLimited,
    DeadlineExceeded,
    FeatureUnavailable,
    GatewayError,
    InvalidRequest,
    Overloaded,
    ProviderRefused,
    TooLarge,
)
from dub5.service.failover.context import RequestContext
from dub5.service.providers.features import FEATURE_NAMES, Feature, feature_of
from dub5.service.resilience.classify import Blame, Classification, CooldownReason, Then

LIMITED = frozenset({"http_429", CooldownReason.LIMITED, CooldownReason.QUOTA})
PROVIDER_FULL = "provider_full"
UNSUPPORTED = "unsupported_"  # before the field that a target cannot carry


def exhausted_error(
    context: RequestContext, wait_s: float, *, out_of_time: bool, feature_available: bool = True
) -> GatewayError:
    """What to tell the client. `wait_s`: until a target may be asked again; `out_of_time`: its deadline is near; `feature_available`:
    whether there is a target that has all that the request needs."""
    trail = context.progress.trail
    if refusal := _refusal(context):
        return refusal
    if out_of_time:
        return DeadlineExceeded(
            "No provider answered within the time allowed.", retry_after_s=max(1.0, wait_s), attempts=trail
        )
    reasons = [attempt.reason for attempt in trail]
    wait_s = max(1.0, wait_s)
    if params := [reason.removeprefix(UNSUPPORTED) for reason in reasons if reason.startswith(UNSUPPORTED)]:
        return (
            _feature_unavailable(context, params, wait_s)
            if feature_available
            else _unsupported(context, params[0])
        )
    if reasons and all(reason == PROVIDER_FULL for reason in reasons):
        return Overloaded(
            "Every provider behind this model has as much to do as it can take.",
            retry_after_s=wait_s,
            attempts=trail,
        )
    if reasons and all(reason in LIMITED for reason in reasons):
        return AllTargetsLimited(
            "Every provider behind this model has reached a rate limit.", retry_after_s=wait_s, attempts=trail
        )
    return AllTargetsDown(
        "No provider behind this model can answer at the moment.", retry_after_s=wait_s, attempts=trail
    )


def _unsupported(context: RequestContext, param: str) -> GatewayError:
    """Nobody behind this route ever could."""
    if param == Feature.LONG_CONTEXT:
        message = f"The conversation is longer than any model behind {context.route!r} takes."
        return InvalidRequest(message, param="messages", attempts=context.progress.trail)
    return InvalidRequest(
        f"No model behind {context.route!r} can carry the field {param!r}.",
        param=param,
        attempts=context.progress.trail,
    )


def _feature_unavailable(context: RequestContext, params: list[str], wait_s: float) -> GatewayError:
    """Who could does not answer now; who does answer cannot."""
    features = list(dict.fromkeys(filter(None, map(feature_of, params))))
    what = " and ".join(FEATURE_NAMES[feature] for feature in features) or f"the field {params[0]!r}"
    return FeatureUnavailable(
        f"{what[0].upper()}{what[1:]} cannot be had behind {context.route!r} at the moment. Plain chat can: requests"
        " without that are answered.",
        param=features[0].value if features else params[0],
        retry_after_s=wait_s,
        attempts=context.progress.trail,
    )


def _refusal(context: RequestContext) -> GatewayError | None:
    """What a provider had against the request itself, if that is why: nobody else would do better, or everybody was
    asked and said so."""
    classifications, everybody = (
        context.progress.classifications,
        all(attempt.tried for attempt in context.progress.trail),
    )
    if not classifications or not (
        context.progress.given_up or (everybody and all(map(_at_fault, classifications)))
    ):
        return None
    refusal = next((v for v in classifications if v.then is Then.GIVE_UP), classifications[-1])
    if refusal.status == TooLarge.status:
        return TooLarge(
            "The request is too large for every provider behind this model.", attempts=context.progress.trail
        )
    message = refusal.message or "A provider found the request at fault."
    return ProviderRefused(message, 422 if refusal.status == 422 else 400, attempts=context.progress.trail)


def _at_fault(classification: Classification) -> bool:
    """Whether a provider found the request itself at fault: too long for it, say."""
    return classification.blame is Blame.NOBODY and classification.status is not None
