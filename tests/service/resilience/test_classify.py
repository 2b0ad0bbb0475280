"""One table of failures and their one meaning."""

import pytest

from dub5.service.providers.base import ProviderFault, Unsupported
from dub5.service.resilience.classify import Blame, CooldownReason, Then, classify
from dub5.service.timeouts import TimedOut
from dub5.service.wire.base import FailureKind, Stage, WireFailure


def status(
    number: int, code: str = "", retry_after_s: float | None = None, message: str = ""
) -> ProviderFault:
    return ProviderFault(
        f"http_{number}", status=number, code=code, message=message, retry_after_s=retry_after_s
    )


TOO_LARGE = "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 30601."
PER_DAY = "Rate limit reached for model x on tokens per day (TPD): Limit 100000, Used 97050."


@pytest.mark.parametrize(
    ("failure", "then", "blame", "cooldown_s"),
    [
        (status(530), Then.NEXT, Blame.HOST, 0.0),
        (status(522), Then.NEXT, Blame.HOST, 0.0),
        (status(529), Then.NEXT, Blame.TARGET, 0.0),
        (status(500), Then.RETRY, Blame.TARGET, 0.0),
        (status(502), Then.RETRY, Blame.TARGET, 0.0),
        (status(504), Then.RETRY, Blame.TARGET, 0.0),
        (status(501), Then.NEXT, Blame.TARGET, 0.0),
        (status(408), Then.NEXT, Blame.TARGET, 0.0),
        (status(404), Then.NEXT, Blame.TARGET, 0.0),
        (status(429), Then.NEXT, Blame.KEY, 5.0),
        (status(429, retry_after_s=20.0), Then.RETRY, Blame.KEY, 20.0),
        (status(429, retry_after_s=0.0), Then.RETRY, Blame.KEY, 0.0),
        (status(429, retry_after_s=700.0), Then.NEXT, Blame.KEY, 700.0),
        (status(429, "insufficient_quota", 1.0), Then.NEXT, Blame.KEY, 3600.0),
        (ProviderFault("error_event", code="insufficient_quota"), Then.NEXT, Blame.KEY, 3600.0),
        (ProviderFault("error_event", code="429", told_status=429), Then.NEXT, Blame.KEY, 5.0),
        (ProviderFault("error_event", code="503", told_status=503), Then.RETRY, Blame.TARGET, 0.0),
        (ProviderFault("error_event", code="400", told_status=400), Then.ASK_ANOTHER, Blame.NOBODY, 0.0),
        (status(429, "rate_limit_exceeded", message=TOO_LARGE), Then.NEXT, Blame.NOBODY, 0.0),
        (status(429, message="Service tier capacity exceeded for this model."), Then.NEXT, Blame.TARGET, 0.0),
        (status(429, "rate_limit_exceeded", 578.0, PER_DAY), Then.NEXT, Blame.KEY, 578.0),
        (status(498), Then.NEXT, Blame.TARGET, 0.0),
        (status(503, retry_after_s=7.0), Then.RETRY, Blame.TARGET, 7.0),
        (status(530, "1033", 120.0), Then.NEXT, Blame.HOST, 120.0),
        (status(401), Then.NEXT, Blame.KEY, 60.0),
        (status(403), Then.NEXT, Blame.KEY, 60.0),
        (status(400), Then.ASK_ANOTHER, Blame.NOBODY, 0.0),
        (status(422), Then.ASK_ANOTHER, Blame.NOBODY, 0.0),
        (status(400, "context_length_exceeded"), Then.NEXT, Blame.NOBODY, 0.0),
        (status(400, "content_filter"), Then.GIVE_UP, Blame.NOBODY, 0.0),
        (status(413), Then.NEXT, Blame.NOBODY, 0.0),
        (ProviderFault("empty_answer"), Then.NEXT, Blame.TARGET, 0.0),
        (ProviderFault("truncated"), Then.NEXT, Blame.TARGET, 0.0),
        (TimedOut("first_token"), Then.NEXT, Blame.TARGET, 0.0),
        (TimedOut("deadline"), Then.NEXT, Blame.NOBODY, 0.0),
        (Unsupported("tools"), Then.NEXT, Blame.NOBODY, 0.0),
        (WireFailure(Stage.POOL, FailureKind.TIMEOUT, sent=False), Then.NEXT, Blame.NOBODY, 0.0),
        (WireFailure(Stage.RESOLVE, FailureKind.REFUSED, sent=False), Then.NEXT, Blame.HOST, 0.0),
        (WireFailure(Stage.CONNECT, FailureKind.TIMEOUT, sent=False), Then.NEXT, Blame.HOST, 0.0),
        (WireFailure(Stage.WAIT, FailureKind.RESET, sent=True), Then.RETRY, Blame.TARGET, 0.0),
        (WireFailure(Stage.WAIT, FailureKind.CLOSED, sent=True, reused=True), Then.FRESH, Blame.NOBODY, 0.0),
        (WireFailure(Stage.WAIT, FailureKind.TIMEOUT, sent=True), Then.NEXT, Blame.TARGET, 0.0),
        (WireFailure(Stage.BODY, FailureKind.PROTOCOL, sent=True), Then.NEXT, Blame.TARGET, 0.0),
        (WireFailure(Stage.BODY, FailureKind.CLOSED, sent=True, reused=True), Then.RETRY, Blame.TARGET, 0.0),
    ],
    ids=repr,
)
def test_meaning(failure: Exception, then: Then, blame: Blame, cooldown_s: float) -> None:
    """Each failure has one classification: what follows, what it counts against, and for how long."""
    classification = classify(failure)
    assert (classification.then, classification.blame, classification.cooldown_s) == (then, blame, cooldown_s)


@pytest.mark.parametrize(
    ("failure", "cooldown_reason"),
    [
        (status(429, retry_after_s=20.0), CooldownReason.LIMITED),
        (status(429, retry_after_s=601.0), CooldownReason.QUOTA),
        (status(429, "insufficient_quota"), CooldownReason.QUOTA),
        (status(429, message=PER_DAY), CooldownReason.QUOTA),
        (status(401), CooldownReason.REFUSED),
        (status(503, retry_after_s=20.0), CooldownReason.WAITING),
    ],
    ids=str,
)
def test_why_a_key_rests(failure: ProviderFault, cooldown_reason: CooldownReason) -> None:
    """Seconds are a rate limit, more than ten minutes a quota, whatever the provider calls it."""
    assert classify(failure).cooldown_reason is cooldown_reason


@pytest.mark.parametrize(
    ("failure", "overload"),
    [
        (status(429), True),
        (status(429, retry_after_s=2.0), True),
        (status(498), True),
        (status(529), True),
        (status(429, message="Service tier capacity exceeded for this model."), True),
        (TimedOut("first_token"), True),
        (TimedOut("whole_answer"), True),
        (WireFailure(Stage.CONNECT, FailureKind.TIMEOUT, sent=False), True),
        (WireFailure(Stage.CONNECT, FailureKind.REFUSED, sent=False), False),
        (status(429, "insufficient_quota"), False),
        (status(429, message=PER_DAY), False),
        (status(429, retry_after_s=700.0), False),
        (status(429, message=TOO_LARGE), False),
        (status(500), False),
        (status(503), False),
        (status(401), False),
        (TimedOut("deadline"), False),
        (WireFailure(Stage.POOL, FailureKind.TIMEOUT, sent=False), False),
        (WireFailure(Stage.WAIT, FailureKind.RESET, sent=True), False),
    ],
    ids=repr,
)
def test_overload(failure: Exception, overload: bool) -> None:
    """Only what says that the provider had no room lowers its limit: no quota, no caller's deadline, no pool
    of ours."""
    assert classify(failure).overload is overload


@pytest.mark.parametrize(
    ("code", "then", "blame"),
    [
        ("context_length_exceeded", Then.NEXT, Blame.NOBODY),
        ("content_filter", Then.GIVE_UP, Blame.NOBODY),
        ("something_new", Then.NEXT, Blame.TARGET),
    ],
)
def test_inside_a_200(code: str, then: Then, blame: Blame) -> None:
    """A known code in an error event means what it means with a status; an unknown one is the target's
    fault."""
    classification = classify(ProviderFault("error_event", code=code))
    assert (classification.then, classification.blame) == (then, blame)


def test_a_defect_of_ours_is_not_a_providers_failure() -> None:
    """What is not a known failure is raised again, never blamed on a target."""
    with pytest.raises(KeyError):
        classify(KeyError("ours"))


@pytest.mark.parametrize(
    ("said", "overload"),
    [
        ("The engine is currently overloaded, please try again later.", True),
        ("Service tier capacity exceeded for this model.", True),
        ("The server had an error.", False),
    ],
)
def test_a_503_that_says_why(said: str, overload: bool) -> None:
    """A 503 whose message names a lack of capacity is an overload; any 503 may be retried."""
    classification = classify(ProviderFault("http_503", status=503, message=said))
    assert (classification.overload, classification.then) == (overload, Then.RETRY)
