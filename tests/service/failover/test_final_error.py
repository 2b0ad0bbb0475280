"""What a client is told when nobody answered: from the trail and the verdicts alone."""

import pytest

from dub5.service.config.options import TimeoutOptions
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
from dub5.service.failover.context import RequestContext
from dub5.service.failover.final_error import exhausted_error
from dub5.service.failover.rejected_content import RejectPatterns
from dub5.service.model import AttemptRecord, Caller, ChatBody, ChatRequest
from dub5.service.resilience.classify import Blame, Classification, CooldownReason, Then
from dub5.service.timeouts import NEVER, Timeouts

WAIT_S = 7.5
BAD_REQUEST = Classification(Then.ASK_ANOTHER, Blame.NOBODY, "http_400", status=400, message="No such role.")
UNPROCESSABLE = Classification(Then.ASK_ANOTHER, Blame.NOBODY, "http_422", status=422)
TOO_LONG = Classification(Then.NEXT, Blame.NOBODY, "http_400", status=400, message="Too many tokens.")
TOO_BIG = Classification(Then.NEXT, Blame.NOBODY, "http_413", status=413)
NO_CREDIT = Classification(
    Then.NEXT, Blame.KEY, "http_400", 60.0, CooldownReason.REFUSED, status=400, message="No credits left."
)
DOWN = Classification(Then.NEXT, Blame.TARGET, "http_500", status=500, message="Internal.")
STALLED = Classification(Then.NEXT, Blame.TARGET, "first_token_timeout")


def told(
    *what: Classification | str,
    wait_s: float = WAIT_S,
    out_of_time: bool = False,
    given_up: bool = False,
    feature_available: bool = False,
) -> GatewayError:
    """The error after these, in order: a verdict on a target that was tried, or why one was passed over."""
    request = ChatRequest("id", Caller(), ChatBody("chat", []), {})
    timeouts = Timeouts(NEVER)
    context = RequestContext(request, "chat", TimeoutOptions(), RejectPatterns(()), timeouts, 0.0)
    context.progress.given_up = given_up
    for i, one in enumerate(what):
        if isinstance(one, Classification):
            context.progress.classifications.append(one)
            context.progress.trail.append(AttemptRecord(f"p/{i}", 0.0, 1.0, one.reason))
        else:
            context.progress.trail.append(AttemptRecord(f"p/{i}", 1.0, 1.0, one, tried=False))
    error = exhausted_error(context, wait_s, out_of_time=out_of_time, feature_available=feature_available)
    assert error.attempts == tuple(context.progress.trail), "the client sees every line of the trail"
    return error


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ((DOWN, "breaker_open"), AllTargetsDown),
        (("isolated", "host_breaker_open"), AllTargetsDown),
        ((CooldownReason.LIMITED, CooldownReason.QUOTA, "http_429"), AllTargetsLimited),
        ((CooldownReason.LIMITED, DOWN), AllTargetsDown),
        ((CooldownReason.REFUSED,), KeysRefused),
        ((CooldownReason.WAITING,), AllTargetsDown),
        (("provider_full", "provider_full"), Overloaded),
        (("provider_full", "breaker_open"), AllTargetsDown),
        (("unsupported_tools", "unsupported_tools"), InvalidRequest),
        (("unsupported_tools", "breaker_open"), InvalidRequest),
        ((), AllTargetsDown),
        ((TOO_LONG, DOWN), AllTargetsDown),
        ((NO_CREDIT, CooldownReason.REFUSED), KeysRefused),
        ((NO_CREDIT, DOWN), AllTargetsDown),
        ((NO_CREDIT, "breaker_open"), AllTargetsDown),
        ((BAD_REQUEST, DOWN), AllTargetsDown),  # the other might take it, a little later
        ((BAD_REQUEST, "breaker_open"), ProviderRefused),  # nobody else can be asked
        ((BAD_REQUEST, "unsupported_tools"), ProviderRefused),
        ((TOO_BIG, CooldownReason.LIMITED), AllTargetsDown),  # the other might take it, a little later
    ],
    ids=lambda what: (
        " + ".join(getattr(one, "reason", one) for one in what) if isinstance(what, tuple) else ""
    ),
)
async def test_kinds(what: tuple[Classification | str, ...], error: type[GatewayError]) -> None:
    """One common reason of all targets is named; different reasons are "all down"."""
    assert type(told(*what)) is error


@pytest.mark.parametrize(("wait_s", "told_s"), [(0.0, 1.0), (0.3, 1.0), (7.5, 7.5), (3_600.0, 3_600.0)])
@pytest.mark.parametrize("reason", ["breaker_open", CooldownReason.LIMITED, "provider_full"])
async def test_when_to_come_back(reason: str, wait_s: float, told_s: float) -> None:
    """Retry-After is the time until a target may be asked again, and never zero."""
    assert told(reason, wait_s=wait_s).retry_after_s == told_s


async def test_the_callers_fault() -> None:
    """A request that a provider found at fault ends with the provider's own words and status, not to be
    retried."""
    error = told(BAD_REQUEST, UNPROCESSABLE, given_up=True)
    assert type(error) is ProviderRefused
    assert (error.status, error.message, error.retry_after_s) == (400, "No such role.", None)
    assert told(UNPROCESSABLE).status == 422


async def test_too_long_for_everybody() -> None:
    """Where each target in turn found it too long, the client hears that, not that all are down."""
    error = told(TOO_LONG, TOO_LONG)
    assert type(error) is ProviderRefused and error.message == "Too many tokens."
    assert type(told(TOO_BIG, TOO_BIG)) is TooLarge


async def test_a_providers_words_stay_inside() -> None:
    """Only what is the caller's fault is quoted; a provider's trouble is its own."""
    assert "Internal." not in told(DOWN, DOWN).message


async def test_no_time_left() -> None:
    """The deadline is named before any failure of the targets, but not before the caller's own
    mistake."""
    assert type(told(STALLED, out_of_time=True)) is DeadlineExceeded
    assert type(told(CooldownReason.LIMITED, out_of_time=True)) is DeadlineExceeded
    assert type(told(BAD_REQUEST, out_of_time=True, given_up=True)) is ProviderRefused


async def test_the_field_is_named() -> None:
    """A field that no dialect of the route can carry is the one in `param`."""
    assert told("unsupported_tools", "unsupported_tools").param == "tools"


@pytest.mark.parametrize(
    ("param", "feature", "words"),
    [
        ("tools", "tools", "Tools are temporarily unavailable"),
        ("messages[3].tool_calls[0].type", "tools", "Tools are temporarily unavailable"),
        ("messages.content.image_url", "vision", "Images are temporarily unavailable"),
        ("messages[0].content[1].image_url", "vision", "Images are temporarily unavailable"),
        ("response_format", "json_schema", "Answers by a JSON schema are temporarily unavailable"),
        ("long_context", "long_context", "Conversations this long are temporarily unavailable"),
        ("audio", "audio", "The field 'audio' is temporarily unavailable"),
    ],
)
async def test_what_is_missing(param: str, feature: str, words: str) -> None:
    """Where a target that could is merely down, the error names what cannot be had now, and what can."""
    error = told(f"unsupported_{param}", "breaker_open", feature_available=True)
    assert type(error) is FeatureUnavailable
    assert (error.status, error.param, error.retry_after_s) == (503, feature, WAIT_S)
    assert error.message.startswith(words) and "are served" in error.message


async def test_a_conversation_that_is_too_long_for_all() -> None:
    """A conversation too long for all targets is the caller's error."""
    error = told("unsupported_long_context")
    assert (error.status, error.param) == (400, "messages")
