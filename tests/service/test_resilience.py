"""The whole service against providers in trouble, in virtual time: one claim for each mechanism, seen from
outside."""

import asyncio
import json
from collections.abc import Callable

import pytest

from dub5.service import clock
from dub5.service.config.options import (
    AdmissionOptions,
    BreakerOptions,
    BudgetOptions,
    LimiterOptions,
    ProbeOptions,
    RetryOptions,
    TimeoutOptions,
)
from dub5.simulators.script import Hang, Head, Respond, Script, SimRequest, Wait
from tests.support.world import (
    SSE,
    STRICT,
    ServiceWorld,
    healthy,
    in_turn,
    limited,
    reply,
    script,
    share,
    status,
    text_of,
    until,
)

NO_PROBES = {"probe": ProbeOptions(enabled=False)}
STALLS = script(Hang())


async def took(ask: Callable[[], object]) -> float:
    began_s = clock.now()
    await ask()  # type: ignore[misc]
    return clock.now() - began_s


class TestSameTarget:
    @pytest.mark.parametrize("number", [500, 502, 503, 504])
    async def test_a_blink(self, number: int) -> None:
        """A failure that may be over at once is tried once more where it happened."""
        async with ServiceWorld(one=in_turn(status(number, b"{}"), healthy()), two=healthy()) as world:
            answer = await world.ask()
        assert answer.headers["x-dub5-target"] == "one/m"
        assert world.asked["two"] == []

    async def test_once(self) -> None:
        """Who blinks twice is left: the next target answers."""
        async with ServiceWorld(one=status(500, b"{}"), two=healthy()) as world:
            answer = await world.ask()
        assert answer.headers["x-dub5-target"] == "two/m"
        assert len(world.asked["one"]) == 2

    @pytest.mark.parametrize("broken", [status(530, b"error code: 1033"), status(529, b"{}"), STALLS])
    async def test_never(self, broken: Respond) -> None:
        """A host that is gone, an overload and a timeout are not repeated: the next target is asked at
        once."""
        async with ServiceWorld(one=broken, two=healthy()) as world:
            await world.ask(stream=True)
        assert len(world.asked["one"]) == 1

    async def test_a_short_retry_after_is_waited_for(self) -> None:
        """A limit that ends within three seconds is sat out, not a moment less."""
        async with ServiceWorld(one=in_turn(limited("2"), healthy()), two=healthy()) as world:
            waited_s = await took(lambda: world.ask())
        assert world.asked["two"] == []
        assert 2.1 <= waited_s < 2.3

    @pytest.mark.parametrize("said", ["30", ""])
    async def test_a_long_one_is_not(self, said: str) -> None:
        """A longer one, or one that is not said, sends the request on at once."""
        async with ServiceWorld(one=limited(said), two=healthy()) as world:
            assert await took(lambda: world.ask()) < 0.2
        assert len(world.asked["one"]) == 1

    async def test_side_effects(self) -> None:
        """What a provider may have acted on already is not asked of it twice."""
        closes = script(Head(200, SSE), Wait(0.1))
        async with ServiceWorld(one=closes, two=healthy()) as world:
            await world.ask(stream=True, store=True)
        assert len(world.asked["one"]) == 1

    async def test_budget(self) -> None:
        """When everything fails, retries add a tenth and one a second, not a second request for each."""
        options = {"budget": BudgetOptions(), **NO_PROBES}
        never_opens = BreakerOptions(failures_in_a_row=10**6, calls_min=10**6)
        async with ServiceWorld(one=status(500, b"{}"), options=options, breaker=never_opens) as world:
            for _ in range(400):
                await asyncio.gather(world.ask(), asyncio.sleep(0.1))
            over_s = clock.now()
        extra = len(world.asked["one"]) - 400
        assert 20 < extra <= 400 * 0.1 + over_s + 10 + 1


class TestProbes:
    """`one` stalls for ever, or until a moment; its breaker opens after five."""

    BREAKER = BreakerOptions(failures_in_a_row=2, slow_start_s=0.0)
    TIMEOUTS = TimeoutOptions(first_token_s=3.0)

    def world(self, one: Respond, two: Respond | None = None, **more: object) -> ServiceWorld:
        more = {"options": NO_PROBES, **more}
        two_too = {} if two is None else {"two": two}
        return ServiceWorld(one=one, **two_too, breaker=self.BREAKER, timeouts=self.TIMEOUTS, **more)  # type: ignore[arg-type]

    async def test_nobody_waits_for_one(self) -> None:
        """While a target is dead, those whose requests probe it are answered as fast as all others."""
        async with self.world(STALLS, healthy()) as world:
            await asyncio.gather(*(world.ask(stream=True) for _ in range(2)))
            slowest_s = max([await took(lambda: world.ask(stream=True)) for _ in range(400)])
            probes = len(world.asked["one"]) - 2
        assert probes >= 3
        assert slowest_s < 0.3
        assert world.happened("breaker_closed") == 0

    async def test_a_slower_target_is_heard_out(self) -> None:
        """A target that is back, only not as fast as the other, is noticed all the same."""
        async with self.world(until(4, STALLS, healthy(first_s=1.0)), healthy()) as world:
            await asyncio.gather(*(world.ask(stream=True) for _ in range(2)))
            await asyncio.sleep(5)
            answer = await world.ask(stream=True)
            await asyncio.sleep(2)
        assert answer.headers["x-dub5-target"] == "two/m"
        assert world.happened("breaker_closed") == 1

    async def test_beside_one_that_just_came_back(self) -> None:
        """Who is still on its ramp is asked beside a probe of another, before that one's clock has run
        out."""
        async with ServiceWorld(
            one=until(3, status(529, b"{}"), healthy()),
            two=STALLS,
            breaker=BreakerOptions(failures_in_a_row=2, slow_start_s=60.0),
            timeouts=self.TIMEOUTS,
            options=NO_PROBES,
        ) as world:
            await asyncio.gather(*(world.ask(stream=True) for _ in range(2)))
            await asyncio.sleep(6)
            await world.ask(stream=True)
            slowest_s = max([await took(lambda: world.ask(stream=True)) for _ in range(200)])
        assert world.happened("hedged") >= 2
        assert slowest_s < 0.3

    async def test_the_probe_may_win(self) -> None:
        """The faster one answers, whole; the other is told at once."""
        async with self.world(until(4, STALLS, healthy()), healthy(first_s=5.0)) as world:
            await asyncio.gather(*(world.ask(stream=True) for _ in range(2)))
            await asyncio.sleep(5)
            answer = await world.ask(stream=True)
            assert world.service.fleet.snapshots(clock.now())[1].in_flight == 0
        assert answer.headers["x-dub5-trail"].endswith("two/m=hedge_lost;100ms, one/m=ok;100ms")
        assert text_of(answer.body) == "hello big world"

    async def test_a_client_that_leaves_the_race(self) -> None:
        """When the client leaves a race, both calls are closed at once, and the probe is permitted again."""
        async with self.world(STALLS, until(4, healthy(), STALLS)) as world:
            await asyncio.gather(*(world.ask(stream=True) for _ in range(2)))
            await asyncio.sleep(6)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await world.ask(stream=True)
            states = world.service.fleet.snapshots(clock.now())
        assert [state.in_flight for state in states] == [0, 0]
        assert states[0].probe_due

    async def test_a_refusal_does_not_end_the_race(self) -> None:
        """The answer of the other target contradicts a probe's refusal."""
        bad = status(400, b'{"error":{"message":"bad"}}')
        async with self.world(until(4, STALLS, bad), healthy(first_s=1.0)) as world:
            await asyncio.gather(*(world.ask(stream=True) for _ in range(2)))
            await asyncio.sleep(5)
            answer = await world.ask(stream=True)
        assert answer.headers["x-dub5-target"] == "two/m"

    async def test_the_deadline_of_a_race(self) -> None:
        """A short deadline ends the request honestly; the probe still tells the breaker what it learns."""
        async with self.world(STALLS, until(4, healthy(), STALLS)) as world:
            await asyncio.gather(*(world.ask(stream=True) for _ in range(2)))
            await asyncio.sleep(6)
            answer = await world.ask(stream=True, headers={"x-deadline-ms": "500"})
            await asyncio.sleep(3)
        assert answer.json()["error"]["code"] == "deadline_exceeded"
        assert world.happened("breaker_opened") == 2

    async def test_a_probe_that_hangs_blocks_nobody(self) -> None:
        """With one provider, and answers that may take a minute, the next probe does not wait for the last
        one."""
        timeouts = TimeoutOptions(whole_answer_s=60.0)
        async with ServiceWorld(
            one=until(100, STALLS, healthy()), timeouts=timeouts, options=NO_PROBES
        ) as world:
            asks: list[asyncio.Task[object]] = []
            answered_s = 0.0
            while clock.now() < 130 and not answered_s:
                asks.append(asyncio.ensure_future(world.ask()))  # type: ignore[arg-type]
                await asyncio.sleep(1)
                if world.outcomes().get("complete"):
                    answered_s = clock.now()
            for ask in asks:
                ask.cancel()
            await asyncio.gather(*asks, return_exceptions=True)
        assert 100 < answered_s <= 115

    async def test_long_answers(self) -> None:
        """JSON answers that take longer than a probe may still show that their target is back."""
        async with self.world(until(5, status(500, b"{}"), healthy(first_s=20.0)), healthy()) as world:
            for _ in range(60):
                await asyncio.gather(world.ask(), asyncio.sleep(1.0))
        assert world.happened("breaker_closed") >= 1

    async def test_without_traffic(self) -> None:
        """Without traffic a target that is back is found to be so within 15 s."""
        async with self.world(until(100, STALLS, healthy()), options={}) as world:
            await asyncio.gather(*(world.ask(stream=True) for _ in range(2)))
            await asyncio.sleep(110 - clock.now())
            assert len(world.asked["one"]) > 5
            await asyncio.sleep(115.5 - clock.now())
        assert world.happened("breaker_closed") == 1
        assert world.outcomes() == {"failed": 2}

    async def test_a_target_that_only_makes_vectors(self) -> None:
        """It is probed with what it was asked for: a chat would say 404 for ever."""
        vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
        vectors = json.dumps({"object": "list", "model": "m", "data": [vector]}).encode()

        def back(request: SimRequest) -> Script:
            known = request.path.endswith("/embeddings")
            return reply(200, vectors) if known else reply(404, b'{"error":{"message":"no chat model"}}')

        async with ServiceWorld(one=until(3, status(500, b"{}"), back), breaker=self.BREAKER) as world:
            for _ in range(2):
                await world.client.request("POST", "/v1/embeddings", json={"model": "chat", "input": "x"})
            await asyncio.sleep(20)
        assert world.happened("breaker_closed") == 1


class TestSlowness:
    BREAKER = BreakerOptions(calls_min=5, slow_start_s=0.0)
    SLOW = staticmethod(healthy(first_s=6.0))

    async def test_others_are_asked(self) -> None:
        """A target whose first tokens come late is left alone as one that fails would be."""
        async with ServiceWorld(
            one=self.SLOW, two=healthy(), breaker=self.BREAKER, options=NO_PROBES, timeouts=STRICT
        ) as world:
            for _ in range(5):
                await world.ask(stream=True)
            assert await took(lambda: world.ask(stream=True)) < 0.3
        assert world.happened("breaker_opened") == 1

    async def test_never_the_last_candidate(self) -> None:
        """Better a slow answer than none: where nobody else is left it is asked all the same."""
        async with ServiceWorld(
            one=self.SLOW, two=STALLS, breaker=self.BREAKER, options=NO_PROBES, timeouts=STRICT
        ) as world:
            answers = [await world.ask(stream=True) for _ in range(20)]
        assert {answer.status for answer in answers} == {200}
        assert world.happened("breaker_opened") >= 2

    @pytest.mark.parametrize("last_call", [STALLS, healthy(first_s=6.0)], ids=["fails", "slow"])
    async def test_the_reason_counts_not_the_last_call(self, last_call: Respond) -> None:
        """A breaker that opened for slowness is better than nobody, one that opened for failures is not,
        whichever call was the one too many."""
        breaker = BreakerOptions(window_s=600, calls_min=10, failures_in_a_row=100)
        slow, fails = healthy(first_s=6.0), STALLS
        # 6 slow of 10 with a failure last; 5 failures of 10 with a slow one last
        calls = [slow] * 6 + [healthy()] * 3 + [fails] if last_call is STALLS else [fails] * 5 + [slow] * 5
        async with ServiceWorld(
            one=in_turn(*calls, healthy()), breaker=breaker, options=NO_PROBES, timeouts=STRICT
        ) as world:
            for _ in range(10):
                await world.ask(stream=True)
            answer = await world.ask(stream=True)
        assert world.happened("breaker_opened") == 1
        assert answer.status == (200 if last_call is STALLS else 503)


class TestLoad:
    async def test_slow_start(self) -> None:
        """A target that is back gets a growing share, not everything at once."""
        breaker = BreakerOptions(failures_in_a_row=2, slow_start_s=10.0)
        async with ServiceWorld(
            one=until(3, status(529), healthy()), two=healthy(), breaker=breaker
        ) as world:
            await asyncio.gather(*(world.ask() for _ in range(2)))
            await asyncio.sleep(5)
            shares = []
            for _ in range(3):
                before = len(world.asked["one"])
                for _ in range(50):
                    await asyncio.gather(world.ask(), asyncio.sleep(0.1))
                shares.append((len(world.asked["one"]) - before) / 50)
        assert 0.05 < shares[0] < shares[1] < shares[2] == 1.0

    async def test_a_provider_gets_what_it_takes(self) -> None:
        """One that has room for ten, and says 529 to the rest, is soon asked for about ten at a time."""
        open_now = 0

        def room_for_ten(request: SimRequest) -> Script:
            nonlocal open_now
            if open_now >= 10:
                yield from reply(529, b"{}")
                return
            open_now += 1
            try:
                yield from healthy(first_s=1.0)(request)
            finally:
                open_now -= 1

        never_opens = BreakerOptions(failures_in_a_row=10**6, calls_min=10**6)
        async with ServiceWorld(one=room_for_ten, two=healthy(), breaker=never_opens) as world:
            asks = []
            for _ in range(1200):
                asks.append(asyncio.ensure_future(world.ask()))  # type: ignore[arg-type]
                await asyncio.sleep(0.05)
            await asyncio.gather(*asks)
            limit = world.service.fleet.snapshots(clock.now())[0].limit
        refused = len(world.asked["one"]) - sum(
            "one/m=ok" in ask.result().headers["x-dub5-trail"] for ask in asks
        )
        assert 7 <= limit <= 15
        assert refused < 120  # of 1,200
        assert world.outcomes() == {"complete": 1200}

    async def test_everybody_is_full(self) -> None:
        """Where nobody waits it is said at once, and as what it is."""
        options = {"limiter": LimiterOptions(min=2, max=2), "admission": AdmissionOptions(waiting_max=0)}
        async with ServiceWorld(one=healthy(first_s=1.0), options=options) as world:
            answers = await asyncio.gather(*(world.ask() for _ in range(5)))
        refused = [answer for answer in answers if answer.status == 503]
        assert len(refused) == 3
        assert {answer.json()["error"]["code"] for answer in refused} == {"overloaded"}

    async def test_a_target_that_fails_a_little(self) -> None:
        """At a quarter of errors no breaker opens; the others go first all the same, and nobody sees any of
        it."""
        sick = share(0.25, status(529), healthy())
        async with ServiceWorld(one=sick, two=healthy()) as world:
            for _ in range(200):
                await asyncio.gather(world.ask(), asyncio.sleep(0.1))
        assert len(world.asked["one"]) < 60
        assert world.outcomes() == {"complete": 200}
        assert world.happened("breaker_opened") == 0

    async def test_balanced(self) -> None:
        """The faster of two equals gets the more requests."""
        route = {"policy": "balanced"}
        async with ServiceWorld(one=healthy(first_s=1.0), two=healthy(first_s=0.2), route=route) as world:
            asks = []
            for _ in range(200):
                asks.append(asyncio.ensure_future(world.ask(stream=True)))  # type: ignore[arg-type]
                await asyncio.sleep(0.05)
            await asyncio.gather(*asks)
        assert len(world.asked["two"]) > 2 * len(world.asked["one"]) > 0


async def test_retries_can_be_switched_off() -> None:
    """With retries set to 0 there are none."""
    options = {"retry": RetryOptions(same_target_max=0, last_target_max=0)}
    async with ServiceWorld(one=status(500, b"{}"), options=options) as world:
        answer = await world.ask()
    assert len(world.asked["one"]) == 1
    assert [line["target"] for line in json.loads(answer.body)["error"]["attempts"]] == ["one/m"]
