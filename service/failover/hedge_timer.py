"""Hedge timer: starts the hedge of the attempt at one target, if the attempt still needs one when it fires.

schedule       the reasons `slow` and `late`, each after its delay
on_silence     the reason `silent`, called by the attempt; asked again while it cannot be had
"""

import asyncio
from collections.abc import Callable, Sequence

from msgspec import Struct

from dub5.service import clock
from dub5.service.events import Events, Hedged
from dub5.service.failover.attempt import Attempt, has_time
from dub5.service.failover.context import Dependencies, RequestContext
from dub5.service.failover.hedging import LATE, SILENT, hedge_delays_s, hedge_target
from dub5.service.model import Target
from dub5.service.resilience.retry import BudgetCharge
from dub5.service.timeouts import Timeouts

ASK_AGAIN_S = 1.0  # after a silent target could not be hedged


class HedgeTimer(Struct, eq=False):
    """The hedge of the attempt at `target`. `start` asks other targets in parallel, in this order."""

    _dependencies: Dependencies
    _context: RequestContext
    _timeouts: Timeouts
    _target: Target
    _rest: Sequence[Target]
    _start: Callable[[list[Target], BudgetCharge], None]
    attempt: Attempt | None = None  # the current one; retries come after it
    _started: bool = False
    _asks_again: bool = False  # a timer does, for the reason `silent`
    _handles: list[asyncio.TimerHandle] = []

    def schedule(self, now_s: float) -> None:
        """Hedge the attempt when it becomes slow or late."""
        context, left_s = self._context, self._timeouts.deadline_s - now_s
        hedges, options, stream = self._dependencies.hedges, context.timeout_options, context.request.stream
        delays_s = hedge_delays_s(hedges, self._target, context.latency_class, stream, options, left_s)
        for why, delay_s in delays_s.items():
            self._start_later(delay_s, why)

    def on_silence(self) -> None:
        """Hedge the attempt now: its target is silent."""
        if not self._asks_again:
            self._start_if_needed(SILENT)

    def close(self) -> None:
        """Remove the timers: the attempts at this target are over."""
        for handle in self._handles:
            handle.cancel()

    def _start_later(self, delay_s: float, why: str) -> None:
        call_later = asyncio.get_running_loop().call_later
        self._handles.append(call_later(delay_s, self._start_if_needed, why))

    def _start_if_needed(self, why: str) -> None:
        now_s, attempt = clock.now(), self.attempt
        if why == SILENT:
            self._asks_again = False
        hedges, fleet = self._dependencies.hedges, self._dependencies.fleet
        caller = self._context.request.caller
        began = attempt is not None and attempt.first_token_s is not None
        if self._started or not has_time(self._timeouts, now_s) or (began and why != LATE):
            return  # a stream that is held until it is whole may take long, and still begin as soon as usual
        other, free = hedge_target(fleet, self._target, self._rest, why, now_s, caller)
        if why == SILENT:
            free = free and self._is_stalled(now_s)
        within_share = free or why == LATE or hedges.may_send(now_s, least=why == SILENT)
        if other is None or not within_share or not (free or fleet.withdraw(other, now_s)):
            if why == SILENT:
                self._asks_again = True
                self._start_later(ASK_AGAIN_S, why)
            return
        if why != LATE:
            hedges.note_hedge(now_s)
        emit_hedged(self._dependencies.events, self._context, self._target, why)
        # The other models of the same provider may be as slow: they go last.
        others = (o for o in self._rest if o is not other)
        targets = [other, *sorted(others, key=lambda o: o.provider == self._target.provider)]
        self._started = True
        self._start(targets, BudgetCharge.DEPOSIT if free else BudgetCharge.NONE)

    def _is_stalled(self, now_s: float) -> bool:
        """Return whether a silent target has answered nobody meanwhile, or is not healthy."""
        attempt, fleet = self.attempt, self._dependencies.fleet
        answers = attempt is not None and fleet.answered_since(self._target, attempt.started_s)
        return not (answers and fleet.is_healthy(self._target, now_s))


def emit_hedged(events: Events, context: RequestContext, target: Target, why: str) -> None:
    """Emit that a second target is asked in parallel with this one."""
    events.emit(Hedged(context.request.id, context.route, target.name, why))
