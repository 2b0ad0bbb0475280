"""Calls that are shared: whoever comes and goes, and however fast each reads, everybody reads the one
answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dub5.service import clock
from dub5.service.config.options import TimeoutOptions
from dub5.service.errors import AllTargetsDown, DeadlineExceeded, GatewayError, StreamCut, StreamStalled
from dub5.service.events import Events
from dub5.service.failover.context import RequestContext
from dub5.service.failover.rejected_content import RejectPatterns
from dub5.service.model import Chunk, Usage
from dub5.service.single_flight import (
    AHEAD_BYTES_MAX,
    KEPT_BYTES_MAX,
    PIECE_BYTES_MAX,
    CallSubscriber,
    SharedCalls,
)
from dub5.service.timeouts import TimedOut, Timeouts
from dub5.simulators.virtual import run
from tests.support.examples import examples
from tests.support.questions import request

BYTES_MAX = 32 * 1024 * 1024
LONG_S = 1000.0


@dataclass
class TimedStream:
    """An answer past its commit point: a chunk, then one every `gap_s`; at the end nothing, or what is wrong
    with it."""

    timeouts: Timeouts
    chunks: list[bytes]
    gap_s: float = 1.0
    error: GatewayError | None = None
    usage: Usage | None = None
    began_s: float = 0.0
    given: int = 0
    closed_s: float | None = None

    @property
    def stream(self) -> "TimedStream":
        return self

    async def read(self) -> list[Chunk]:
        if self.given:
            try:
                await self.timeouts.run("between_tokens", LONG_S, asyncio.sleep(self.gap_s))
            except TimedOut:
                raise StreamStalled("No time is left.") from None
        if self.given == len(self.chunks):
            if self.error is not None:
                raise self.error
            return []
        self.given += 1
        return [Chunk(self.chunks[self.given - 1])]

    async def aclose(self) -> None:
        self.closed_s = clock.now()


@dataclass
class CallScenario:
    """Calls to a provider that always gives the same answer, and what became of them."""

    chunks: list[bytes]
    first_s: float = 1.0
    gap_s: float = 1.0
    error: GatewayError | None = None
    bytes_max: int = BYTES_MAX
    calls: list[TimedStream] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shared_calls: SharedCalls[TimedStream] = SharedCalls(Events(), self.bytes_max)

    async def ask(self, context: RequestContext) -> TimedStream:
        source = TimedStream(context.timeouts, self.chunks, self.gap_s, self.error)
        self.calls.append(source)
        try:
            await context.timeouts.run("first_token", LONG_S, asyncio.sleep(self.first_s))
            if self.error is not None and not self.chunks:
                raise self.error
            return source
        except TimedOut:
            await source.aclose()
            raise DeadlineExceeded("No time is left.") from None
        except BaseException:
            await source.aclose()
            raise

    @property
    def open(self) -> list[TimedStream]:
        return [call for call in self.calls if call.closed_s is None]

    @asynccontextmanager
    async def subscriber(self, within_s: float = LONG_S) -> AsyncIterator[CallSubscriber[TimedStream]]:
        """A place at the call for the one question that is asked here."""
        timeouts = Timeouts(clock.now() + within_s)
        context = RequestContext(
            request(stream=True), "chat", TimeoutOptions(), RejectPatterns(()), timeouts, clock.now()
        )
        try:
            subscriber = await self.shared_calls.join("question", context, self.ask)
            try:
                yield subscriber
            finally:
                await subscriber.aclose()
        finally:
            timeouts.close()


async def all_of(subscriber: CallSubscriber[TimedStream], pace_s: float = 0.0) -> bytes:
    """All that can be read, with a pause after each read."""
    read = b""
    while chunks := await subscriber.read():
        read += b"".join(chunk.raw for chunk in chunks)
        await asyncio.sleep(pace_s)
    return read


@dataclass(frozen=True)
class VisitingClient:
    """Comes, reads with a pause after each read, and leaves: when it likes, or at the end; or its time is
    over."""

    comes_s: float
    pace_s: float
    leaves_after_s: float | None
    within_s: float


@dataclass
class ClientResult:
    """What one client saw."""

    read: bytes = b""
    whole: bool = False
    error: GatewayError | None = None
    until_s: float = 0.0


TENTHS = st.integers(0, 80).map(lambda tenths: tenths / 10)
CLIENTS = st.builds(
    VisitingClient,
    comes_s=TENTHS,
    pace_s=st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    leaves_after_s=st.none() | TENTHS,
    within_s=st.sampled_from([0.5, 2.0, 5.0, LONG_S]),
)
ENDS = st.sampled_from(
    [None, StreamCut("It broke off."), AllTargetsDown("Nobody is there.", retry_after_s=1.0)]
)


async def visit(scenario: CallScenario, client: VisitingClient, told: ClientResult) -> None:
    """From coming to leaving."""
    await asyncio.sleep(client.comes_s)
    try:
        async with asyncio.timeout(client.leaves_after_s), scenario.subscriber(client.within_s) as subscriber:
            while chunks := await subscriber.read():
                told.read += b"".join(chunk.raw for chunk in chunks)
                await subscriber.context.timeouts.run("client_stall", LONG_S, asyncio.sleep(client.pace_s))
            told.whole = True
    except TimeoutError:
        pass
    except TimedOut:
        told.error = StreamStalled("It took its time.")
    except GatewayError as error:
        told.error = error
    finally:
        told.until_s = clock.now()


async def play(scenario: CallScenario, clients: list[VisitingClient]) -> list[ClientResult]:
    """All of them; no two calls are ever open at once, and none where nobody is."""
    told = [ClientResult() for _ in clients]
    visits = [
        asyncio.create_task(visit(scenario, client, one)) for client, one in zip(clients, told, strict=True)
    ]
    while not all(one.done() for one in visits):
        await asyncio.sleep(0.113)
        assert len(scenario.open) <= 1
        here = [c for c, v in zip(clients, visits, strict=True) if c.comes_s <= clock.now() and not v.done()]
        assert here or not scenario.open
    await asyncio.gather(*visits)
    assert not scenario.shared_calls._open
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("flight")]
    return told


@examples(200)
@given(
    clients=st.lists(CLIENTS, min_size=1, max_size=6),
    words=st.integers(0, 5),
    end=ENDS,
    seed=st.integers(0, 3),
)
@example(  # the last one leaves in the very moment in which another one comes
    [
        VisitingClient(0.0, 0.0, 0.1, 0.5),
        VisitingClient(0.1, 0.0, None, 0.5),
        VisitingClient(0.2, 0.0, None, 0.5),
    ],
    0,
    None,
    0,
)
@example(  # one comes in the very moment in which the other one's time is over
    [VisitingClient(0.9, 0.0, None, 2.0), VisitingClient(2.9, 0.0, None, 0.5)], 1, None, 0
)
def test_everybody_reads_the_one_answer(
    clients: list[VisitingClient], words: int, end: GatewayError | None, seed: int
) -> None:
    """Whoever comes, reads and leaves, in any order: all read a prefix of the answer, who stays reads all of
    it or is told why not, in time; there is one call while anybody is there, and none after that."""
    chunks = [f"word{n} ".encode() for n in range(words)]
    scenario = CallScenario(chunks, error=end)
    answer = b"".join(chunks)
    for client, told in zip(clients, run(play(scenario, clients), seed=seed), strict=True):
        assert answer.startswith(told.read)
        assert not told.whole or told.read == answer
        if isinstance(told.error, DeadlineExceeded | StreamStalled):
            assert told.until_s == pytest.approx(client.comes_s + client.within_s)
        elif told.error is not None:
            assert end is not None and type(told.error) is type(end)
            assert told.error is not end
            assert told.read == answer
        elif not told.whole:
            assert client.leaves_after_s is not None
            assert told.until_s == pytest.approx(client.comes_s + client.leaves_after_s)
        if told.whole:
            assert end is None


@given(
    comes=st.lists(TENTHS, min_size=2, max_size=8), first_leaves_s=st.integers(0, 90).map(lambda n: n / 10)
)
def test_nobody_leads(comes: list[float], first_leaves_s: float) -> None:
    """The client that began a call may leave at any moment: the call goes on for the others, and is whole."""
    scenario = CallScenario([b"a", b"b", b"c"], gap_s=4.0)
    first, *others = sorted(comes)
    clients = [
        VisitingClient(first, 0.0, first_leaves_s, LONG_S),
        *(VisitingClient(at, 0.0, None, LONG_S) for at in others),
    ]
    told = run(play(scenario, clients))
    assert [one.read for one in told[1:]] == [b"abc"] * len(others)
    if others[0] < first + first_leaves_s - 0.01:  # at the same instant either may be first
        assert len(scenario.calls) == 1


class TestPace:
    async def test_a_slow_reader_holds_nobody_up(self) -> None:
        """A slow reader does not slow down the others."""
        scenario = CallScenario([b"x" * 20_000] * 50, gap_s=0.1)
        async with scenario.subscriber() as slow, scenario.subscriber() as fast:
            crawling = asyncio.create_task(all_of(slow, pace_s=60.0))
            assert len(await all_of(fast)) == 1_000_000
            assert clock.now() == pytest.approx(1.0 + 50 * 0.1)
            assert len(await crawling) == 1_000_000

    async def test_nobody_reads(self) -> None:
        """The provider is read a little ahead of the fastest reader, no further."""
        scenario = CallScenario([b"x" * 1024] * 2000, gap_s=0.0)
        async with scenario.subscriber() as subscriber:
            await asyncio.sleep(60.0)
            (call,) = scenario.calls
            assert call.given * 1024 == pytest.approx(AHEAD_BYTES_MAX, abs=2048)
            assert len(await all_of(subscriber)) == 2000 * 1024

    async def test_far_behind(self) -> None:
        """A reader so far behind that it costs too much memory makes the others wait."""
        scenario = CallScenario([b"x" * 1024] * 4000, gap_s=0.0, bytes_max=2 * KEPT_BYTES_MAX)
        async with scenario.subscriber() as fast:
            async with scenario.subscriber():
                reading = asyncio.create_task(all_of(fast))
                await asyncio.sleep(60.0)
                assert scenario.calls[0].given * 1024 == pytest.approx(2 * KEPT_BYTES_MAX, abs=2048)
            assert len(await reading) == 4000 * 1024

    async def test_a_piece_at_a_time(self) -> None:
        """What has piled up is given in pieces, so that a client that does not read is noticed."""
        scenario = CallScenario([b"x" * 10_000] * 50, gap_s=0.0)
        async with scenario.subscriber() as first, scenario.subscriber() as late:
            await all_of(first)
            sizes = []
            while chunks := await late.read():
                sizes.append(sum(len(chunk.raw) for chunk in chunks))
        assert sum(sizes) == 500_000
        assert max(sizes) <= PIECE_BYTES_MAX

    async def test_too_long_to_join(self) -> None:
        """Of a long answer only what somebody has yet to read is kept: who comes then has a call of its
        own."""
        scenario = CallScenario([b"x" * 10_000] * 300, gap_s=0.01)
        async with scenario.subscriber() as first:
            reading = asyncio.create_task(all_of(first))
            await asyncio.sleep(2.9)
            assert scenario.calls[0].given * 10_000 > KEPT_BYTES_MAX
            async with scenario.subscriber() as late:
                assert len(scenario.calls) == 2
                assert first._call._bytes > KEPT_BYTES_MAX
                assert sum(len(chunk.raw) for chunk in first._call._chunks) < 100_000
                assert len(await all_of(late)) == len(await reading) == 3_000_000


async def test_a_defect_is_everybodys() -> None:
    """What is wrong with us is raised where somebody hears it, in each request."""

    class BrokenScenario(CallScenario):
        async def ask(self, context: RequestContext) -> TimedStream:
            await asyncio.sleep(1.0)
            raise ZeroDivisionError

    scenario = BrokenScenario([])

    async def one() -> None:
        async with scenario.subscriber():
            pass

    found = await asyncio.gather(one(), one(), return_exceptions=True)
    assert [type(error) for error in found] == [ZeroDivisionError] * 2


async def test_too_little_time_is_nobody_elses() -> None:
    """A call that had no chance in the time of who began it is made again for those who have more."""

    class HurriedScenario(CallScenario):
        async def ask(self, context: RequestContext) -> TimedStream:
            until_s = context.timeouts.deadline_s
            await asyncio.sleep(1.0)
            if until_s < 5.0:
                raise DeadlineExceeded("Less time is left than an answer needs.")
            return await super().ask(context)

    scenario = HurriedScenario([b"a", b"b"])

    async def one(comes_s: float, within_s: float) -> bytes:
        await asyncio.sleep(comes_s)
        async with scenario.subscriber(within_s) as subscriber:
            return await all_of(subscriber)

    asking = one(0.0, 2.0), one(0.5, LONG_S), one(0.7, LONG_S)
    hasty, *patient = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(hasty, DeadlineExceeded)
    assert patient == [b"ab", b"ab"]
    assert len(scenario.calls) == 1


async def test_an_answer_at_the_deadline_is_too_late() -> None:
    """Of a stream that begins as the deadline passes nothing is read: it is late, and not cut."""

    class LateScenario(CallScenario):
        async def ask(self, context: RequestContext) -> TimedStream:
            await asyncio.sleep(2.0)
            return TimedStream(context.timeouts, self.chunks)

    with pytest.raises(DeadlineExceeded):
        async with LateScenario([b"a", b"b"]).subscriber(2.0):
            pass


async def test_no_timer_is_left() -> None:
    """A call that is over leaves nothing that would ring later."""
    scenario = CallScenario([b"a"])
    async with scenario.subscriber() as subscriber:
        await all_of(subscriber)
    assert subscriber._call._timeouts is not None
    assert subscriber._call._timeouts._timer is None


async def test_more_time_for_one_is_more_time_for_the_call() -> None:
    """The call's own wait under way is extended too, and named as what it is when it ends."""
    timeouts = Timeouts(clock.now() + 1.0)
    part = Timeouts(clock.now() + 1.0, outer=timeouts)
    asyncio.get_running_loop().call_later(0.5, timeouts.extend, clock.now() + 3.0)
    with pytest.raises(TimedOut, match="deadline"):
        await timeouts.run("first_token", 9.0, asyncio.sleep(20))
    assert clock.now() == pytest.approx(3.0)
    assert part.deadline_s == timeouts.deadline_s
    timeouts.extend(60.0)
    with pytest.raises(TimedOut, match="first_token"):
        await timeouts.run("first_token", 9.0, asyncio.sleep(20))
    part.close()
    timeouts.close()
