"""Caller failures: tells a target that fails from a caller whose requests make it fail.

A 500, a cut or a stall can be the work of the request: a tool's schema may crash the server, a prompt may
take too long each time. So each caller has a circuit breaker and an error rate of its own at a target where
it fails. A failure counts there, and there alone, unless

    of the last 10 failures within 60 s, two are those of other callers, or one is that of our own probe
    the callers cannot be told apart: they have no keys, or one key

Then the failures since the last success count for everybody, and so do all later ones. So a target that is
down is left after two more attempts at most. `take_doubt`: when a caller's breaker opens, one probe of our
own settles whose fault it is. Connections that are refused, rate limits and refusals are counted elsewhere.

`busiest`: the caller with most of the overdue, or of the abandoned attempts. They count for it alone.

A caller whose probe of everybody's breaker failed leaves the next probe to others for 3 s: else one that
sends often would be the only one to probe.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence

from dub5.service.model import ANONYMOUS, Caller
from dub5.service.resilience.circuit_breaker import Breaker, BreakerPermit, CallOutcome
from dub5.service.resilience.health import ErrorRateWindow

PROBER = Caller("probe")  # who sends our own probes
LAST, RECENT_S, OTHERS_MIN = 10, 60.0, 2
PROBE_AGAIN_S = 60.0  # between two probes because of callers' own breakers
TURN_S = 3.0
RECORDS_MAX = 100  # of callers at one target


class OwnRecord:
    """A caller's own circuit breaker and error rate at one target. `answered_s`: of its last answer."""

    __slots__ = ("answered_s", "breaker", "error_rate")

    def __init__(self, breaker: Breaker, error_rate: ErrorRateWindow) -> None:
        self.breaker = breaker
        self.error_rate = error_rate
        self.answered_s = 0.0


class OwnPermit:
    """A permit for one attempt from its caller's own record."""

    __slots__ = ("_breaker_permit", "_record", "_stalled")

    def __init__(self, record: OwnRecord, breaker_permit: BreakerPermit) -> None:
        self._record = record
        self._breaker_permit = breaker_permit
        self._stalled = False

    @property
    def probe(self) -> bool:
        """Whether the attempt is a probe of the caller's own breaker."""
        return self._breaker_permit.probe

    def commit(self, now_s: float) -> None:
        """Report the first content of a stream."""
        self._record.answered_s = now_s
        self._breaker_permit.commit(CallOutcome.SUCCESS, now_s)

    def note_stall(self, now_s: float, entered_s: float) -> None:
        """Report that no answer has come for much longer than usual.

        The breaker counts those during which this caller was not answered.
        """
        self._stalled = True
        self._record.error_rate.add(True, now_s)
        if self._record.answered_s <= entered_s:
            self._breaker_permit.note_stall(now_s)

    def end(self, outcome: CallOutcome, now_s: float, not_before_s: float) -> None:
        """Report how the attempt ended."""
        if outcome is CallOutcome.SUCCESS:
            self._record.answered_s = now_s
        if outcome is not CallOutcome.IGNORED and not self._stalled:
            self._record.error_rate.add(outcome is CallOutcome.FAILURE, now_s)
        self._breaker_permit.end(outcome, now_s, not_before_s)


NewRecord = Callable[[str, Callable[[], None]], OwnRecord]


class Failure:
    """One failure. `withheld`: so far it counts against its caller alone."""

    __slots__ = ("at_s", "caller", "withheld")

    def __init__(self, at_s: float, caller: str) -> None:
        self.at_s = at_s
        self.caller = caller
        self.withheld = False


class CallerFailures:
    """The last failures at one target, by caller. Times are loop seconds.

    `new_record`: makes the record of a caller, whose breaker calls its second argument when it opens.
    `told_apart`: there are several callers with keys.
    """

    def __init__(self, new_record: NewRecord, *, told_apart: bool) -> None:
        self.any = False  # there was a failure; until then no other question need be asked
        self.records: dict[str, OwnRecord] = {}  # who has failed last is last
        self._new_record = new_record
        self._told_apart = told_apart
        self._last: deque[Failure] = deque(maxlen=LAST)
        self._abandoned: deque[tuple[float, str]] = deque(maxlen=LAST)
        self._opened = False
        self._probed_s = -PROBE_AGAIN_S
        self._failed_prober = ANONYMOUS.key

    def would_permit(self, caller: Caller, now_s: float) -> bool:
        """Return whether the caller's own breaker permits a call."""
        record = self.records.get(caller.key)
        return record is None or record.breaker.would_permit(now_s)

    def try_acquire(self, caller: Caller, now_s: float) -> OwnPermit | None:
        """Return a permit of the caller's own record, if it has one: `would_permit` has just been asked."""
        record = self.records.get(caller.key)
        breaker_permit = record and record.breaker.try_acquire(now_s)
        return OwnPermit(record, breaker_permit) if record and breaker_permit else None

    def degraded(self, caller: Caller, now_s: float) -> bool:
        """Return whether too many of the caller's calls failed."""
        record = self.records.get(caller.key)
        return record is not None and record.error_rate.degraded(now_s)

    def wait_s(self, caller: Caller, now_s: float) -> float:
        """Return the seconds until the caller's own breaker permits a call."""
        record = self.records.get(caller.key)
        open_ = record is not None and not record.breaker.would_permit(now_s)
        return max(0.0, record.breaker.opened_until_s - now_s) if record and open_ else 0.0

    def late_permit(self, caller: Caller, began_s: float) -> OwnPermit | None:
        """Return a permit for an attempt that began before its caller had a record, which is made now."""
        if not self._told_apart or caller.key == ANONYMOUS.key or caller == PROBER:
            return None
        record = self.records.pop(caller.key, None) or self._new_record(caller.key, self.note_opened)
        self.records[caller.key] = record  # the last one
        if len(self.records) > RECORDS_MAX:
            del self.records[next(iter(self.records))]
        return OwnPermit(record, BreakerPermit(record.breaker, 0, began_s, probe=False))

    def counts_for_all(self, caller: Caller, now_s: float) -> bool:
        """Note a failure. Return whether it counts for everybody."""
        if not self._told_apart or caller.key == ANONYMOUS.key:
            return True
        self.any = True
        while self._last and self._last[0].at_s <= now_s - RECENT_S:
            self._last.popleft()
        failure = Failure(now_s, caller.key)
        self._last += [failure] * (OTHERS_MIN if caller == PROBER else 1)
        failure.withheld = caller != PROBER and not self._others_fail(failure)
        return not failure.withheld

    def busiest(self, callers: Sequence[str]) -> str:
        """Return the caller that occurs most often; "" where callers cannot be told apart."""
        caller = Counter(callers).most_common(1)[0][0] if self._told_apart else ANONYMOUS.key
        return "" if caller == ANONYMOUS.key else caller

    def abandoned_counts_for_all(self, caller: Caller, now_s: float) -> bool:
        """Note an abandoned attempt. Return whether it counts for everybody."""
        if not self._told_apart or caller.key == ANONYMOUS.key:
            return True
        self._abandoned.append((now_s, caller.key))
        recent = [key for at_s, key in self._abandoned if at_s > now_s - RECENT_S]
        return self.busiest(recent) != caller.key

    def release(self) -> bool:
        """Return whether failures that were withheld count for everybody by now."""
        released = [failure for failure in self._last if failure.withheld and self._others_fail(failure)]
        for failure in released:
            failure.withheld = False
        return bool(released)

    def _others_fail(self, failure: Failure) -> bool:
        return sum(other.caller != failure.caller for other in self._last) >= OTHERS_MIN

    def note_opened(self) -> None:
        """Note that a caller's own breaker has opened."""
        self._opened = True

    def take_doubt(self, now_s: float) -> bool:
        """Return whether a probe of our own is due, to settle whose fault it is. It must then be made."""
        due = self._opened and now_s >= self._probed_s + PROBE_AGAIN_S
        if due:
            self._opened, self._probed_s = False, now_s
        return due

    def note_failed_probe(self, caller: Caller) -> None:
        """Note that a probe of everybody's breaker failed."""
        if self._told_apart and caller != PROBER:
            self.any, self._failed_prober = True, caller.key

    def note_recovery(self, now_s: float) -> None:
        """Note that everybody's breaker is closed again: each caller may try at once."""
        for record in self.records.values():
            record.breaker.permit_probe(now_s)
        self._failed_prober = ANONYMOUS.key

    def may_probe(self, caller: Caller, due_s: float, now_s: float) -> bool:
        """Return whether this caller may make the probe that has been due since `due_s`."""
        return caller.key == ANONYMOUS.key or caller.key != self._failed_prober or now_s >= due_s + TURN_S
