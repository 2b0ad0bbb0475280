"""Broken builds of the service, kept to prove that the simulation can fail. Each is a context manager; play one with

dub5 simulate --mutant tests.simulation.mutants:budget_ignored
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from service.answers import cache, single_flight
from service.attempt import run, tries
from service.attempt.breaker import Breaker
from service.attempt.budget import Budget
from service.attempt.classify import Verdict, classify
from service.attempt.tries import CANCELLED, Streaming, Try
from service.chat import Caller, ChatRequest
from service.errors import StreamCut
from service.routing.fleet import Pass


@contextlib.contextmanager
def permit_kept_on_cancel() -> Iterator[None]:
    """A try that is cancelled does not give back what it took."""
    whole = Pass.end

    def end(self: Pass, verdict: Verdict | None, now_s: float, *, reached: bool) -> None:
        if verdict is not CANCELLED:
            whole(self, verdict, now_s, reached=reached)

    with mock.patch.object(Pass, "end", end):
        yield


@contextlib.contextmanager
def retry_after_commit() -> Iterator[None]:
    """A stream that breaks off is taken up again from the same target, as if nothing had been sent."""
    whole: Callable[[Streaming], Any] = Streaming.read

    async def read(self: Streaming) -> Any:
        try:
            return await whole(self)
        except StreamCut:
            lost = self._attempt
            leave = lost._leave._fleet.enter(self.target, lost.watch._loop.time())
            if not isinstance(leave, Pass):
                raise
            once_more = Try(lost.means, lost.task, self.target, leave, lost.watch, "retry")
            try:
                again = await once_more.open(fresh=True)
            except tries.BROKEN as error:
                once_more.end(classify(error))
                await once_more.close()
                raise StreamCut("It broke off again.") from None
            assert isinstance(again, Streaming)
            await lost.close()
            self._attempt, self._reader, self.held = again._attempt, again._reader, again.held
            return await whole(self)

    with mock.patch.object(Streaming, "read", read):
        yield


@contextlib.contextmanager
def budget_ignored() -> Iterator[None]:
    """Every retry is paid for, whatever the purse holds."""
    with mock.patch.object(Budget, "balance", lambda self, now_s: 1e9):
        yield


@contextlib.contextmanager
def retry_after_ignored() -> Iterator[None]:
    """Nobody is left alone because he asked for it."""

    def hasty(error: Exception) -> Verdict:
        verdict = classify(error)
        return verdict if verdict.cool_s == 0.0 else type(verdict)(**{**_fields(verdict), "cool_s": 0.0})

    with mock.patch.object(run, "classify", hasty), mock.patch.object(tries, "classify", hasty):
        yield


@contextlib.contextmanager
def last_candidate_ejected() -> Iterator[None]:
    """Who is slow is left alone, though there is nobody else."""
    whole = Breaker._open

    def hard(self: Breaker, from_s: float, not_before_s: float, why: str, *, slow: bool = False) -> None:
        whole(self, from_s, not_before_s, why)

    with mock.patch.object(Breaker, "_open", hard):
        yield


@contextlib.contextmanager
def follower_killed_with_leader() -> Iterator[None]:
    """A shared call ends when the request leaves that began it, whoever else is there."""
    whole = single_flight.Flight.leave

    async def leave(self: Any, seat: Any) -> None:
        if not seat.joined and not self.ended:
            self.task.cancel()
        await whole(self, seat)

    with mock.patch.object(single_flight.Flight, "leave", leave):
        yield


@contextlib.contextmanager
def caller_missing_in_key() -> Iterator[None]:
    """Whoever asks the same has the same answer, kept or under way."""
    whole = cache.key_of

    def for_anybody(request: ChatRequest, *rest: Any) -> Any:
        return whole(dataclasses.replace(request, caller=Caller()), *rest)

    with mock.patch.object(cache, "key_of", for_anybody):
        yield


def _fields(verdict: Verdict) -> dict[str, Any]:
    return {name: getattr(verdict, name) for name in verdict.__slots__}


MUTANTS = (
    permit_kept_on_cancel,
    retry_after_commit,
    budget_ignored,
    retry_after_ignored,
    last_candidate_ejected,
)
SHARING = (
    follower_killed_with_leader,
    caller_missing_in_key,
)  # wants equal questions at one time: tests/service/test_sharing.py
