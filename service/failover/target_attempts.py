"""Attempts at one target: the first one, then retries as long as `decide_retry` says so.

    attempt    one call; a failure is classified once, for the resilience state, the trail and the retry
    refusal    of the request itself: remembered, until another target takes the request
    retry      after a pause; another permit; with another key, or without the fields of our own

The result is an answer, or None: go on to the next target.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from msgspec import Struct

from dub5.service import clock
from dub5.service.failover.attempt import (
    ATTEMPT_ERRORS,
    CANCELLED,
    PLAIN,
    SUPERSEDED,
    Attempt,
    ProviderAnswer,
    has_time,
)
from dub5.service.failover.context import Dependencies, RequestContext
from dub5.service.failover.hedge_timer import HedgeTimer
from dub5.service.failover.race import Branch
from dub5.service.model import ChatRequest, EmbedRequest, Target
from dub5.service.providers.conversation import only_openais
from dub5.service.providers.slices import finish, in_turns
from dub5.service.resilience.classify import Blame, Classification, Then
from dub5.service.resilience.permit import Permit
from dub5.service.resilience.retry import RetryDecision, RetryState, decide_retry
from dub5.service.resilience.target import NotPermitted
from dub5.service.timeouts import NEVER, CutShort, TimedOut, Timeouts

OURS = "stream_options"  # a field that we add to each stream
HISTORY_WORDS = (
    "message",
    "content",
    "assistant",
    "tool_call",
    "reason",
    "thought",
    "signature",
    "annotation",
)


class TargetAttempts(Struct, eq=False):
    """The attempts at `target`. `timeouts` are those of the task that makes them.

    `others` adds what else may be tried to the `rest` of the targets; None where a branch has the answer.
    `last_resort`: the target is one, so keys that rest for a forecast are used, too.
    """

    _dependencies: Dependencies
    _context: RequestContext
    _timeouts: Timeouts
    target: Target
    _rest: Sequence[Target]
    _others: Callable[[Sequence[Target]], Sequence[Target] | None]
    _branch: Branch | None  # None: the request's main attempts
    _last_resort: bool
    timer: HedgeTimer | None = None
    _doubted: tuple[Permit, ...] = ()
    _had_begun: bool = False  # the last answer, before it failed
    _refuses_ours: bool = False

    async def run(self, permit: Permit, kind: str) -> ProviderAnswer | None:
        """Return the target's answer; None if there is none."""
        retry_state: RetryState | None = None
        while True:
            fresh = retry_state is not None and retry_state.fresh
            outcome = await self._attempt_once(permit, kind, fresh=fresh)
            if not isinstance(outcome, Classification):
                if self._doubted or kind == PLAIN:
                    self._believe(kind)
                return outcome
            others = self._others(self._rest)
            if others is None:
                return None
            retry_state = retry_state or RetryState()
            decision, last = await self._decide(permit, kind, outcome, others, retry_state)
            if decision is None or not has_time(self._timeouts, clock.now(), decision.wait_s):
                return None
            if decision.wait_s and not await self._back_off(decision.wait_s):
                return None
            in_background = self._branch is not None and self._branch.in_background
            if in_background and decision.why != "fresh":
                return None  # nobody waits for it: only a dead connection says nothing about the target
            if permit.doubted_key is not None:
                self._doubted += (permit,)
            acquired = self._dependencies.fleet.try_acquire(
                self.target,
                clock.now(),
                decision.charge,
                last_resort=last or self._last_resort,
                doubted=self._doubted,
                caller=self._context.request.caller,
            )
            if isinstance(acquired, NotPermitted):
                return None
            permit, kind = acquired, decision.why
            retry_state.note(decision)

    async def _attempt_once(
        self, permit: Permit, kind: str, *, fresh: bool
    ) -> ProviderAnswer | Classification:
        attempt = Attempt(self._dependencies, self._context, self.target, permit, self._timeouts, kind)
        if self.timer is not None:
            self.timer.attempt, attempt.on_silence = attempt, self.timer.on_silence
        before_ns = clock.tick_ns()
        try:
            try:
                return await attempt.open(fresh)
            finally:
                self._note_upstream(before_ns)
        except ATTEMPT_ERRORS as error:
            classification = attempt.classified(error)
            if classification.status == 404 and isinstance(self._context.request, EmbedRequest):
                # A provider may have chats and no embeddings: its chats must not suffer.
                classification = replace(classification, blame=Blame.NOBODY)
            attempt.end(classification)
            await attempt.close()
            self._had_begun = attempt.first_token_s is not None
            return classification
        except CutShort:
            permit.record_inconclusive(clock.now())
            attempt.end(SUPERSEDED)
            await attempt.close()
            raise
        except BaseException:  # cancelled, or a defect of ours: the permit goes back all the same
            superseded = self._branch is not None and self._branch.superseded
            attempt.end(SUPERSEDED if superseded else CANCELLED)
            await attempt.close()
            raise

    async def _decide(
        self,
        permit: Permit,
        kind: str,
        classification: Classification,
        others: Sequence[Target],
        retry_state: RetryState,
    ) -> tuple[RetryDecision | None, bool]:
        """Return how the target is asked again, if it is; and whether no other target can be asked now."""
        progress, request, now_s = self._context.progress, self._context.request, clock.now()
        dependencies, fleet, target = self._dependencies, self._dependencies.fleet, self.target
        progress.classifications.append(classification)
        progress.given_up = progress.given_up or classification.then is Then.GIVE_UP
        last = not fleet.may_ask_any(others, now_s, request.caller)
        if kind != PLAIN and isinstance(request, ChatRequest) and not classification.maybe_billed:
            self._refuses_ours = _refuses_ours(request, classification)
            if self._refuses_ours or await _refuses_history(request, classification):
                return RetryDecision(PLAIN), last
        if classification.then is Then.ASK_ANOTHER:
            self._note_refusal(permit, classification, others)
        if self._had_begun and not last:
            return None, last  # it would take as long once more, and be paid for twice
        decision = decide_retry(
            classification,
            retry_state,
            has_side_effects=request.has_side_effects,
            last=last,
            other_key=retry_state.keys < fleet.keys(target) - 1
            and (
                fleet.has_free_key(target, now_s)
                or ((last or self._last_resort) and fleet.has_key_in_reserve(target, now_s))
            ),
            healthy=fleet.is_healthy(target, now_s),
            options=dependencies.retry,
            rng=dependencies.rng,
        )
        return decision, last

    def _believe(self, kind: str) -> None:
        """Believe what this target refused before: another key, or no field of our own, was taken."""
        for permit in self._doubted:
            permit.believe(clock.now())
        if kind == PLAIN and self._refuses_ours:
            self._dependencies.plain_targets.add(self.target)

    def _note_refusal(self, permit: Permit, refusal: Classification, others: Sequence[Target]) -> None:
        """Remember who refused the request itself. Give up if one more target has refused it, too."""
        progress, request = self._context.progress, self._context.request
        progress.refusals += ((self.target, permit),)
        if progress.answered:
            permit.contradict(request.caller, clock.now())
        may_have_acted = refusal.maybe_billed and request.has_side_effects
        providers = {target.provider for target, _ in progress.refusals}
        # A second model of the same provider proves less than another provider, if there is one.
        other_providers = any(other.provider not in providers for other in others)
        confirmed = len(progress.refusals) > 1 and (len(providers) > 1 or not other_providers)
        progress.given_up = progress.given_up or may_have_acted or confirmed

    async def _back_off(self, wait_s: float) -> bool:
        """Wait before the target is asked again. Return whether there is time left: the loop may stall."""
        before_ns = clock.tick_ns()
        try:
            await self._timeouts.run("backoff", NEVER, asyncio.sleep(wait_s))
        except TimedOut:
            return False
        finally:
            self._note_upstream(before_ns)
        return has_time(self._timeouts, clock.now())

    def _note_upstream(self, before_ns: int) -> None:
        """Count the time since then as the providers', not as our overhead."""
        context = self._context
        if self._timeouts is context.timeouts:
            context.progress.upstream_ns += clock.tick_ns() - before_ns


def _refuses_ours(request: ChatRequest, classification: Classification) -> bool:
    """Return whether a field that we added is refused: the only one that the client may not have sent."""
    return (
        classification.then is Then.ASK_ANOTHER
        and request.stream
        and OURS in classification.message
        and OURS not in request.fields
    )


async def _refuses_history(request: ChatRequest, classification: Classification) -> bool:
    """Return whether a message may be refused for what another provider has written there."""
    said = classification.message.lower()
    if classification.then is not Then.ASK_ANOTHER or not any(word in said for word in HISTORY_WORDS):
        return False
    steps = only_openais(request.fields["messages"])
    return (await in_turns(steps) if request.large else finish(steps)) is not None
