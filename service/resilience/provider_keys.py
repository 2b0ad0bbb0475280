"""Keys of providers: what is known of each one, and why it rests at a target.

KeyState      a key of a provider: valid or refused, by checks and calls; one object for all its targets
ProviderKey   the same key at one target: its rests, each with a cause of its own

cause    begins with                                 ends at                        as the last resort
call     a refusal: 429, 401, quota ...              Retry-After, or a default      no
check    GET models that says 401                    a check or a call that is good yes
quota    a header that says: nothing is left         the reset that it names        yes
budget   the day's spending limit of the provider    midnight UTC                   no
"""

import hashlib
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

from dub5.service import clock
from dub5.service.config.settings import Secret
from dub5.service.events import Events, KeyStateChanged
from dub5.service.providers.quota_left import QuotaHeaders, QuotaLeft, has_room, quota_left
from dub5.service.resilience.classify import QUOTA_ABOVE_S, CooldownReason

LABEL_CHARS = 8


class KeyVerdict(StrEnum):
    """What is known of a key."""

    UNKNOWN = "unknown"  # neither a call nor a check has told yet
    VALID = "valid"
    REFUSED = "refused"


class RestCause(StrEnum):
    """Why a key rests at a target."""

    CALL = "call"
    CHECK = "check"
    QUOTA = "quota"
    BUDGET = "budget"


FORECASTS = frozenset({RestCause.CHECK, RestCause.QUOTA})  # no call was refused: usable as the last resort


class _Rest(NamedTuple):
    until_s: float
    reason: CooldownReason


def key_label(key: str) -> str:
    """Return what stands for a key in logs, metrics and /status: eight digits of its hash."""
    return hashlib.sha256(key.encode()).hexdigest()[:LABEL_CHARS]


class KeyState:
    """What is known of one key of a provider. Emits KeyStateChanged, once for each change.

    `on_refused`: called when a call was refused, so that a check can say whether the key is to blame.
    Times are loop seconds.
    """

    __slots__ = (
        "_events",
        "_retired",
        "at_targets",
        "checked_at_s",
        "confirmed",
        "label",
        "misleading",
        "on_refused",
        "provider",
        "refused_since_s",
        "secret",
        "verdict",
    )

    def __init__(self, provider: str, secret: Secret | None, events: Events) -> None:
        self.provider = provider
        self.secret = secret
        self.label = key_label(secret.reveal()) if secret else ""
        self.verdict = KeyVerdict.UNKNOWN
        self.at_targets: list[ProviderKey] = []
        self.checked_at_s: float | None = None
        self.refused_since_s: float | None = None
        self.confirmed = False  # a check has refused it, too
        self.misleading = (
            False  # a call was taken although a check had refused it: its list is of other rights
        )
        self.on_refused: Callable[[], None] | None = None
        self._retired = False
        self._events = events

    def note_accepted(self, began_s: float, at: "ProviderKey") -> None:
        """Record that a call that began then was taken. One from before a refusal says nothing.

        It contradicts the targets that refuse the key at this moment: what they refuse is their own model.
        """
        if self.refused_since_s is None or began_s > self.refused_since_s:
            self.misleading = self.confirmed
            for key in self.at_targets:
                key.refuses_model = key is not at and key.refused_until_s > began_s
            self._become(KeyVerdict.VALID, "call")

    def note_refused(self, now_s: float, at: "ProviderKey") -> None:
        """Record that a call was refused for the key itself."""
        if at.refuses_model:
            return
        self._become(KeyVerdict.REFUSED, "call", now_s)
        if self.on_refused is not None and not self._retired:
            self.on_refused()

    def note_check(self, *, refused: bool, now_s: float, rest_until_s: float) -> None:
        """Record what a check has found; a refused key rests until then at all targets.

        A list of models that calls contradict proves little: it ends only a refusal that it has confirmed.
        """
        self.misleading = self.misleading and refused
        if self.misleading:
            return
        if refused:
            self.confirmed = True
            self.rest(RestCause.CHECK, rest_until_s, CooldownReason.REFUSED)
            self._become(KeyVerdict.REFUSED, "check", now_s)
        elif self.verdict is not KeyVerdict.REFUSED or self.confirmed:
            self._become(KeyVerdict.VALID, "check")

    def retire(self) -> None:
        """Report that the settings do not name it any more: what its last calls bring is of no interest."""
        if self.verdict is KeyVerdict.REFUSED:
            self._become(KeyVerdict.UNKNOWN, "reload")
        self._retired = True

    def rest(self, cause: RestCause, until_s: float, reason: CooldownReason) -> None:
        """Rest at all targets of the provider until then."""
        for key in self.at_targets:
            key.rest(cause, until_s, reason)

    def lift(self, cause: RestCause) -> None:
        """End the rest that this cause began, at all targets."""
        for key in self.at_targets:
            key.lift(cause)

    def _become(self, verdict: KeyVerdict, by: str, now_s: float | None = None) -> None:
        if verdict is self.verdict:
            return
        before, self.verdict, self.refused_since_s = self.verdict, verdict, now_s
        if verdict is KeyVerdict.VALID:
            self.confirmed = False
            self.lift(RestCause.CHECK)
            for key in self.at_targets:
                key.end_refusal()
        else:
            for key in self.at_targets:
                key.refuses_model = False
        if self.secret is not None and not self._retired:
            self._events.emit(KeyStateChanged(self.provider, self.label, before, verdict, by))


class ProviderKey:
    """One of a provider's keys at one target, with its cool-down: the longest of its rests."""

    __slots__ = (
        "_rests",
        "cooldown_reason",
        "cooldown_until_s",
        "quota_at_s",
        "quota_source",
        "refuses_model",
        "state",
    )

    def __init__(self, state: KeyState) -> None:
        self.state = state
        self.cooldown_until_s = 0.0
        self.cooldown_reason = CooldownReason.LIMITED
        # The headers of the last response that said what is left of limits, and when that was.
        self.quota_source: tuple[tuple[QuotaHeaders, ...], Mapping[str, str]] | None = None
        self.quota_at_s = 0.0
        self.refuses_model = False  # it was refused here while another target took it
        self._rests: dict[RestCause, _Rest] = {}

    def reveal(self) -> str | None:
        """Return the key as it is sent, or None where no key is needed."""
        secret = self.state.secret
        return secret.reveal() if secret else None

    def rest(self, cause: RestCause, until_s: float, reason: CooldownReason) -> None:
        """Rest until then. It replaces what this cause has said before."""
        self._rests[cause] = _Rest(until_s, reason)
        self._settle()

    def lift(self, cause: RestCause) -> None:
        """End the rest that this cause began, if there is one."""
        if self._rests.pop(cause, None) is not None:
            self._settle()

    @property
    def quota(self) -> list[QuotaLeft]:
        """What is left of the limits, as the last response said."""
        return [] if self.quota_source is None else quota_left(*self.quota_source)

    def note_quota(
        self,
        names: tuple[QuotaHeaders, ...],
        headers: Mapping[str, str],
        needs: Mapping[str, float],
        began_s: float,
        now_s: float,
    ) -> None:
        """Read what a good response says is left of limits; rest until the reset where these needs are more.

        `began_s`: when the call began whose answer says so. Only a later call can say that there is more.
        """
        room = has_room(names, headers, needs)
        if room is None:
            return
        before_s, self.quota_source, self.quota_at_s = self.quota_at_s, (names, headers), now_s
        if not room:
            self._rest_until_reset(needs, now_s)
        elif RestCause.QUOTA in self._rests and began_s >= before_s:
            self.lift(RestCause.QUOTA)

    def _rest_until_reset(self, needs: Mapping[str, float], now_s: float) -> None:
        wall = clock.wall()
        resets = [one.reset_s(wall) for one in self.quota if one.left < needs[one.what]]
        wait_s = max((reset_s for reset_s in resets if reset_s is not None), default=0.0)
        if wait_s:
            reason = CooldownReason.QUOTA if wait_s > QUOTA_ABOVE_S else CooldownReason.LIMITED
            self.rest(RestCause.QUOTA, max(self.rests_for(RestCause.QUOTA), now_s + wait_s), reason)

    def end_refusal(self) -> None:
        """End the cool-down of a refusal by a call, except of its model: the key is good again."""
        if self.refused_until_s and not self.refuses_model:
            self.lift(RestCause.CALL)

    @property
    def refused_until_s(self) -> float:
        """Until when a refusal by a call has it rest; 0 if none has."""
        rest = self._rests.get(RestCause.CALL)
        return rest.until_s if rest is not None and rest.reason is CooldownReason.REFUSED else 0.0

    def rests_for(self, cause: RestCause) -> float:
        """Return until when this cause has it rest; 0 if it does not."""
        rest = self._rests.get(cause)
        return rest.until_s if rest else 0.0

    def usable_from_s(self) -> float:
        """Return from when it may be used as the last resort: forecasts do not count."""
        return max(
            (rest.until_s for cause, rest in self._rests.items() if cause not in FORECASTS), default=0.0
        )

    def doubts(self, now_s: float) -> tuple[float, bool, float]:
        """Return what speaks against it as the last resort; the least of several keys is used.

        A limit that is said to be used up may have room for one more; a check that was refused hardly errs.
        """
        usable_from_s = self.usable_from_s()
        return max(now_s, usable_from_s), self.rests_for(RestCause.CHECK) > now_s, self.cooldown_until_s

    def _settle(self) -> None:
        longest = max(self._rests.values(), default=_Rest(0.0, CooldownReason.LIMITED))
        self.cooldown_until_s, self.cooldown_reason = longest
