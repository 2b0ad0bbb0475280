"""Leave for one try at one target: what it took is given back when it ends, and the target's guards hear how it went.

commit     the first content of a stream came
end        once, whatever happened
"""

from dataclasses import replace

from dub5.service.events import LimitLowered
from dub5.service.resilience.circuit_breaker import WAITED_S, End, Permit
from dub5.service.resilience.classify import FILTER_CODES, Blame, Then, Verdict
from dub5.service.resilience.concurrency_limit import Load
from dub5.service.resilience.health import Health
from dub5.service.resilience.target import Entry, Key

BAD_REQUEST = frozenset({400, 422})
DEADLINE = "deadline_timeout"
GAVE_UP = frozenset({"cancelled", DEADLINE})  # the client did


class Pass:
    """Leave for one try. `end` must be called when it is over, whatever happened; only the first call counts."""

    __slots__ = (
        "_busy",
        "_committed",
        "_entered_s",
        "_entry",
        "_host",
        "_key",
        "_limit_era",
        "_over",
        "_slow",
        "_slow_of_clock",
        "_target",
        "probe",
        "streams",
    )

    def __init__(self, entry: Entry, key: Key, target: Permit, host: Permit, slow_of_clock: float) -> None:
        self.probe = target.probe or host.probe
        self._entry = entry
        self._slow_of_clock = slow_of_clock
        self._key = key
        self._target = target
        self._host = host
        self._slow = self._over = self._committed = False
        self.streams = False  # the answer is to come as a stream
        self._entered_s = entry.asked_s
        self._limit_era = entry.provider.limiter.enter()
        self._busy = entry.provider.limiter.in_flight
        entry.in_flight += 1

    @property
    def key(self) -> str | None:
        """The provider key to use."""
        return self._key.reveal()

    def commit(self, now_s: float, first_token_s: float, clock_s: float) -> None:
        """The first content of a stream came, after so long; its clock would have waited for `clock_s`."""
        self._slow = first_token_s > clock_s * self._slow_of_clock
        self._entry.first_token.observe(first_token_s, now_s)
        self._entry.provider.limiter.taken()
        self._committed = True
        self._note_backlog(now_s)
        was_well = self._entry.is_closed
        self._host.end(End.SUCCESS, now_s)
        self._target.commit(End.SLOW if self._slow else End.SUCCESS, now_s)
        if not was_well:
            self._entry.note_recovery()

    def doubt(self, now_s: float) -> None:
        """Nothing came for so long that another one answered, or that the time was up."""
        if not self._committed and now_s - self._entered_s >= WAITED_S:
            self._entry.breaker.doubt()

    def end(self, verdict: Verdict | None, now_s: float, *, reached: bool) -> None:
        """The try is over: None if it gave its whole answer, else what went wrong. `reached`: the provider sent
        at least a status, so its host is up."""
        if self._over:
            return
        self._over = True
        entry = self._entry
        entry.in_flight -= 1
        not_before_s = now_s + verdict.cool_s if verdict else 0.0
        if verdict is None:
            entry.burst.record(refused=False, now_s=now_s)
        elif verdict.cool_s > 0 and not_before_s >= self._key.cool_until_s:
            # Two refusals may cross: the later end of the cool-down holds, and its reason.
            self._key.cool_until_s = not_before_s
            self._key.rest = verdict.rest
        if verdict is not None and verdict.reason == DEADLINE:
            self.doubt(now_s)
        if verdict is None or verdict.blame in (Blame.TARGET, Blame.HOST):
            entry.record.add(verdict is not None, now_s)
        was_well = entry.is_closed
        # A trial that had begun to answer, and whose answer nobody needs: it is well all the same.
        began = self._committed and not self.probe and verdict is not None and verdict.reason == "outrun"
        self._target.end(_target_end(None if began else verdict, self._slow), now_s, not_before_s)
        self._host.end(_host_end(verdict, reached), now_s, not_before_s)
        if not was_well:
            entry.note_recovery()
        self._leave_limiter(verdict, now_s)
        if verdict is not None or self._slow or entry.told is not Health.HEALTHY:
            entry.health(now_s)  # tells of a change

    def _note_backlog(self, now_s: float, *, in_vain: bool = False) -> None:
        """Its answer is here, or begins, or was waited for in vain. If it was sent before the limit was lowered last it
        waited in the line of then: no news."""
        entry, limiter = self._entry, self._entry.provider.limiter
        backlog, took_s = entry.streams if self.streams else entry.whole, now_s - self._entered_s
        if self._limit_era == limiter.era and backlog.note(took_s, self._busy, now_s, in_vain=in_vain):
            before = int(limiter.limit)
            if limiter.lower(limiter.in_flight, now_s):
                name, after = entry.provider.name, int(limiter.limit)
                self._entry.events.emit(LimitLowered(name, before, after, "backlog"))

    def _leave_limiter(self, verdict: Verdict | None, now_s: float) -> None:
        limiter = self._entry.provider.limiter
        if verdict is None:
            load = Load.UNKNOWN if self._committed else Load.TAKEN  # a stream was taken when it began
            if not self._committed:
                self._note_backlog(now_s)
        else:
            if not self._committed and verdict.reason in GAVE_UP:
                self._note_backlog(now_s, in_vain=True)
            load = Load.DROPPED if verdict.overload else Load.UNKNOWN
        before = int(limiter.limit)
        if limiter.leave(self._limit_era, load, now_s):
            why = verdict.reason if verdict else ""
            self._entry.events.emit(LimitLowered(self._entry.provider.name, before, int(limiter.limit), why))

    def reconsider(self, verdict: Verdict, now_s: float) -> Verdict:
        """The verdict, or another one if this target refuses what it took a minute ago."""
        if verdict.then is not Then.GIVE_UP or verdict.status not in BAD_REQUEST:
            return verdict
        if verdict.code in FILTER_CODES:
            return verdict  # never routed around
        if self._entry.burst.record(refused=True, now_s=now_s):
            return replace(verdict, then=Then.NEXT, blame=Blame.TARGET)
        return verdict


def _target_end(verdict: Verdict | None, slow: bool) -> End:
    """A caller's own 400 proves that the target is alive; a client that left proves nothing."""
    if verdict is None or (verdict.blame is Blame.NOBODY and verdict.status is not None):
        return End.SLOW if slow else End.SUCCESS
    return End.FAILURE if verdict.blame is Blame.TARGET else End.IGNORED


def _host_end(verdict: Verdict | None, reached: bool) -> End:
    """Whoever sent a status is up, whatever it said, unless an edge in front said that its host is not."""
    if verdict is not None and verdict.blame is Blame.HOST:
        return End.FAILURE
    return End.SUCCESS if reached else End.IGNORED
