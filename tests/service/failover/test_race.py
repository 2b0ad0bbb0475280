"""The race of two ways to one answer: whatever happens, every branch is ended and nothing of it is left."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dub5.service import clock
from dub5.service.config.options import TimeoutOptions
from dub5.service.failover.attempt import SUPERSEDED, ProviderAnswer, StreamedAnswer
from dub5.service.failover.context import BufferedAnswer, RequestContext
from dub5.service.failover.race import Branch, BranchPool, Purpose, Race
from dub5.service.failover.rejected_content import RejectPatterns
from dub5.service.model import Caller, ChatBody, ChatRequest, Reply, Target
from dub5.service.resilience.classify import Classification
from dub5.service.timeouts import NEVER, CutShort, TimedOut, Timeouts


class Stream(StreamedAnswer):
    """A streamed answer that notes how it was released."""

    def __init__(self) -> None:
        self.closed_as: list[str] = []
        self.timeouts: Timeouts | None = None

    def move_to(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts

    async def aclose(self, verdict: Classification = SUPERSEDED) -> None:
        self.closed_as.append(verdict.reason)


def whole() -> BufferedAnswer:
    return BufferedAnswer(Target("p", "m"), Reply(b"{}"))


class Stage:
    """One race, and the tools to start branches of it."""

    def __init__(self, deadline_s: float = 100.0) -> None:
        self.pool = BranchPool()
        self.timeouts = Timeouts(clock.now() + deadline_s)
        request = ChatRequest("id", Caller(), ChatBody("chat", []), {})
        options, patterns = TimeoutOptions(), RejectPatterns(())
        self.context = RequestContext(request, "chat", options, patterns, self.timeouts, clock.now())
        self.race = Race(self.pool, self.context, self.timeouts, None)

    def branch(
        self,
        after_s: float,
        answer: ProviderAnswer | None,
        purpose: Purpose = Purpose.HEDGE,
        may_finish: Callable[[], bool] = lambda: False,
    ) -> Branch:
        async def work(branch: Branch, timeouts: Timeouts) -> ProviderAnswer | None:
            await asyncio.sleep(after_s)
            return answer

        branch = Branch(self.context, purpose, self.timeouts.deadline_s, work, may_finish)
        self.race.add(branch)
        return branch

    async def run(self, main: Awaitable[ProviderAnswer | None]) -> ProviderAnswer | None:
        """Await the main attempts, as the failover loop does."""
        try:
            answer = await main
        except CutShort:
            answer = None
        except BaseException:
            await self.race.abandon(superseded=False)
            raise
        return await self.race.finish(answer)

    async def answers(self, after_s: float, answer: ProviderAnswer | None) -> ProviderAnswer | None:
        """Be main attempts that bring this answer."""
        await self.timeouts.run("first_token", NEVER, asyncio.sleep(after_s))
        return answer


async def test_a_branch_cuts_the_main_attempts_short() -> None:
    """The first content wins at once; the stream is read under the request's own timeouts from then on."""
    stage, stream = Stage(), Stream()
    stage.branch(1.0, stream)
    assert await stage.run(stage.answers(50.0, whole())) is stream
    assert clock.now() == pytest.approx(1.0, abs=0.01)
    assert stage.race.won_by_branch and stream.timeouts is stage.timeouts and not stream.closed_as


async def test_the_main_attempts_win() -> None:
    """A branch that loses is cancelled before the answer is returned."""
    stage, answer = Stage(), whole()
    branch = stage.branch(50.0, Stream())
    assert await stage.run(stage.answers(1.0, answer)) is answer
    assert branch.task.cancelled() and branch.superseded


async def test_both_at_one_instant() -> None:
    """One of two answers is taken, the other one is released, and the task is not cancelled afterwards."""
    for _ in range(20):
        stage, own, other = Stage(), Stream(), Stream()
        stage.branch(1.0, other)
        taken = await stage.run(stage.answers(1.0, own))
        assert taken in (own, other)
        assert [len(own.closed_as), len(other.closed_as)] == ([0, 1] if taken is own else [0, 0])
        await asyncio.sleep(1.0)
        assert stage.timeouts.task.cancelling() == 0


async def test_no_answer_from_the_main_attempts() -> None:
    """Then the branches are waited for, until the last of them has none either."""
    stage, answer = Stage(), whole()
    stage.branch(2.0, None)
    stage.branch(3.0, answer)
    assert await stage.run(stage.answers(1.0, None)) is answer
    assert clock.now() == pytest.approx(3.0, abs=0.01)
    stage = Stage()
    stage.branch(2.0, None)
    assert await stage.run(stage.answers(1.0, None)) is None


@pytest.mark.parametrize(
    ("purpose", "given_up", "has_fallback", "waits"),
    [
        (Purpose.HEDGE, False, True, True),
        (Purpose.HEDGE, True, False, False),
        (Purpose.PROBE, False, False, True),
        (Purpose.PROBE, False, True, False),
        (Purpose.PROBE, True, False, False),
        (Purpose.CANARY, True, True, True),
        (Purpose.REST, True, False, False),
    ],
)
async def test_who_is_waited_for(purpose: Purpose, given_up: bool, has_fallback: bool, waits: bool) -> None:
    """A refusal ends all but a canary; where there is a fallback the request does not wait for a probe."""
    stage, answer = Stage(), whole()
    stage.context.has_fallback, stage.context.progress.given_up = has_fallback, given_up
    stage.branch(5.0, answer, purpose)
    assert await stage.run(stage.answers(1.0, None)) is (answer if waits else None)


async def test_the_deadline() -> None:
    """At the deadline the race has no answer, and no branch is left."""
    stage = Stage(deadline_s=2.0)
    branch = stage.branch(50.0, whole())
    assert await stage.run(stage.answers(1.0, None)) is None
    assert clock.now() == pytest.approx(2.0, abs=0.01) and branch.task.cancelled()


async def test_in_the_background() -> None:
    """A loser that may finish goes on without the request, and its answer is released at its end."""
    stage, late = Stage(), Stream()
    stage.branch(5.0, late, Purpose.PROBE, lambda: True)
    assert await stage.run(stage.answers(1.0, whole())) is not None
    assert stage.pool.in_background == 1 and not late.closed_as
    await asyncio.sleep(10.0)
    assert stage.pool.in_background == 0 and late.closed_as == ["hedge_lost"]


@pytest.mark.parametrize(("main_ends_s", "taken"), [(50.0, True), (2.0, False)])
async def test_a_probe_in_a_branch(main_ends_s: float, taken: bool) -> None:
    """A hedge without an answer leaves its probe to the request.

    Its answer is taken while the main attempt still runs; for a probe alone a request with a fallback does
    not wait.
    """
    stage, answer, probes = Stage(), Stream(), list[Branch]()
    stage.context.has_fallback = True

    async def probe(branch: Branch, timeouts: Timeouts) -> ProviderAnswer | None:
        await asyncio.sleep(5.0)
        return answer

    async def hedge(branch: Branch, timeouts: Timeouts) -> ProviderAnswer | None:
        inner = Race(stage.pool, stage.context, timeouts, branch)
        probes.append(Branch(stage.context, Purpose.PROBE, 100.0, probe, lambda: True))
        inner.add(probes[0])
        return await inner.finish(None)

    stage.race.add(Branch(stage.context, Purpose.HEDGE, 100.0, hedge))
    assert await stage.run(stage.answers(main_ends_s, None)) is (answer if taken else None)
    assert clock.now() == pytest.approx(5.0 if taken else 2.0, abs=0.01)
    await asyncio.wait({probes[0].task})
    await asyncio.sleep(0)
    assert (len(answer.closed_as), stage.pool.in_background) == (0 if taken else 1, 0)


async def test_the_end_of_the_process() -> None:
    """What finishes in the background is cancelled when the process ends."""
    stage = Stage()
    branch = stage.branch(500.0, Stream(), Purpose.PROBE, lambda: True)
    await stage.run(stage.answers(1.0, whole()))
    await stage.pool.aclose()
    assert branch.task.cancelled() and stage.pool.in_background == 0


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("at_s", [0.5, 1.0])
async def test_cancelled_from_outside(at_s: float, times: int) -> None:
    """A client that leaves ends main attempts and branch, also at the instant at which the branch wins."""
    stream, started = Stream(), asyncio.get_running_loop().create_future()

    async def request() -> None:
        stage = Stage()
        started.set_result(stage.branch(1.0, stream))
        await stage.run(stage.answers(50.0, whole()))

    task = asyncio.create_task(request())
    branch: Branch = await started
    await asyncio.sleep(at_s)
    for _ in range(times):
        task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(1.0)
    assert branch.task.done()
    assert task.cancelled() != (stream.timeouts is not None), "either it was cancelled or it has the answer"
    assert len(stream.closed_as) == (task.cancelled() and branch.answer is not None)


async def test_the_main_attempts_clean_up_undisturbed() -> None:
    """A branch that wins while a main attempt releases a connection lets it; the next wait is cut short."""
    stage, answer, released = Stage(), whole(), list[float]()
    stage.branch(1.0, answer)

    async def main() -> ProviderAnswer | None:
        await asyncio.sleep(3.0)  # outside of `run`: it releases something
        released.append(clock.now())
        return await stage.answers(50.0, whole())

    assert await stage.run(main()) is answer
    assert released == [pytest.approx(3.0, abs=0.01)] and clock.now() == pytest.approx(3.0, abs=0.01)


async def test_an_own_answer_that_is_there_first() -> None:
    """An answer that is whole before the branch's is taken, though its connection is released after it."""
    stage, own = Stage(), whole()
    stage.branch(1.0, whole())

    async def main() -> ProviderAnswer | None:
        answer = await stage.answers(0.5, own)
        await asyncio.sleep(2.0)
        return answer

    assert await stage.run(main()) is own


async def test_a_cancellation_that_is_swallowed() -> None:
    """A wait that turns the race's cancellation into something else leaves no cancellation behind."""
    stage, answer = Stage(), whole()
    stage.branch(1.0, answer)

    async def stubborn() -> None:
        try:
            await asyncio.sleep(50.0)
        except asyncio.CancelledError:
            return

    async def main() -> ProviderAnswer | None:
        await stage.timeouts.run("first_token", NEVER, stubborn())
        return None

    assert await stage.run(main()) is answer
    assert stage.timeouts.task.cancelling() == 0
    with pytest.raises(TimedOut):
        await stage.timeouts.run("later", 1.0, asyncio.sleep(5.0))


async def test_an_answer_at_the_deadline() -> None:
    """An answer that comes at the very instant of the deadline is taken."""
    stage, answer = Stage(deadline_s=2.0), whole()
    stage.branch(2.0, answer)
    assert await stage.run(stage.answers(1.0, None)) in (answer, None)


async def test_a_defect_of_a_branch_is_raised() -> None:
    """What a branch raises is no missing answer."""
    stage = Stage()

    async def work(branch: Branch, timeouts: Timeouts) -> ProviderAnswer | None:
        raise LookupError("ours")

    stage.race.add(Branch(stage.context, Purpose.REST, 100.0, work))
    with pytest.raises(LookupError):
        await stage.run(stage.answers(1.0, None))
