"""A permit for one attempt at one target.

commit     the first content of a stream came
end        once, whatever happened: releases what the permit holds, and reports the outcome to the circuit
           breakers, the concurrency limit, the error rate, the key's cool-down and the detectors
"""

from collections.abc import Mapping
from dataclasses import replace

from msgspec import Struct

from dub5.service.events import LimitLowered
from dub5.service.model import Caller, Usage
from dub5.service.providers.quota_left import QuotaHeaders
from dub5.service.resilience.caller_failures import OwnPermit
from dub5.service.resilience.circuit_breaker import SUCCESS, WAITED_S, BreakerPermit, CallOutcome
from dub5.service.resilience.classify import Blame, Classification, Then
from dub5.service.resilience.concurrency_limit import ACCEPTED, DROPPED, UNKNOWN
from dub5.service.resilience.health import Health
from dub5.service.resilience.provider_keys import KeyState, KeyVerdict, ProviderKey, RestCause
from dub5.service.resilience.target import TargetState

DEADLINE = "deadline_timeout"
HEDGE_LOST = "hedge_lost"
LONG_ANSWER = "whole_answer_timeout"
PATIENCE = 2.0  # nothing is slow, or proved by an abandoned attempt, before so many times the usual latency
CLIENT_GAVE_UP = frozenset({"cancelled", DEADLINE})
# Read from here, for it takes twice as long to read a member from its class.
HEALTHY, VALID = Health.HEALTHY, KeyVerdict.VALID


class Permit(Struct, eq=False):
    """A permit for one attempt. Call `end` when it is over, whatever happened; only the first call counts.

    `permit_call` makes it.
    """

    probe: bool
    caller: Caller
    _state: TargetState
    _key: ProviderKey
    _target_permit: BreakerPermit
    _host_permit: BreakerPermit
    _own: OwnPermit | None  # from the caller's own record, if it has one
    _slow_share: float
    _limit_era: int
    _in_flight_then: int
    _entered_s: float
    streams: bool = False  # the answer is to come as a stream
    usual_s: float | None = None  # the target's latency for such requests, as far as it is known
    stalled: bool = False  # it has taken too long, and counts as a failure of its target
    _own_failure: bool | None = None  # it counts there alone; None: it has not failed
    _doubted: Classification | None = None  # a refusal of the key that is not believed
    _waits: bool = True
    _overdue: bool = False
    _slow: bool = False
    _committed: bool = False
    _ended: bool = False

    @property
    def key(self) -> str | None:
        """The provider key to use."""
        return self._key.reveal()

    def commit(
        self, now_s: float, first_token_s: float, timeout_s: float, *, usual_counts: bool = False
    ) -> None:
        """Report the first content of a stream, after `first_token_s` of the `timeout_s` that it may take.

        `usual_counts`: it is slow only where it takes much longer than usual.
        """
        self._slow = first_token_s > timeout_s * self._slow_share
        if self._slow and usual_counts and self.usual_s is not None:
            self._slow = first_token_s > PATIENCE * self.usual_s
        self._state.first_token.observe(first_token_s, now_s)
        self._state.provider.limiter.accepted(self._limit_era)
        self._committed = True
        self._stop_waiting()
        self._state.refusals.since_s = None
        if self._key.state.verdict is not VALID or self._key.refuses_model:
            self._key.state.note_accepted(self._entered_s, self._key)
        self._state.note_answer(self._entered_s, now_s)
        self._note_queue_delay(now_s)
        was_closed = self._state.is_closed
        self._host_permit.end(SUCCESS, now_s)
        self._target_permit.commit(CallOutcome.SLOW if self._slow else SUCCESS, now_s)
        if self._own is not None:
            self._own.commit(now_s)
        if not was_closed:
            self._state.note_recovery(now_s)

    def note_wait(self, now_s: float, interval_s: float) -> bool:
        """Report that no answer has come yet. Return whether the target has stopped to answer at all."""
        state = self._state
        if self.usual_s is not None and now_s - self._entered_s >= self.usual_s and not self._overdue:
            self._overdue = True
            state.overdue.append((self._entered_s, self.caller.key))
        return state.is_mute_to(self.caller, now_s, interval_s)

    def note_mute(self, now_s: float) -> None:
        """Report that no answer has come, to this attempt and to many others: that lowers the health only."""
        if self._state.is_mute_to_all:
            self._state.error_rate.add(True, now_s)
            self._state.health(now_s)

    def note_silence(self, now_s: float, *, late: bool, mute: bool) -> None:
        """Report that no answer has come for much longer than usual. The attempt goes on.

        That counts against the target only where its latency is known: a model that thinks is no failure.
        `late`: hardly any of its answers took as long. One late call lowers its health; its breaker counts
        those during which it has answered nobody.
        """
        self._state.waiting -= self._waits
        self._waits = False
        answers_nobody = mute or self._state.answered_s <= self._entered_s
        self.stalled = self.usual_s is not None and (late or answers_nobody)
        if not self.stalled:
            return
        if self._counts_for_all(now_s):
            self._state.error_rate.add(True, now_s)
            if answers_nobody:
                self._target_permit.note_stall(now_s)
            self._state.health(now_s)
        if self._own is not None:
            self._own.note_stall(now_s, self._entered_s)

    def record_inconclusive(self, now_s: float) -> None:
        """Report an abandoned attempt: before any content, another target answered or the time was up.

        It says nothing if the target answered others meanwhile, or is used to take as long.
        """
        state, waited_s = self._state, now_s - self._entered_s
        usual_s = 0.0 if self.usual_s is None else self.usual_s
        if (
            not self._committed
            and waited_s >= max(WAITED_S, PATIENCE * usual_s)
            and state.answered_s <= self._entered_s
            and state.caller_failures.abandoned_counts_for_all(self.caller, now_s)
        ):
            state.breaker.record_inconclusive()

    def end(self, classification: Classification | None, now_s: float, *, reached: bool) -> None:
        """End the attempt. `classification`: what went wrong, or None if the whole answer came.

        `reached`: the provider sent at least a status, so its host is up.
        """
        if self._ended:
            return
        self._ended = True
        state = self._state
        state.in_flight -= 1
        state.waiting -= self._waits
        self._waits = False
        if self._overdue:
            self._stop_waiting()
        not_before_s = 0.0
        if classification is None:
            outcome = CallOutcome.SLOW if self._slow else SUCCESS
            state.refusals.since_s = None
            if not self._committed:  # the end of a stream that began long ago says nothing of new calls
                state.note_answer(self._entered_s, now_s)
                if self._key.state.verdict is not VALID or self._key.refuses_model:
                    self._key.state.note_accepted(self._entered_s, self._key)
            state.error_rate.add(False, now_s)
            if self._own is not None:
                self._own.end(CallOutcome.SUCCESS, now_s, 0.0)
        else:
            classification, outcome = self._end_failed(classification, now_s)
            not_before_s = now_s + classification.cooldown_s
        was_closed = state.is_closed
        self._target_permit.end(outcome, now_s, not_before_s)
        self._host_permit.end(_host_outcome(classification, reached), now_s, not_before_s)
        if not was_closed:
            state.note_recovery(now_s)
        self._release_limiter(classification, now_s)
        if classification is not None or self._slow or state.reported_health is not HEALTHY:
            state.health(now_s)  # emits an event if it has changed

    def _end_failed(self, classification: Classification, now_s: float) -> tuple[Classification, CallOutcome]:
        """Record a failure, except at the breakers and the limiter. Return what it counts for there."""
        state, key = self._state, self._key
        if classification.unproven:
            classification = self._believed(classification, now_s)
        not_before_s = now_s + classification.cooldown_s
        if classification.cooldown_s > 0 and not_before_s >= key.rests_for(RestCause.CALL):
            # Two refusals may overlap: the later end of the cool-down counts, with its reason.
            key.rest(RestCause.CALL, not_before_s, classification.cooldown_reason)
        if classification.refuses_key:
            key.state.note_refused(now_s, key)
        if self._is_only_long(classification):
            classification = replace(classification, blame=Blame.NOBODY, overload=False)
        if classification.reason == DEADLINE:
            self.record_inconclusive(now_s)
        if classification.overload:
            state.provider.limiter.note_refused(self._in_flight_then)
        if self.probe and classification.blame is Blame.TARGET:
            classification = replace(classification, overload=False)  # it had nothing else to do
        fails = classification.blame is Blame.TARGET and not classification.unproven
        if fails:
            self._counts_for_all(now_s)
        if self._own is not None:
            own_outcome = CallOutcome.FAILURE if fails else CallOutcome.IGNORED
            self._own.end(own_outcome, now_s, not_before_s)
        if self._own_failure:
            # Only a status says that there is no room.
            overload = classification.overload and classification.status is not None
            return replace(classification, blame=Blame.NOBODY, overload=overload), CallOutcome.IGNORED
        if self.stalled and not self._committed:
            classification = replace(classification, overload=True)
        elif classification.blame in (Blame.TARGET, Blame.HOST):
            state.error_rate.add(True, now_s)
        # A canary request that had begun to answer and then lost the race: its target is healthy.
        if self._committed and not self.probe and classification.reason == HEDGE_LOST:
            return classification, CallOutcome.SLOW if self._slow else CallOutcome.SUCCESS
        return classification, _target_outcome(classification, self._slow)

    def _counts_for_all(self, now_s: float) -> bool:
        """Return whether the failure of this attempt counts for everybody. It is noted once."""
        state, failures = self._state, self._state.caller_failures
        if self._target_permit.probe:
            failures.note_failed_probe(self.caller)
            return True
        if self._own_failure is None:
            self._own_failure = not failures.counts_for_all(self.caller, now_s)
            self._own = self._own or failures.late_permit(self.caller, self._entered_s)
            if self._own_failure:
                state.breaker.withhold_failure()
            if failures.release():
                state.count_withheld(now_s)
        return not self._own_failure

    def _stop_waiting(self) -> None:
        state = self._state
        state.waiting -= self._waits
        if self._overdue:
            state.overdue.remove((self._entered_s, self.caller.key))
        self._waits = self._overdue = False

    def _note_queue_delay(self, now_s: float, *, unanswered: bool = False) -> None:
        """Report the latency of an answer, or of a wait without one; where a queue stands, lower the limit.

        An attempt from before the last decrease waited in the queue of that time, so its latency is not
        counted.
        """
        state, limiter = self._state, self._state.provider.limiter
        detector, took_s = state.stream_delay if self.streams else state.whole_delay, now_s - self._entered_s
        if (
            self._limit_era == limiter.era
            and detector.note(
                took_s, self._in_flight_then, now_s, usual_s=self.usual_s, unanswered=unanswered
            )
            and state.newest_answered_s <= self._entered_s + took_s / 2  # else others need not queue
        ):
            before = int(limiter.limit)
            if limiter.decrease(limiter.in_flight, now_s):
                name, after = state.provider.name, int(limiter.limit)
                self._state.events.emit(LimitLowered(name, before, after, "backlog"))

    def _release_limiter(self, classification: Classification | None, now_s: float) -> None:
        limiter = self._state.provider.limiter
        if classification is None:
            # A stream was accepted when it began.
            load = UNKNOWN if self._committed else ACCEPTED
            if not self._committed:
                self._note_queue_delay(now_s)
        else:
            if not self._committed and classification.reason in CLIENT_GAVE_UP and not self._own_failure:
                self._note_queue_delay(now_s, unanswered=True)
            load = DROPPED if classification.overload else UNKNOWN
        before = limiter.limit
        if limiter.release(self._limit_era, load, now_s):
            name, why = self._state.provider.name, classification.reason if classification else ""
            self._state.events.emit(LimitLowered(name, int(before), int(limiter.limit), why))

    def _is_only_long(self, classification: Classification) -> bool:
        """Return whether the target gave answers while this one took too long: it is long, not stalled."""
        return classification.reason == LONG_ANSWER and self._state.answered_s > self._entered_s

    def _believed(self, classification: Classification, now_s: float) -> Classification:
        """Return what a doubtful refusal counts for: nothing, as long as one request may have caused it."""
        if self._state.refusals.counts(self.caller, now_s):
            return classification
        if classification.blame is Blame.KEY:
            self._doubted = classification
        return replace(classification, then=Then.ASK_ANOTHER, blame=Blame.NOBODY, cooldown_s=0.0)

    @property
    def key_state(self) -> KeyState:
        """What is known of the key."""
        return self._key.state

    def note_quota(self, names: tuple[QuotaHeaders, ...], headers: Mapping[str, str], now_s: float) -> None:
        """Report the headers of a good response, which may say what is left of the key's limits."""
        self._key.note_quota(names, headers, self._state.usual_needs, self._entered_s, now_s)

    def note_usage(self, usage: Usage) -> None:
        """Report the tokens that a whole answer took. They matter only where the provider names limits."""
        self._state.note_usage(usage)

    @property
    def doubted_key(self) -> ProviderKey | None:
        """The key, if it was refused, but that is not believed."""
        return self._key if self._doubted else None

    def believe(self, now_s: float) -> None:
        """Report that another key of this target took the request: the doubted refusal was the key's."""
        doubted = self._doubted
        if doubted is not None and self._key.cooldown_until_s <= now_s:
            self._key.rest(RestCause.CALL, now_s + doubted.cooldown_s, doubted.cooldown_reason)
            if doubted.refuses_key:
                self._key.state.note_refused(now_s, self._key)

    def contradict(self, caller: Caller | None, now_s: float) -> None:
        """Report that another target took the request that this one refused.

        `caller`: who sent it; None for a request of our own, which is in order.
        """
        state = self._state
        if caller is not None and not state.refusals.counts(caller, now_s):
            return
        state.error_rate.add(True, now_s)
        self._target_permit.contradict(now_s)
        state.health(now_s)


def permit_call(
    state: TargetState,
    key: ProviderKey,
    target_permit: BreakerPermit,
    host_permit: BreakerPermit,
    own: OwnPermit | None,
    caller: Caller,
    slow_share: float,
) -> Permit:
    """Take a place at the target and its provider. Return the permit, whose end gives it back."""
    limiter = state.provider.limiter
    era = limiter.acquire()
    state.in_flight += 1
    state.waiting += 1
    return Permit(
        target_permit.probe or host_permit.probe or (own is not None and own.probe),
        caller,
        state,
        key,
        target_permit,
        host_permit,
        own,
        slow_share,
        era,
        limiter.in_flight,
        state.last_asked_s,
    )


def _target_outcome(classification: Classification, slow: bool) -> CallOutcome:
    """Return the outcome for the target: one that finds a request too large is up; a refusal says nothing."""
    if classification.then is Then.ASK_ANOTHER:
        return CallOutcome.IGNORED  # until another target contradicts it
    if classification.blame is Blame.NOBODY and classification.status is not None:
        return CallOutcome.SLOW if slow else CallOutcome.SUCCESS
    return CallOutcome.FAILURE if classification.blame is Blame.TARGET else CallOutcome.IGNORED


def _host_outcome(classification: Classification | None, reached: bool) -> CallOutcome:
    """Return the outcome for the host: any status proves it up, unless an edge in front reports it down."""
    if classification is not None and classification.blame is Blame.HOST:
        return CallOutcome.FAILURE
    return SUCCESS if reached else CallOutcome.IGNORED
