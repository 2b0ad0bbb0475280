"""Classification of failures, made once, for retry, circuit breakers, cool-down, metrics and client errors.

WireFailure | ProviderFault | TimedOut | Unsupported --classify--> Classification(then, blame, reason ...)
"""

from dataclasses import dataclass
from enum import StrEnum

from dub5.service.providers.base import ProviderFault, Unsupported
from dub5.service.resilience.error_topics import CODES, Topic, never_fits, topic_of
from dub5.service.timeouts import TimedOut
from dub5.service.wire.base import FailureKind, Stage, WireFailure


class Then(StrEnum):
    """What follows a failure."""

    FRESH = "fresh"  # the same target once more, on a new connection: the old one was stale
    RETRY = "retry"  # the same target once more, where retry.py permits it; else the next target
    NEXT = "next"  # the next target
    ASK_ANOTHER = "ask_another"  # one more target: the refusal is final only if that one refuses, too
    GIVE_UP = "give_up"  # no other target would do better


class Blame(StrEnum):
    """What a failure counts against."""

    TARGET = "target"
    HOST = "host"
    KEY = "key"
    NOBODY = "nobody"


class CooldownReason(StrEnum):
    """Why a key cools down, as the trail says it."""

    LIMITED = "cooling_down"
    WAITING = "retry_after"  # a Retry-After with another failure than a rate limit
    QUOTA = "quota_used_up"
    REFUSED = "key_refused"


@dataclass(frozen=True, slots=True)
class Classification:
    """What a failure means.

    `cooldown_s`: seconds for which this target is not asked with this key, because of `cooldown_reason`.
    `overload`: the provider was at capacity, so its concurrency limit is lowered.
    `unproven`: the request itself may have caused it, so it counts once refusals.py believes it.
    """

    then: Then
    blame: Blame
    reason: str
    cooldown_s: float = 0.0
    cooldown_reason: CooldownReason = CooldownReason.LIMITED
    code: str = ""
    status: int | None = None
    message: str = ""
    maybe_billed: bool = False
    overload: bool = False
    unproven: bool = False

    @property
    def refuses_key(self) -> bool:
        """Whether the provider refused the key or its account."""
        return self.blame is Blame.KEY and self.cooldown_reason is CooldownReason.REFUSED


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: the first row whose conditions all hold is used."""

    then: Then
    blame: Blame
    statuses: frozenset[int] = frozenset()
    codes: frozenset[str] = frozenset()
    says: str = ""  # a part of the error's message
    topic: Topic | None = None  # what the error is about
    cooldown_s: float = 0.0  # where the provider sent no Retry-After; for a quota, the minimum
    cooldown_reason: CooldownReason = CooldownReason.LIMITED

    def holds(self, fault: ProviderFault, status: int | None, topic: Topic | None) -> bool:
        """Return whether this row applies to the fault."""
        return (
            (not self.statuses or status in self.statuses)
            and (not self.codes or fault.code in self.codes)
            and (self.topic is None or topic is self.topic)
            and self.says in fault.message
        )


CONTEXT_CODES = frozenset({"context_length_exceeded", "model_context_window_exceeded"})
FILTER_CODES = frozenset({"content_filter", "content_policy_violation"})
REFUSALS = frozenset({400, 404, 422})  # these say little until a second target says the same
UNPROVEN = frozenset({402, 403})  # a request can cause these, too; a 401 speaks of the key alone
QUOTA_CODES = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
    }
)
EDGE_STATUSES = frozenset({*range(520, 528), 530})  # Cloudflare reports an origin that it cannot reach
TRANSIENT_STATUSES = frozenset({500, 502, 503, 504})  # the next attempt may succeed
NO_ROOM_STATUSES = frozenset({429, 498, 529})
OVERLOADED = ("overloaded", "capacity exceeded", "slow down")  # in a 503: at capacity, not down
# The status that an error has which is told inside a 200: by its code, else by what it is about.
STATUS_OF_CODE = {
    **dict.fromkeys(("invalid_request_error", "invalid_request", "INVALID_ARGUMENT", "BadRequestError"), 400),
    **dict.fromkeys(("ValidationException", "FAILED_PRECONDITION", *FILTER_CODES, *CONTEXT_CODES), 400),
    **dict.fromkeys(("authentication_error", "invalid_api_key", "UNAUTHENTICATED"), 401),
    "AuthenticationError": 401,
    **dict.fromkeys(("billing_error", "insufficient_credits", "insufficient_balance"), 402),
    **dict.fromkeys(("permission_error", "PERMISSION_DENIED", "AccessDeniedException"), 403),
    **dict.fromkeys(("not_found_error", "NOT_FOUND", "ResourceNotFoundException", "NotFoundError"), 404),
    **dict.fromkeys(("request_too_large", "payload_too_large"), 413),
    **dict.fromkeys(("rate_limit_error", "rate_limit_exceeded", "rate_limited", "RESOURCE_EXHAUSTED"), 429),
    **dict.fromkeys(("too_many_requests", "ThrottlingException", "RateLimitError", "slow_down"), 429),
    **dict.fromkeys(QUOTA_CODES, 429),
    **dict.fromkeys(("api_error", "server_error", "internal_server_error", "INTERNAL"), 500),
    **dict.fromkeys(("service_unavailable_error", "server_is_overloaded", "UNAVAILABLE"), 503),
    **dict.fromkeys(("ServiceUnavailableException", "service_unavailable"), 503),
    **dict.fromkeys(("timeout_error", "DEADLINE_EXCEEDED"), 504),
    "overloaded_error": 529,
}
STATUS_OF_TOPIC = {
    Topic.CONTENT: 400,
    Topic.CONTEXT: 400,
    Topic.REQUEST: 402,
    Topic.ACCOUNT: 400,
    Topic.MODEL: 404,
    Topic.PATH: 404,
    Topic.BLOCKED: 403,
}
QUOTA_COOL_S = 3600.0
QUOTA_ABOVE_S = 600.0  # a longer Retry-After means a quota, not a rate limit
LIMITED_COOL_S = 5.0
KEY_COOL_S = 60.0
WAIT_MAX_S = 300.0  # the longest Retry-After that counts where there is neither a rate limit nor a quota

STATUS_RULES = (
    Rule(Then.NEXT, Blame.NOBODY, codes=CONTEXT_CODES),  # another target may have a larger window
    Rule(Then.GIVE_UP, Blame.NOBODY, codes=FILTER_CODES),  # never routed around
    Rule(Then.GIVE_UP, Blame.NOBODY, REFUSALS | {403, 451}, topic=Topic.CONTENT),
    Rule(Then.NEXT, Blame.NOBODY, REFUSALS | {413, 500}, topic=Topic.CONTEXT),
    # Smaller ones are affordable, or within the rate limit.
    Rule(Then.NEXT, Blame.NOBODY, REFUSALS | {402, 403, 429}, topic=Topic.REQUEST),
    Rule(
        Then.NEXT,
        Blame.KEY,
        frozenset({429}),
        QUOTA_CODES,
        cooldown_s=QUOTA_COOL_S,
        cooldown_reason=CooldownReason.QUOTA,
    ),
    Rule(
        Then.NEXT,
        Blame.KEY,
        frozenset({429}),
        says="per day",
        cooldown_s=LIMITED_COOL_S,
        cooldown_reason=CooldownReason.QUOTA,
    ),
    # The provider is at capacity; our own limit is not used up.
    Rule(Then.NEXT, Blame.TARGET, frozenset({429}), says="capacity exceeded"),
    # RETRY if it names a time: see _classify_fault.
    Rule(Then.NEXT, Blame.KEY, frozenset({429}), cooldown_s=LIMITED_COOL_S),
    Rule(Then.ASK_ANOTHER, Blame.NOBODY, frozenset({403}), topic=Topic.BLOCKED),
    Rule(
        Then.NEXT,
        Blame.KEY,
        frozenset({401, 402, 403}),
        cooldown_s=KEY_COOL_S,
        cooldown_reason=CooldownReason.REFUSED,
    ),
    Rule(
        Then.NEXT,
        Blame.KEY,
        REFUSALS,
        topic=Topic.ACCOUNT,
        cooldown_s=KEY_COOL_S,
        cooldown_reason=CooldownReason.REFUSED,
    ),
    Rule(Then.NEXT, Blame.TARGET, REFUSALS, topic=Topic.MODEL),
    Rule(Then.NEXT, Blame.TARGET, frozenset({404}), topic=Topic.PATH),
    Rule(Then.ASK_ANOTHER, Blame.NOBODY, REFUSALS),
    Rule(Then.NEXT, Blame.NOBODY, frozenset({413})),
    Rule(Then.NEXT, Blame.HOST, EDGE_STATUSES),
    Rule(Then.RETRY, Blame.TARGET, TRANSIENT_STATUSES),
    Rule(Then.NEXT, Blame.TARGET),  # 529, 498 of a full tier, 408, 3xx
)


def classify(error: Exception) -> Classification:
    """Return the classification of the error that ended an attempt. Raises any other error again."""
    match error:
        case ProviderFault():
            return _classify_fault(error)
        case WireFailure():
            return _classify_wire(error)
        case TimedOut():
            blame = Blame.NOBODY if error.timeout == "deadline" else Blame.TARGET
            late = blame is Blame.TARGET
            return Classification(
                Then.NEXT, blame, f"{error.timeout}_timeout", maybe_billed=True, overload=late
            )
        case Unsupported():
            return Classification(Then.NEXT, Blame.NOBODY, f"unsupported_{error.param}")
    raise error


def _classify_fault(fault: ProviderFault) -> Classification:
    topic = _topic_of(fault)
    status = _status_of(fault, topic)
    if status is None:
        # A 200 without an answer in it. The request may be at fault where a sentence says why.
        unproven = bool(fault.message)
        return Classification(
            Then.NEXT, Blame.TARGET, fault.reason, code=fault.code, maybe_billed=True, unproven=unproven
        )
    rule = next(rule for rule in STATUS_RULES if rule.holds(fault, status, topic))
    retry_after_s = fault.retry_after_s
    floor_s = rule.cooldown_s if rule.codes else 0.0
    cooldown_s = rule.cooldown_s if retry_after_s is None else max(retry_after_s, floor_s)
    cooldown_reason = rule.cooldown_reason if rule.blame is Blame.KEY else CooldownReason.WAITING
    if cooldown_reason is CooldownReason.LIMITED and cooldown_s > QUOTA_ABOVE_S:
        cooldown_reason = CooldownReason.QUOTA
    elif cooldown_reason in (CooldownReason.WAITING, CooldownReason.REFUSED):
        cooldown_s = min(cooldown_s, WAIT_MAX_S)
    limited = rule.blame is Blame.KEY and cooldown_reason is CooldownReason.LIMITED
    return Classification(
        Then.RETRY if limited and retry_after_s is not None else rule.then,
        rule.blame,
        fault.reason,
        cooldown_s=0.0 if rule.blame is Blame.NOBODY else cooldown_s,
        cooldown_reason=cooldown_reason,
        code=fault.code,
        status=status,
        message=fault.message,
        maybe_billed=fault.status is None,  # the answer had begun
        unproven=(rule.topic is not None or status in UNPROVEN or (fault.quoted and fault.status is None))
        and rule.blame is not Blame.NOBODY
        and not names_account(fault),
        overload=_has_no_room(fault, status)
        and cooldown_reason is not CooldownReason.QUOTA
        and rule.blame is not Blame.NOBODY,
    )


def _status_of(fault: ProviderFault, topic: Topic | None) -> int | None:
    """Return the fault's status; inside a 200 the one that its error tells, or means. None: a bad answer."""
    if fault.status is not None:
        return fault.status
    if fault.told_status is not None:
        return fault.told_status
    return STATUS_OF_CODE.get(fault.code) or (STATUS_OF_TOPIC[topic] if topic else None)


def _topic_of(fault: ProviderFault) -> Topic | None:
    """Return what the fault is about. A 404 without a message is that of a wrong address."""
    if fault.status in (None, 429) and never_fits(fault.message):
        return Topic.REQUEST
    topic = topic_of(fault.code, fault.message) if fault.code or fault.message else None
    if topic is None and fault.status == 404 and not fault.message:
        return Topic.PATH
    return topic


def names_account(fault: ProviderFault) -> bool:
    """Return whether the error's own code names the account: no text of a request gets in there."""
    return CODES.get(fault.code) is Topic.ACCOUNT and not fault.quoted


def _has_no_room(fault: ProviderFault, status: int | None) -> bool:
    message = fault.message.lower()
    return status in NO_ROOM_STATUSES or (status == 503 and any(words in message for words in OVERLOADED))


def _classify_wire(failure: WireFailure) -> Classification:
    reason = f"{failure.stage}_{failure.kind}"
    if (
        failure.reused
        and failure.stage in (Stage.SEND, Stage.WAIT)
        and failure.kind in (FailureKind.CLOSED, FailureKind.RESET)
    ):
        return Classification(Then.FRESH, Blame.NOBODY, reason, maybe_billed=failure.sent)
    if failure.stage is Stage.POOL:
        return Classification(Then.NEXT, Blame.NOBODY, reason)
    if failure.kind is FailureKind.LOCAL:  # our own lack
        return Classification(Then.NEXT, Blame.NOBODY, reason, maybe_billed=failure.sent)
    if failure.stage in (Stage.RESOLVE, Stage.CONNECT):
        late = failure.kind is FailureKind.TIMEOUT
        return Classification(Then.NEXT, Blame.HOST, reason, maybe_billed=failure.sent, overload=late)
    then = Then.RETRY if failure.kind in (FailureKind.CLOSED, FailureKind.RESET) else Then.NEXT
    return Classification(then, Blame.TARGET, reason, maybe_billed=failure.sent)
