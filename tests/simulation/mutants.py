"""Mutants: builds of the service that are broken on purpose, to prove that the simulation can fail.

Each is a context manager. Run one with:

    dub5 simulate --mutant tests.simulation.mutants:budget_ignored
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any
from unittest import mock

from msgspec.structs import replace

from dub5.service import clock, errors, single_flight, timeouts
from dub5.service.admission import wait_queue as line
from dub5.service.admission.rate_limit import LimitUsage, Penalties, SlidingLog, _Penalty
from dub5.service.admission.rate_limit_gate import Counted, Passage, RateLimitGate
from dub5.service.admission.sessions import Session
from dub5.service.api import chat
from dub5.service.app import Service
from dub5.service.cache import cache
from dub5.service.cache.key import CacheKey
from dub5.service.cache.replay import RecordingStream, assemble
from dub5.service.config.options import TimeoutOptions
from dub5.service.config.settings import LoadedSettings
from dub5.service.errors import StreamCut
from dub5.service.failover import attempt as tries
from dub5.service.failover import hedge_timer, loop
from dub5.service.failover import race as legs
from dub5.service.failover import target_attempts as target_tries
from dub5.service.failover.attempt import CANCELLED, Attempt, StreamedAnswer
from dub5.service.failover.context import RequestContext
from dub5.service.failover.prober import Prober
from dub5.service.fallback.fallback import Fallbacks
from dub5.service.gateway import Answer, Route
from dub5.service.model import AnyRequest, Caller, ChatRequest, Chunk, Target
from dub5.service.resilience import permit as permits
from dub5.service.resilience.caller_failures import CallerFailures
from dub5.service.resilience.circuit_breaker import Breaker
from dub5.service.resilience.classify import REFUSALS, Classification, Then, classify
from dub5.service.resilience.fleet import Fleet
from dub5.service.resilience.permit import Permit
from dub5.service.resilience.refusals import Refusals
from dub5.service.resilience.retry_budget import RetryBudget
from dub5.service.resilience.target import TargetState
from dub5.service.timeouts import CutShort, TimedOut, Timeouts


@contextlib.contextmanager
def permit_kept_on_cancel() -> Iterator[None]:
    """Never release the permit of a cancelled attempt."""
    whole = Permit.end

    def end(self: Permit, classification: Classification | None, now_s: float, *, reached: bool) -> None:
        if classification is not CANCELLED:
            whole(self, classification, now_s, reached=reached)

    with mock.patch.object(Permit, "end", end):
        yield


@contextlib.contextmanager
def first_refusal_believed() -> Iterator[None]:
    """Blame the target or its key for the first refusal, whoever's request it was."""
    with mock.patch.object(Refusals, "counts", lambda self, caller, now_s: True):
        yield


@contextlib.contextmanager
def own_failures_counted() -> Iterator[None]:
    """Count each failure for everybody, though one caller's requests alone cause them."""
    with mock.patch.object(CallerFailures, "counts_for_all", lambda self, caller, now_s: True):
        yield


@contextlib.contextmanager
def first_refusal_final() -> Iterator[None]:
    """Tell the caller the first 400, 404 or 422, whatever it says, and ask nobody else."""

    def final(error: Exception) -> Classification:
        classification = classify(error)
        refused = classification.status in REFUSALS
        return dataclasses.replace(classification, then=Then.GIVE_UP) if refused else classification

    with mock.patch.object(tries, "classify", final):
        yield


@contextlib.contextmanager
def retry_after_commit() -> Iterator[None]:
    """Resume a stream that breaks off from the same target, as if nothing had been sent."""
    whole: Callable[[StreamedAnswer], Any] = StreamedAnswer.read

    async def read(self: StreamedAnswer) -> Any:
        try:
            return await whole(self)
        except StreamCut:
            lost = self._attempt
            state, now_s = lost._permit._state, lost.timeouts._loop.time()
            if state.not_permitted(now_s, last_resort=False):
                raise
            breaker_permit, host_permit = (
                state.breaker.try_acquire(now_s),
                state.host_breaker.try_acquire(now_s),
            )
            assert breaker_permit is not None and host_permit is not None
            permit = permits.permit_call(
                state, lost._permit._key, breaker_permit, host_permit, None, lost._permit.caller, 1.0
            )
            once_more = Attempt(lost.dependencies, lost.context, self.target, permit, lost.timeouts, "retry")
            try:
                again = await once_more.open(fresh=True)
            except tries.ATTEMPT_ERRORS as error:
                once_more.end(classify(error))
                await once_more.close()
                raise StreamCut("It broke off again.") from None
            assert isinstance(again, StreamedAnswer)
            await lost.close()
            self._attempt, self._body = again._attempt, again._body
            self._reader, self.held = again._reader, again.held
            return await whole(self)

    with mock.patch.object(StreamedAnswer, "read", read):
        yield


@contextlib.contextmanager
def budget_ignored() -> Iterator[None]:
    """Allow every retry, whatever the retry budget holds."""
    with mock.patch.object(RetryBudget, "balance", lambda self, now_s: 1e9):
        yield


@contextlib.contextmanager
def retry_after_ignored() -> Iterator[None]:
    """Ignore every Retry-After."""

    def hasty(error: Exception) -> Classification:
        classification = classify(error)
        return (
            classification
            if classification.cooldown_s == 0.0
            else type(classification)(**{**_fields(classification), "cooldown_s": 0.0})
        )

    with mock.patch.object(tries, "classify", hasty):
        yield


@contextlib.contextmanager
def last_candidate_ejected() -> Iterator[None]:
    """Never call a target whose breaker is open for slowness, even as the last resort."""
    whole = Breaker._open

    def hard(self: Breaker, from_s: float, not_before_s: float, why: str, *, slow: bool = False) -> None:
        whole(self, from_s, not_before_s, why)

    with mock.patch.object(Breaker, "_open", hard):
        yield


@contextlib.contextmanager
def last_resort_first() -> Iterator[None]:
    """Call a target whose breaker is open for slowness in its turn, before the others of the route."""
    whole = TargetState.not_permitted
    first = lambda self, now_s, *, last_resort: whole(self, now_s, last_resort=True)
    with mock.patch.object(TargetState, "not_permitted", first):
        yield


@contextlib.contextmanager
def attempts_without_time() -> Iterator[None]:
    """Begin attempts whose deadline has passed."""
    always = lambda *_: True
    with mock.patch.object(target_tries, "has_time", always), mock.patch.object(loop, "has_time", always):
        yield


@contextlib.contextmanager
def follower_killed_with_leader() -> Iterator[None]:
    """End a shared call when the request that began it leaves."""
    whole = single_flight.SharedCall.unsubscribe

    async def unsubscribe(self: Any, seat: Any) -> None:
        if not seat.joined and not self.ended:
            self.task.cancel()
        await whole(self, seat)

    with mock.patch.object(single_flight.SharedCall, "unsubscribe", unsubscribe):
        yield


@contextlib.contextmanager
def caller_missing_in_key() -> Iterator[None]:
    """Share cache entries and calls between callers."""
    whole = cache.key_of

    def for_anybody(request: ChatRequest, *rest: Any) -> Any:
        return whole(replace(request, caller=Caller()), *rest)

    with mock.patch.object(cache, "key_of", for_anybody):
        yield


@contextlib.contextmanager
def loser_not_cancelled() -> Iterator[None]:
    """Let losing attempts run to their end."""

    async def end(self: legs.Branch, superseded: bool) -> None:
        going = asyncio.create_task(self.close(), name="loser")
        LOSERS.add(going)
        going.add_done_callback(LOSERS.discard)

    with mock.patch.object(legs.Branch, "end", end):
        yield


@contextlib.contextmanager
def cut_answer_cached() -> Iterator[None]:
    """Store an answer that was cut as if it were complete."""
    whole = RecordingStream.read

    async def read(self: RecordingStream) -> list[Chunk]:
        try:
            return await whole(self)
        except StreamCut:
            said = [*self._payloads, b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}']
            if (body := assemble(said)) is not None:
                await self._keep(body)
            raise

    with mock.patch.object(RecordingStream, "read", read):
        yield


@contextlib.contextmanager
def whole_delivered_early() -> Iterator[None]:
    """Deliver a held stream from its first word on."""

    async def hold_all(self: StreamedAnswer) -> None:
        pass

    with mock.patch.object(StreamedAnswer, "hold_all", hold_all):
        yield


@contextlib.contextmanager
def expired_work_sent() -> Iterator[None]:
    """Send queued requests however little time is left."""
    with mock.patch.object(line.Waiter, "expired", lambda self, now_s: False):
        yield


@contextlib.contextmanager
def lower_class_first() -> Iterator[None]:
    """Serve the lowest priority first."""

    def highest(self: line.WaitQueue) -> Any:
        return next(priority for priority in reversed(self.lanes) if self.lanes[priority].waiting)

    with mock.patch.object(line.WaitQueue, "highest", highest):
        yield


@contextlib.contextmanager
def substitute_for_programs() -> Iterator[None]:
    """Give fallbacks to requests whose answer a program reads."""
    with mock.patch.object(Fallbacks, "allowed_for", lambda self, request: self.options.enabled):
        yield


@contextlib.contextmanager
def old_settings_for_new_requests() -> Iterator[None]:
    """Let a reload change keys only."""
    whole = Service.reload

    def reload(self: Service, loaded: LoadedSettings) -> None:
        settings = loaded.settings
        before = {provider.name: provider for provider in self.settings.provider}
        kept = tuple(replace(p, isolated=before[p.name].isolated) for p in settings.provider)
        whole(self, replace(loaded, settings=replace(self.settings, provider=kept)))

    with mock.patch.object(Service, "reload", reload):
        yield


@contextlib.contextmanager
def hedge_at_the_same_provider() -> Iterator[None]:
    """Hedge at the next target, even if it is another model of the same slow provider."""

    def next_target(
        fleet: Fleet, target: Target, rest: Sequence[Target], why: str, now_s: float, caller: Caller
    ) -> Any:
        return next((other for other in rest if fleet.may_ask(other, now_s, caller)), None), True

    with mock.patch.object(hedge_timer, "hedge_target", next_target):
        yield


@contextlib.contextmanager
def filtered_stream_called_empty() -> Iterator[None]:
    """Take a stream that a content filter ends before any word for an empty one."""
    whole = tries.may_end_empty

    def may_end_empty(finish: str | None, request: AnyRequest) -> bool:
        return finish != "content_filter" and whole(finish, request)

    with (
        mock.patch.object(tries, "may_end_empty", may_end_empty),
        mock.patch.object(tries, "FILTERED", "never"),
    ):
        yield


@contextlib.contextmanager
def own_cancellation_counted() -> Iterator[None]:
    """Keep a timeout's cancellation counted if the work turned it into another error."""

    async def wait(self: Timeouts, name: str, limit_s: float, awaitable: Awaitable[Any]) -> Any:
        self._limit_at_s = at_s = self._loop.time() + limit_s
        self._until_s = min(at_s, self.deadline_s)
        self._in_grace = False
        if self._until_s < self._fires_at_s:
            self._set_timer(self._until_s)
        if self._cut_short:
            self._loop.call_soon(self._fire_if_waiting)
        try:
            return await awaitable
        except asyncio.CancelledError:
            if self._expired and self.task.uncancel() == 0:
                if self._cut_short:
                    raise CutShort from None
                raise TimedOut("deadline" if self.deadline_s <= self._limit_at_s else name) from None
            raise
        finally:
            self._until_s, self._expired = timeouts.NEVER, False

    with mock.patch.object(Timeouts, "run", wait):
        yield


@contextlib.contextmanager
def answer_without_an_owner() -> Iterator[None]:
    """Let steps of the loop pass between an answer and the block that closes it."""
    whole = chat.Exchange._ask

    async def ask(self: chat.Exchange, context: RequestContext, route: Route) -> Answer:
        answer = await whole(self, context, route)
        for _ in range(3):  # whatever takes turns with it
            await asyncio.sleep(0)
        return answer

    with mock.patch.object(chat.Exchange, "_ask", ask):
        yield


@contextlib.contextmanager
def raced_answer_forgotten() -> Iterator[None]:
    """Abandon a race without closing the answer that it has, if its request is cancelled again."""
    whole = legs.BranchPool.end

    async def end(self: legs.BranchPool, *branches: legs.Branch, superseded: bool) -> None:
        try:
            await whole(self, *branches, superseded=superseded)
        except asyncio.CancelledError:
            for branch in branches:
                branch.answer = None
            raise

    async def finish(self: legs.Race, answer: Any) -> Any:
        self._main_over = True
        self._timeouts.resume()
        if answer is None:
            answer = await self._first_answer()
        await self._end_losers(answer)
        if isinstance(answer, StreamedAnswer):
            answer.move_to(self._timeouts)
        return answer

    with mock.patch.object(legs.BranchPool, "end", end), mock.patch.object(legs.Race, "finish", finish):
        yield


@contextlib.contextmanager
def prober_ended_by_a_defect() -> Iterator[None]:
    """End active probing with the first exception."""
    whole = Prober._on_end

    def on_end(self: Prober, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._options = replace(self._options, enabled=False)
        whole(self, task)

    with mock.patch.object(Prober, "_on_end", on_end):
        yield


@contextlib.contextmanager
def deadline_in_backoff_raised() -> Iterator[None]:
    """Let a deadline that passes within a backoff escape as what it is inside, which nobody expects."""

    async def back_off(self: Any, wait_s: float) -> bool:
        pause = asyncio.sleep(wait_s)
        await self._timeouts.run("backoff", timeouts.NEVER, pause)
        return True

    with mock.patch.object(target_tries.TargetAttempts, "_back_off", back_off):
        yield


@contextlib.contextmanager
def claim_kept_on_cancel() -> Iterator[None]:
    """Never release the claim of a cancelled request."""
    whole = cache.AnswerCache.release

    async def release(self: cache.AnswerCache, key: CacheKey) -> None:
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            await whole(self, key)

    with mock.patch.object(cache.AnswerCache, "release", release):
        yield


@contextlib.contextmanager
def own_key_told_to_callers() -> Iterator[None]:
    """Tell callers with 401 that this service's key is refused."""
    with mock.patch.object(errors.KeysRefused, "status", 401):
        yield


@contextlib.contextmanager
def fixed_window() -> Iterator[None]:
    """Count the requests of a limit by the clock: anew from each full minute on."""

    def usage(self: SlidingLog, key: str, now_us: int) -> LimitUsage:
        window_us = self.limit.window_us
        from_us = now_us - now_us % window_us
        used = sum(at_us >= from_us for at_us in self._times.get(key, ()))
        return LimitUsage(self.limit, used, from_us + window_us - now_us)

    with mock.patch.object(SlidingLog, "usage", usage):
        yield


@contextlib.contextmanager
def refused_is_counted() -> Iterator[None]:
    """Count a request in its limits though it is refused."""
    whole = RateLimitGate._take

    async def take(self: RateLimitGate, counted: Sequence[Counted]) -> list[LimitUsage]:
        usages = await whole(self, counted)
        if any(usage.full for usage in usages):
            for log, key, _ in counted:
                log.add(key, round(clock.now() * 1e6))
        return usages

    with mock.patch.object(RateLimitGate, "_take", take):
        yield


@contextlib.contextmanager
def premium_is_counted() -> Iterator[None]:
    """Count the requests of premium callers, too."""
    whole = RateLimitGate.admit

    async def admit(self: RateLimitGate, address: str, session: Session | None, caller: Caller) -> Passage:
        return await whole(self, address, session, dataclasses.replace(caller, premium=False))

    with mock.patch.object(RateLimitGate, "admit", admit):
        yield


@contextlib.contextmanager
def block_never_ends() -> Iterator[None]:
    """Keep a key blocked for ever."""

    def blocked_s(self: Penalties, by: str, key: str, now_s: float) -> float:
        penalty = self._keys.get((by, key))
        return penalty.block_s if penalty is not None else 0.0

    with mock.patch.object(Penalties, "blocked_s", blocked_s):
        yield


@contextlib.contextmanager
def blocked_without_strikes() -> Iterator[None]:
    """Block a key at its first refusal."""

    def refuse(self: Penalties, by: str, key: str, wait_s: float, now_s: float) -> float:
        penalty = self._keys.setdefault((by, key), _Penalty(strikes=[now_s] * 9))
        return self._strike(penalty, wait_s, now_s)

    with mock.patch.object(Penalties, "refuse", refuse):
        yield


LOSERS: set[asyncio.Task[None]] = set()


def _fields(classification: Classification) -> dict[str, Any]:
    return {name: getattr(classification, name) for name in classification.__slots__}


@contextlib.contextmanager
def silence_ends_attempts() -> Iterator[None]:
    """Give a target up as soon as it is silent, as if it were dead."""
    whole = tries.silent_after_s

    def silent_after_s(usual_s: float | None, options: TimeoutOptions) -> float:
        return max(whole(usual_s, options), 1e9)

    def run(self: Timeouts, name: str, limit_s: float, awaitable: Any) -> Any:
        return waits(self, name, min(limit_s, 10.0) if name in ANSWERS else limit_s, awaitable)

    waits: Callable[..., Any] = Timeouts.run
    with (
        mock.patch.object(tries, "silent_after_s", silent_after_s),
        mock.patch.object(Timeouts, "run", run),
    ):
        yield


@contextlib.contextmanager
def silence_is_failure() -> Iterator[None]:
    """Count every silent attempt against its target, whatever is usual and whoever is answered."""

    def note_silence(self: Permit, now_s: float, *, late: bool, mute: bool) -> None:
        self._target_permit.note_stall(now_s)

    with mock.patch.object(Permit, "note_silence", note_silence):
        yield


@contextlib.contextmanager
def usual_is_slow() -> Iterator[None]:
    """Count first tokens as slow by the setting alone, whatever is usual."""
    with (
        mock.patch.object(tries, "slow_after_s", lambda usual_s, options: options.hedge_after_s),
        mock.patch.object(permits, "PATIENCE", 0.0),
    ):
        yield


@contextlib.contextmanager
def silent_hedges_unpaid() -> Iterator[None]:
    """Hedge every silent attempt, whether its target answers others or not."""
    with mock.patch.object(hedge_timer.HedgeTimer, "_is_stalled", lambda *_: True):
        yield


ANSWERS = ("first_token", "whole_answer")
# Caught by tests/chaos/test_thinkers.py: what they break are no rules, but numbers of a world of thinkers.
OF_THINKERS = (silence_ends_attempts, silence_is_failure, usual_is_slow, silent_hedges_unpaid)
MUTANTS = (
    first_refusal_believed,
    own_failures_counted,
    first_refusal_final,
    permit_kept_on_cancel,
    retry_after_commit,
    budget_ignored,
    retry_after_ignored,
    last_candidate_ejected,
    last_resort_first,
    attempts_without_time,
    follower_killed_with_leader,
    caller_missing_in_key,
    loser_not_cancelled,
    cut_answer_cached,
    whole_delivered_early,
    expired_work_sent,
    lower_class_first,
    substitute_for_programs,
    old_settings_for_new_requests,
    hedge_at_the_same_provider,
    deadline_in_backoff_raised,
    own_key_told_to_callers,
    fixed_window,
    refused_is_counted,
    premium_is_counted,
    block_never_ends,
    blocked_without_strikes,
)
# What no world shows, or too rarely: tests find them.
FOUND_BY_TESTS = (
    filtered_stream_called_empty,
    own_cancellation_counted,
    answer_without_an_owner,
    raced_answer_forgotten,
    prober_ended_by_a_defect,
    claim_kept_on_cancel,
)
