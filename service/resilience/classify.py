"""What a failure means: decided here, once, for retry, breaker, cool-down, metrics and the client's error alike.

WireFailure | ProviderFault | TimedOut | Unsupported --classify--> Classification(then, blame, cool_s, reason)
"""

from dataclasses import dataclass
from enum import StrEnum

from dub5.service.providers.base import ProviderFault, Unsupported
from dub5.service.timeouts import TimedOut
from dub5.service.wire.base import FailureKind, Stage, WireFailure


class Then(StrEnum):
    """What follows."""

    FRESH = "fresh"  # once more, on a new connection: the old one was stale
    RETRY = "retry"  # once more here, if it may (backoff), else the next target
    NEXT = "next"  # the next target
    GIVE_UP = "give_up"  # nobody else would do better


class Blame(StrEnum):
    """Whom it counts against."""

    TARGET = "target"
    HOST = "host"
    KEY = "key"
    NOBODY = "nobody"


class CooldownReason(StrEnum):
    """Why a key is left alone for a while, as the trail says it."""

    LIMITED = "cooling_down"
    WAITING = "retry_after"  # a Retry-After that came with something else than a limit
    QUOTA = "quota_used_up"
    REFUSED = "key_refused"


@dataclass(frozen=True, slots=True)
class Classification:
    """The one reading of a failure. `cooldown_s`: so long nobody asks this target with this key, because of `cooldown_reason`.
    `overload`: the provider had no room, so it is given less (limiter)."""

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


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: the first whose conditions all hold is taken."""

    then: Then
    blame: Blame
    statuses: frozenset[int] = frozenset()
    codes: frozenset[str] = frozenset()
    says: str = ""  # somewhere in its message
    cooldown_s: float = 0.0  # where the provider did not say; at least so long where it is a quota
    cooldown_reason: CooldownReason = CooldownReason.LIMITED

    def holds(self, fault: ProviderFault, status: int | None) -> bool:
        """Whether this row speaks of the fault. Inside a 200 the code alone must do."""
        in_a_200 = status is None and bool(self.codes)
        return (
            (not self.statuses or in_a_200 or status in self.statuses)
            and (not self.codes or fault.code in self.codes)
            and self.says in fault.message
        )


CONTEXT_CODES = frozenset({"context_length_exceeded", "model_context_window_exceeded"})
FILTER_CODES = frozenset({"content_filter", "content_policy_violation"})
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
EDGE_STATUSES = frozenset({*range(520, 528), 530})  # Cloudflare speaking for an origin it cannot reach
TRANSIENT_STATUSES = frozenset({500, 502, 503, 504})  # may be over at once
NO_ROOM_STATUSES = frozenset({429, 498, 529})
OVERLOADED = ("overloaded", "capacity exceeded", "slow down")  # said with a 503 by who is up, and has no room
SAID_INSIDE = frozenset(
    {*map(str, (401, 402, 403, 408, 429, 498)), *map(str, range(500, 600))}
)  # as an error's code
QUOTA_COOL_S = 3600.0
QUOTA_ABOVE_S = 600.0  # whoever says to come back later than this has no rate limit in mind
LIMITED_COOL_S = 5.0
KEY_COOL_S = 60.0

STATUS_RULES = (
    Rule(Then.NEXT, Blame.NOBODY, codes=CONTEXT_CODES),  # another target may have a larger window
    Rule(Then.GIVE_UP, Blame.NOBODY, codes=FILTER_CODES),  # never routed around
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
    Rule(Then.NEXT, Blame.NOBODY, frozenset({429}), says="Request too large"),  # would never succeed here
    Rule(
        Then.NEXT, Blame.TARGET, frozenset({429}), says="capacity exceeded"
    ),  # theirs is full, not ours used up
    Rule(Then.NEXT, Blame.KEY, frozenset({429}), cooldown_s=LIMITED_COOL_S),
    Rule(
        Then.NEXT,
        Blame.KEY,
        frozenset({401, 402, 403}),
        cooldown_s=KEY_COOL_S,
        cooldown_reason=CooldownReason.REFUSED,
    ),
    Rule(Then.GIVE_UP, Blame.NOBODY, frozenset({400, 422})),
    Rule(Then.NEXT, Blame.NOBODY, frozenset({413})),
    Rule(Then.NEXT, Blame.HOST, EDGE_STATUSES),
    Rule(Then.RETRY, Blame.TARGET, TRANSIENT_STATUSES),
    Rule(Then.NEXT, Blame.TARGET),  # 529, 498 of a full tier, 404 of a model that is gone, 408, 3xx
)
CODE_RULES = tuple(rule for rule in STATUS_RULES if rule.codes)  # these hold inside a 200 as well


def classify(error: Exception) -> Classification:
    """The verdict on whatever ended an attempt."""
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
    status = int(fault.code) if fault.status is None and fault.code in SAID_INSIDE else fault.status
    if status is None and not any(rule.holds(fault, None) for rule in CODE_RULES):
        # A 200 that was no answer.
        return Classification(Then.NEXT, Blame.TARGET, fault.reason, maybe_billed=True)
    rule = next(rule for rule in STATUS_RULES if rule.holds(fault, status))
    said = fault.retry_after_s
    floor_s = rule.cooldown_s if rule.codes else 0.0
    cooldown_s = rule.cooldown_s if said is None else max(said, floor_s)
    cooldown_reason = rule.cooldown_reason if rule.blame is Blame.KEY else CooldownReason.WAITING
    if cooldown_reason is CooldownReason.LIMITED and cooldown_s > QUOTA_ABOVE_S:
        cooldown_reason = CooldownReason.QUOTA
    limited = rule.blame is Blame.KEY and cooldown_reason is CooldownReason.LIMITED
    return Classification(
        Then.RETRY if limited and said is not None else rule.then,
        rule.blame,
        fault.reason,
        cooldown_s=0.0 if rule.blame is Blame.NOBODY else cooldown_s,
        cooldown_reason=cooldown_reason,
        code=fault.code,
        status=fault.status,
        message=fault.message,
        maybe_billed=fault.status is None,  # it had begun
        overload=_has_no_room(fault, status)
        and cooldown_reason is not CooldownReason.QUOTA
        and rule.blame is not Blame.NOBODY,
    )


def _has_no_room(fault: ProviderFault, status: int | None) -> bool:
    said = fault.message.lower()
    return status in NO_ROOM_STATUSES or (status == 503 and any(words in said for words in OVERLOADED))


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
    if failure.stage in (Stage.RESOLVE, Stage.CONNECT):
        late = failure.kind is FailureKind.TIMEOUT
        return Classification(Then.NEXT, Blame.HOST, reason, maybe_billed=failure.sent, overload=late)
    then = Then.RETRY if failure.kind in (FailureKind.CLOSED, FailureKind.RESET) else Then.NEXT
    return Classification(then, Blame.TARGET, reason, maybe_billed=failure.sent)
