"""The way of a request, through the whole application, in virtual time."""

import asyncio
import json
from types import MappingProxyType

import pytest
from msgspec.structs import replace

from dub5.chaos.simulation.mutant import mutated
from dub5.service import clock
from dub5.service.config.options import BreakerOptions, CacheOptions, ProbeOptions, TimeoutOptions
from dub5.simulators.script import Close, Data, End, Hang, Head, Reset, Wait
from dub5.simulators.virtual import Connect
from tests.support.world import (
    SSE,
    WORDS,
    ServiceWorld,
    chunk,
    completion,
    healthy,
    in_turn,
    payloads,
    reply,
    script,
    status,
    text_of,
)

TEXT = "".join(WORDS)
DOWN = status(530, b"error code: 1033", {"content-type": "text/plain"})
TIMEOUTS = TimeoutOptions(
    pool_s=1.0, connect_s=3.0, first_token_s=10.0, whole_answer_s=60.0, between_tokens_s=15.0, total_s=120.0
)


class TestFailover:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("broken", "reason"),
        [
            (DOWN, "http_530"),
            (status(500, b"{}"), "http_500"),
            (status(401, b'{"error":{"message":"bad key"}}'), "http_401"),
            (status(429, b"{}", {"retry-after": "20"}), "http_429"),
            (status(404, b"{}"), "http_404"),
            (script(Head(429), Data(b'{"error":'), Reset()), "http_429"),
            (script(Head(503), Hang()), "http_503"),
            (script(Reset()), "wait_reset"),
            (script(Close()), "wait_closed"),
            (script(Head(200, SSE), Data(b": hello\n\n"), Close()), "body_closed"),
            (lambda request: reply(200, b"<html>", {"content-type": "text/html"}), None),
            (lambda request: reply(200, b'{"error":{"message":"no"}}'), None),
            (lambda request: reply(200, b""), None),
        ],
        ids=[
            "530",
            "500",
            "401",
            "429",
            "404",
            "reset_429",
            "hung_503",
            "reset",
            "closed",
            "cut",
            "html",
            "error_in_200",
            "nothing",
        ],
    )
    async def test_unseen(self, broken, reason: str | None, stream: bool) -> None:
        """Whatever the first provider does instead of answering, the client gets the second one's answer."""
        async with ServiceWorld(one=broken, two=healthy()) as world:
            answer = await world.ask(stream=stream)
        assert answer.status == 200
        assert answer.headers["x-dub5-target"] == "two/m"
        said = text_of(answer.body) if stream else answer.json()["choices"][0]["message"]["content"]
        assert said == TEXT
        if reason:
            assert answer.headers["x-dub5-trail"].startswith(f"one/m={reason};")
        assert world.outcomes() == {"complete": 1}
        assert world.happened("failed_over") == 1

    async def test_each_with_its_own_key(self) -> None:
        """No provider ever sees the key of another."""
        async with ServiceWorld(one=DOWN, two=healthy()) as world:
            await world.ask(headers={"authorization": "Bearer sk-of-the-client"})
        assert world.asked["one"][0].headers["authorization"] == "Bearer sk-one"
        assert world.asked["two"][0].headers["authorization"] == "Bearer sk-two"

    async def test_refused_connections(self) -> None:
        """A host that refuses costs nothing but a line in the trail."""
        async with ServiceWorld(one=healthy(), two=healthy()) as world:
            world.wire.link("http://one.test/v1").connect = Connect.REFUSED
            answer = await world.ask()
        assert answer.headers["x-dub5-trail"].startswith("one/m=connect_refused;")

    async def test_stale_connection(self) -> None:
        """A kept-alive connection that has died earns one try on a fresh one, at the same target."""
        async with ServiceWorld(one=healthy(), two=healthy()) as world:
            await world.ask()
            world.wire.link("http://one.test/v1").stale = True
            answer = await world.ask()
        assert answer.headers["x-dub5-target"] == "one/m"
        assert world.service.board.targets["one/m"].answered == 2

    async def test_the_next_key(self) -> None:
        """A provider with two keys is asked with the other one before anybody else is."""

        def by_key(request):
            limited = request.headers["authorization"] == "Bearer sk-one"
            return status(429, b"{}", {"retry-after": "20"})(request) if limited else healthy()(request)

        async with ServiceWorld(one=by_key, two=healthy(), keys={"one": ("sk-one", "sk-spare")}) as world:
            answers = [await world.ask() for _ in range(2)]
        assert [answer.headers["x-dub5-target"] for answer in answers] == ["one/m", "one/m"]
        assert len(world.asked["one"]) == 3
        assert world.asked["two"] == []

    @pytest.mark.parametrize(
        ("refusal", "status_then"),
        [
            (status(400, b'{"error":{"message":"too long","code":"context_length_exceeded"}}'), 400),
            (status(413, b"{}"), 413),
        ],
        ids=["context", "size"],
    )
    async def test_too_long_for_everybody(self, refusal, status_then: int) -> None:
        """What no provider has room for is the caller's fault, and not worth another try."""
        async with ServiceWorld(one=refusal, two=refusal) as world:
            answer = await world.ask()
        assert (answer.status, answer.headers["x-should-retry"]) == (status_then, "false")
        assert len(world.asked["one"]) == len(world.asked["two"]) == 1
        assert world.outcomes() == {"refused": 1}

    @pytest.mark.parametrize("inside", [200, 201, 502])
    async def test_content_filter(self, inside: int) -> None:
        """A filter's word is never routed around, and never passed on with an odd status."""
        filtered = status(inside, b'{"error":{"message":"no","code":"content_filter"}}')
        async with ServiceWorld(one=filtered, two=healthy()) as world:
            answer = await world.ask()
        assert answer.status == 400
        assert world.asked["two"] == []

    @pytest.mark.parametrize("begun", [False, True])
    async def test_a_stream_that_a_filter_ends(self, begun: bool) -> None:
        """It is the answer, even without a word: nobody else is asked for what a filter has withheld."""
        words = [chunk({"content": "So"})] if begun else []
        end = [chunk({"role": "assistant", "content": ""}), *words, chunk({}, "content_filter")]
        filtered = script(Head(200, SSE), *end, Data(b"data: [DONE]\n\n"), End())
        async with ServiceWorld(one=filtered, two=healthy()) as world:
            answer = await world.ask(stream=True)
        assert answer.status == 200 and payloads(answer.body)[-1] == "[DONE]"
        assert "content_filter" in answer.body.decode()
        assert world.asked["two"] == []

    async def test_a_filter_that_is_routed_around_is_caught(self) -> None:
        """A build that takes a filtered stream for an empty one fails the test above."""
        mutant = "filtered_stream_called_empty"
        with mutated(f"tests.simulation.mutants:{mutant}"), pytest.raises(AssertionError):
            await self.test_a_stream_that_a_filter_ends(False)

    async def test_stale_connection_with_side_effects(self) -> None:
        """What the provider may have stored already is not sent to it a second time."""
        async with ServiceWorld(one=healthy(), two=healthy()) as world:
            await world.ask()
            world.wire.link("http://one.test/v1").stale = True
            answer = await world.ask(store=True)
        assert answer.headers["x-dub5-target"] == "two/m"

    async def test_the_callers_fault(self) -> None:
        """A 400 that a second provider repeats is final, in the first one's words; no third one is asked."""
        refusing = status(400, b'{"error":{"message":"max_tokens is too large","code":"invalid"}}')
        also = status(422, b'{"detail":"max_tokens"}')
        async with ServiceWorld(one=refusing, two=also, three=healthy()) as world:
            answer = await world.ask()
        assert answer.status == 400
        assert answer.json()["error"]["message"].startswith("max_tokens is too large. ")
        assert answer.headers["x-should-retry"] == "false"
        assert len(world.asked["two"]) == 1 and world.asked["three"] == []
        assert world.outcomes() == {"refused": 1}


class TestAllDown:
    async def test_honest_503(self) -> None:
        """A 503 has one shape, whose trail names each target and its reason, and never a provider's
        message."""
        async with ServiceWorld(
            one=DOWN, two=status(500, b'{"error":{"message":"SECRET inner fault"}}')
        ) as world:
            answer = await world.ask(stream=True)
        error = answer.json()["error"]
        assert answer.status == 503
        assert error["code"] == "all_targets_down"
        assert [(line["target"], line["reason"]) for line in error["attempts"]] == [
            ("one/m", "http_530"),
            *[("two/m", "http_500")] * 3,  # asked again, as there is nobody else
        ]
        assert error["id"] == answer.headers["x-request-id"]
        assert answer.headers["retry-after"] == "1"
        assert b"SECRET" not in answer.body
        assert b"error code" not in answer.body

    async def test_all_limited(self) -> None:
        """Where every provider is rate limited, the client hears 429 and the shortest wait."""
        limited = [status(429, b"{}", {"retry-after": str(wait)}) for wait in (40, 20)]
        async with ServiceWorld(one=limited[0], two=limited[1]) as world:
            answer = await world.ask()
            again = await world.ask()
        assert (answer.status, answer.headers["retry-after"]) == (429, "20")
        assert answer.json()["error"]["code"] == "all_targets_limited"
        assert again.status == 429
        assert len(world.asked["one"]) == len(world.asked["two"]) == 1  # nobody is asked while it cools down

    async def test_told_to_wait_is_no_rate_limit(self) -> None:
        """A 503 with a Retry-After is obeyed, and told as what it is."""
        async with ServiceWorld(one=status(503, b"{}", {"retry-after": "20"})) as world:
            answers = [await world.ask() for _ in range(2)]
        assert [answer.status for answer in answers] == [503, 503]
        assert answers[1].headers["retry-after"] == "20"
        assert len(world.asked["one"]) == 1

    async def test_refused_keys_are_no_rate_limit(self) -> None:
        """Our key's problem never reaches the caller as one of theirs."""
        async with ServiceWorld(one=status(401, b"{}")) as world:
            answers = [await world.ask() for _ in range(2)]
        assert [answer.status for answer in answers] == [503, 503]
        assert len(world.asked["one"]) == 1

    @pytest.mark.parametrize("said", ["1e308", "99999999999"])
    async def test_absurd_retry_after(self, said: str) -> None:
        """An absurd Retry-After does not ban a provider for ever."""
        one = in_turn(status(429, b"{}", {"retry-after": said}), healthy())
        async with ServiceWorld(one=one, options={"probe": ProbeOptions(enabled=False)}) as world:
            answer = await world.ask()
            assert (answer.status, answer.headers["retry-after"]) == (429, "86400")
            await asyncio.sleep(86_400)
            assert (await world.ask()).status == 200

    async def test_sdks_are_told_not_to_wait_for_hours(self) -> None:
        """A quota that comes back tomorrow is no reason to try again in this request."""
        async with ServiceWorld(one=status(429, b"{}", {"retry-after": "7200"})) as world:
            answer = await world.ask()
        assert answer.headers["x-should-retry"] == "false"


class TestCommitPoint:
    async def test_nothing_before_the_first_content(self) -> None:
        """A role without words is no answer yet: whoever stalls after it is left for the next one."""
        only_role = script(Head(200, SSE), chunk({"role": "assistant", "content": ""}), Hang())
        async with (
            ServiceWorld(one=only_role, two=healthy(), timeouts=TIMEOUTS) as world,
            world.stream() as answer,
        ):
            assert clock.now() == pytest.approx(10.1)
            assert answer.headers["x-dub5-target"] == "two/m"
            assert text_of(await answer.body()) == TEXT

    @pytest.mark.parametrize(
        "ending",
        [
            (Close(),),
            (Reset(),),
            (End(),),
            (Data(b"data: [DONE]\n\n"), End()),
            (Data(b'data: {"error":{"message":"overloaded SECRET"}}\n\n'), End()),
            (Data(b"data: <html>\n\n"), End()),
            (Hang(),),
        ],
        ids=["closed", "reset", "end", "done_without_finish", "error_event", "garbage", "stall"],
    )
    async def test_cut(self, ending) -> None:
        """After the first content every bad end is an error event, and never a `[DONE]`."""
        cut = script(Head(200, SSE), chunk({"content": "half"}), Wait(0.1), *ending)
        async with ServiceWorld(one=cut, two=healthy(), timeouts=TIMEOUTS) as world:
            answer = await world.ask(stream=True)
        events = payloads(answer.body)
        assert text_of(answer.body) == "half"
        assert events[-1]["error"]["code"] in ("stream_cut", "stream_stalled")
        assert "[DONE]" not in events
        assert b"SECRET" not in answer.body
        assert world.asked["two"] == []
        assert world.outcomes() == {"cut": 1}
        assert world.happened("stream_cut") == 1

    async def test_chatty_after_the_finish(self) -> None:
        """Comments after the finish do not delay the end."""

        def chatty(request):
            yield Head(200, SSE)
            yield chunk({"content": "all"})
            yield chunk({}, "stop")
            while True:
                yield Wait(0.5)
                yield Data(b": bye\n\n")

        async with ServiceWorld(one=chatty) as world:
            answer = await world.ask(stream=True)
        assert payloads(answer.body)[-1] == "[DONE]"
        assert clock.now() < 2

    async def test_finished_but_never_closed(self) -> None:
        """An answer that is whole stays whole, however badly its stream ends."""
        lingering = script(Head(200, SSE), chunk({"content": "all"}), chunk({}, "stop"), Hang())
        async with ServiceWorld(one=lingering) as world:
            answer = await world.ask(stream=True)
        assert payloads(answer.body)[-1] == "[DONE]"
        assert clock.now() < 2
        assert world.outcomes() == {"complete": 1}


class TestNotices:
    """Routes that name patterns hold the beginning of an answer back until it can be judged."""

    NOTICE = ("The legacy ", "text API is being ", "deprecated for authenticated users.")
    ROUTE = MappingProxyType({"reject_patterns": (r"legacy text API is being deprecated",)})

    @pytest.mark.parametrize("stream", [False, True])
    async def test_notice(self, stream: bool) -> None:
        """A notice sold as an answer is a failure, and somebody else answers."""
        async with ServiceWorld(one=healthy(words=self.NOTICE), two=healthy(), route=self.ROUTE) as world:
            answer = await world.ask(stream=stream)
        assert answer.headers["x-dub5-trail"].startswith("one/m=rejected_content;")
        assert answer.headers["x-dub5-target"] == "two/m"

    async def test_notice_of_finished_chunks(self) -> None:
        """The same where each chunk has a finish reason, as some providers send them: it is no end."""
        words = [part for word in self.NOTICE for part in (Wait(0.01), chunk({"content": word}, "stop"))]
        notice = script(Head(200, SSE), *words, End())
        async with ServiceWorld(one=notice, two=healthy(), route=self.ROUTE) as world:
            answer = await world.ask(stream=True)
        assert answer.headers["x-dub5-target"] == "two/m"

    @pytest.mark.parametrize(
        "answering",
        [
            healthy(words=("word ",) * 100, gap_s=0.001),
            healthy(words=("one ", "two"), gap_s=5.0),
            healthy(words=("short",)),
            script(Head(200, SSE), chunk({"content": "a"}), Wait(0.1), chunk({}, "stop"), End()),
        ],
        ids=["long", "slow", "short", "ends_while_judged"],
    )
    async def test_answer(self, answering) -> None:
        """An answer passes whole, however it comes."""
        async with ServiceWorld(one=answering, route=self.ROUTE) as world:
            answer = await world.ask(stream=True)
        assert payloads(answer.body)[-1] == "[DONE]"
        assert world.outcomes() == {"complete": 1}

    async def test_cut_while_judged(self) -> None:
        """An answer that ends too early while it is held back is no answer, and somebody else answers."""
        cut = script(Head(200, SSE), chunk({"content": "a"}), Wait(0.1), End())
        async with ServiceWorld(one=cut, two=healthy(), route=self.ROUTE) as world:
            answer = await world.ask(stream=True)
        assert answer.headers["x-dub5-target"] == "two/m"
        assert world.outcomes() == {"complete": 1}

    async def test_held_back_for_a_moment_only(self) -> None:
        """A slow second word does not keep the first one back for longer than 300 ms."""
        slow = healthy(words=("one ", "two"), gap_s=5.0)
        async with ServiceWorld(one=slow, route=self.ROUTE) as world, world.stream() as answer:
            assert clock.now() == pytest.approx(0.1 + 0.3)
            assert text_of(await answer.body()) == "one two"

    async def test_leaving_while_held_back(self) -> None:
        """A client that leaves while its answer is held back leaves nothing behind."""
        async with ServiceWorld(one=healthy(gap_s=5.0), route=self.ROUTE) as world:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2), world.stream():
                    pass
        assert world.outcomes() == {"cancelled": 1}


class TestClocks:
    """All five, and the deadline over them, each at its own moment."""

    async def test_connect(self) -> None:
        """A connection that does not open is left after `connect_s`."""
        async with ServiceWorld(one=healthy(), two=healthy(first_s=0), timeouts=TIMEOUTS) as world:
            world.wire.link("http://one.test/v1").connect = Connect.STALLS
            answer = await world.ask()
        assert clock.now() == pytest.approx(3.0)
        assert answer.headers["x-dub5-trail"] == "one/m=connect_timeout;3000ms, two/m=ok;0ms"

    async def test_pool(self) -> None:
        """Waiting for a free connection has a clock of its own, and blames nobody."""
        from_two = healthy(first_s=0)
        async with ServiceWorld(one=script(Hang()), two=from_two, timeouts=TIMEOUTS) as world:
            world.wire._slots._per_origin_max = 1
            first = asyncio.create_task(world.ask())
            await asyncio.sleep(0.5)
            answer = await world.ask()
            assert clock.now() == pytest.approx(1.5)
            assert answer.headers["x-dub5-trail"].startswith("one/m=pool_timeout;1000ms")
            await first
        assert world.happened("breaker_opened") == 0

    @pytest.mark.parametrize(
        "stall", [(Hang(),), (Head(200, SSE), Hang())], ids=["before_head", "after_head"]
    )
    async def test_first_token(self, stall) -> None:
        """A stream without a first token is left after `first_token_s`."""
        async with ServiceWorld(one=script(*stall), two=healthy(first_s=0), timeouts=TIMEOUTS) as world:
            async with world.stream() as answer:
                assert clock.now() == pytest.approx(10.0)
            assert answer.headers["x-dub5-trail"] == "one/m=first_token_timeout;10000ms, two/m=ok;0ms"

    async def test_whole_answer(self) -> None:
        """A JSON answer has longer, for it comes all at once."""
        slow = script(Head(200, {"content-type": "application/json"}), Data(b'{"choices":'), Hang())
        patient = replace(TIMEOUTS, hedge_after_s=60.0)
        async with ServiceWorld(one=slow, two=healthy(first_s=0), timeouts=patient) as world:
            answer = await world.ask()
        assert clock.now() == pytest.approx(60.0)
        assert answer.headers["x-dub5-trail"].startswith("one/m=whole_answer_timeout;60000ms")

    async def test_comments_reset_no_clock(self) -> None:
        """A provider that only says that it is still there is left all the same."""

        def chatty(request):
            yield Head(200, SSE)
            while True:
                yield Wait(1.0)
                yield Data(b": OPENROUTER PROCESSING\n\n")

        async with ServiceWorld(one=chatty, two=healthy(), timeouts=TIMEOUTS) as world, world.stream():
            assert clock.now() == pytest.approx(10.1)

    async def test_between_tokens(self) -> None:
        """After its first token a stream may pause for `between_tokens_s`, comments or not."""

        def pausing(request):
            yield Head(200, SSE)
            yield chunk({"content": "a"})
            yield Wait(14.0)
            yield chunk({"content": "b"})
            while True:
                yield Wait(4.0)
                yield Data(b": still here\n\n")

        async with ServiceWorld(one=pausing, timeouts=TIMEOUTS) as world:
            answer = await world.ask(stream=True)
        assert clock.now() == pytest.approx(14.0 + 15.0)
        assert payloads(answer.body)[-1]["error"]["code"] == "stream_stalled"

    async def test_a_slow_reader_is_not_the_providers_fault(self) -> None:
        """The clock between tokens stands still while the client does not read."""
        wide = healthy(words=("x" * 40_000,) * 6, gap_s=0)
        async with ServiceWorld(one=wide, timeouts=TIMEOUTS) as world, world.stream() as answer:
            read = len(await answer.read())
            await asyncio.sleep(25)
            while data := await answer.read():
                read += len(data)
        assert read > 240_000
        assert world.outcomes() == {"complete": 1}

    async def test_a_reader_who_stopped(self) -> None:
        """A client that reads nothing for 30 s has left, and the provider is told."""
        endless = healthy(words=("x" * 40_000,) * 1000, gap_s=0.01)
        async with ServiceWorld(one=endless, timeouts=TIMEOUTS) as world, world.stream() as answer:
            await answer.read()
            await asyncio.sleep(40)
            assert world.outcomes() == {"cancelled": 1}

    async def test_the_deadline_of_a_slow_reader(self) -> None:
        """A client that reads, however slowly, is told when its time is over."""
        wide = healthy(words=("x" * 60_000,) * 100, gap_s=0)
        async with (
            ServiceWorld(one=wide) as world,
            world.stream(headers={"x-deadline-ms": "12000"}) as answer,
        ):
            data = b""
            while piece := await answer.read():
                data += piece
                await asyncio.sleep(1)
        assert payloads(data)[-1]["error"]["code"] == "stream_stalled"
        assert world.outcomes() == {"cut": 1}

    async def test_an_endless_upload(self) -> None:
        """A body that trickles in is not waited for without end."""

        async def trickle():
            while True:
                await asyncio.sleep(20)
                yield b" "

        async with ServiceWorld(one=healthy()) as world:
            answer = await world.client.request("POST", "/v1/chat/completions", body=trickle())
            assert (answer.status, answer.json()["error"]["code"]) == (408, "request_timeout")
            assert clock.now() <= 320
        assert world.outcomes() == {"refused": 1}

    async def test_total(self) -> None:
        """The deadline ends what every other clock would let live, honestly."""
        endless = healthy(words=("x",) * 1000, gap_s=1.0)
        async with ServiceWorld(one=endless, timeouts=TIMEOUTS) as world:
            answer = await world.ask(stream=True)
        assert clock.now() == pytest.approx(120.0)
        assert payloads(answer.body)[-1]["error"]["code"] == "stream_stalled"

    async def test_the_callers_deadline(self) -> None:
        """A caller may allow less; each further try gets only what is left, and none starts without any."""
        async with ServiceWorld(one=script(Hang()), two=script(Hang()), timeouts=TIMEOUTS) as world:
            answer = await world.ask(stream=True, headers={"x-deadline-ms": "12000"})
        assert clock.now() == pytest.approx(12.0)
        assert answer.status == 503
        assert answer.json()["error"]["code"] == "deadline_exceeded"
        assert [line["reason"] for line in answer.json()["error"]["attempts"]] == [
            "first_token_timeout",
            "deadline_timeout",
        ]

    async def test_a_long_healthy_stream(self) -> None:
        """Ten minutes of tokens are no fault of anybody's, where the route allows them."""
        long = healthy(words=("word ",) * 600, gap_s=1.0)
        async with ServiceWorld(one=long, timeouts=TimeoutOptions(total_s=3600.0)) as world:
            answer = await world.ask(stream=True)
        assert clock.now() > 600
        assert payloads(answer.body)[-1] == "[DONE]"


class TestLeaving:
    @pytest.mark.parametrize("at_s", [0.05, 0.15], ids=["before_the_first_token", "in_the_stream"])
    async def test_the_provider_is_told_at_once(self, at_s: float) -> None:
        """When the client leaves, the provider's call is closed in the same instant."""
        closed_at_s: list[float] = []

        def slow(request):
            try:
                yield from healthy(gap_s=10.0)(request)
            finally:
                closed_at_s.append(clock.now())

        async with ServiceWorld(one=slow) as world:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(at_s), world.stream() as answer:
                    await answer.body()
            assert closed_at_s == [pytest.approx(at_s)]
        assert world.outcomes() == {"cancelled": 1}
        assert world.service.admission.in_flight == 0
        assert world.service.fleet.snapshots(clock.now())[0].in_flight == 0


class TestBreaker:
    async def test_opens_and_recovers(self) -> None:
        """After five failures in a row the target is not called; a probe finds out that it is back."""
        options = BreakerOptions(open_s=5.0)
        recovering = in_turn(*[status(500, b"{}")] * 5, healthy())
        async with ServiceWorld(one=recovering, two=healthy(), breaker=options) as world:
            for _ in range(7):
                await world.ask()
            assert len(world.asked["one"]) == 5
            await asyncio.sleep(5)
            answer = await world.ask()
        assert answer.headers["x-dub5-target"] == "one/m"
        assert world.happened("breaker_opened") == world.happened("breaker_closed") == 1

    async def test_530_is_the_hosts_fault(self) -> None:
        """What Cloudflare says of an origin opens the host's breaker: the next request goes elsewhere at
        once."""
        async with ServiceWorld(one=DOWN, two=healthy()) as world:
            for _ in range(6):
                answer = await world.ask()
        assert answer.headers["x-dub5-trail"] == "two/m=ok;100ms"
        assert len(world.asked["one"]) == 5
        assert [row["target"] for row in world.service.board.snapshot()["incidents"]] == [
            "http://one.test:80"
        ]

    async def test_an_unreachable_host_is_not_up(self) -> None:
        """A probe whose connection stalls does not close the host's breaker, whichever clock ends it."""
        hasty = TimeoutOptions(first_token_s=2.0, connect_s=3.0)
        async with ServiceWorld(one=in_turn(*[DOWN] * 5, healthy()), two=healthy(), timeouts=hasty) as world:
            for _ in range(5):
                await world.ask()
            world.wire.link("http://one.test/v1").connect = Connect.STALLS
            world.wire.link("http://one.test/v1").idle = 0
            await asyncio.sleep(5)
            await world.ask(stream=True)
        assert world.happened("breaker_closed") == 0

    async def test_a_probe_answered_by_400(self) -> None:
        """A refusal that another target contradicts does not prove that the target is back."""
        back = in_turn(*[status(500, b"{}")] * 5, status(400, b"{}"))
        async with ServiceWorld(one=back, two=healthy()) as world:
            for _ in range(5):
                await world.ask()
            await asyncio.sleep(5)
            assert (await world.ask()).status == 200
        assert world.happened("breaker_closed") == 0

    async def test_a_client_that_leaves_proves_nothing(self) -> None:
        """Clients that leave open no breaker, however many they are."""
        async with ServiceWorld(one=script(Hang())) as world:
            for _ in range(10):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1):
                        await world.ask()
        assert world.happened("breaker_opened") == 0


class TestCache:
    async def test_equal_requests(self) -> None:
        """The second of two equal requests is answered from the cache, as JSON or as a stream."""
        async with ServiceWorld(one=healthy(), route={"cache": CacheOptions(enabled=True)}) as world:
            first = await world.ask(stream=True, temperature=0)
            again = await world.ask(stream=True, temperature=0)
            as_json = await world.ask(temperature=0)
        assert len(world.asked["one"]) == 1
        assert [answer.headers["x-dub5-cache"] for answer in (first, again, as_json)] == [
            "miss",
            "hit",
            "hit",
        ]
        assert text_of(again.body) == as_json.json()["choices"][0]["message"]["content"] == TEXT
        assert payloads(again.body)[-1] == "[DONE]"

    async def test_cut_answers_are_not_kept(self) -> None:
        """Only whole answers are cached."""
        cut = script(Head(200, SSE), chunk({"content": "half"}), Wait(0.1), Close())
        async with ServiceWorld(
            one=in_turn(cut, healthy()), route={"cache": CacheOptions(enabled=True)}
        ) as world:
            await world.ask(stream=True, temperature=0)
            again = await world.ask(stream=True, temperature=0)
        assert again.headers["x-dub5-cache"] == "miss"
        assert text_of(again.body) == TEXT

    async def test_callers_are_kept_apart(self) -> None:
        """A cached answer is never served to another caller."""
        cached = {"cache": CacheOptions(enabled=True)}
        async with ServiceWorld(one=healthy(), route=cached, caller_keys=("a", "b")) as world:
            for key in ("a", "b"):
                answer = await world.ask(temperature=0, headers={"authorization": f"Bearer {key}"})
                assert answer.headers["x-dub5-cache"] == "miss"

    @pytest.mark.parametrize(
        "fields", [{}, {"temperature": 0.7}, {"temperature": 0, "tools": [{"type": "f"}]}]
    )
    async def test_may_not_be_cached(self, fields) -> None:
        """Where chance or tools have a say, every request is a new one."""
        async with ServiceWorld(one=healthy(), route={"cache": CacheOptions(enabled=True)}) as world:
            for _ in range(2):
                answer = await world.ask(**fields)
        assert "x-dub5-cache" not in answer.headers
        assert len(world.asked["one"]) == 2


class TestDrain:
    async def test_open_streams_finish(self) -> None:
        """What is open finishes; what is new is refused, and sent elsewhere; then the drain is over."""
        async with ServiceWorld(one=healthy(gap_s=2.0)) as world, world.stream() as answer:
            draining = asyncio.create_task(world.service.drain())
            await asyncio.sleep(0.1)
            refused = await world.ask()
            ready = await world.client.request("GET", "/readyz")
            alive = await world.client.request("GET", "/livez")
            assert payloads(await answer.body())[-1] == "[DONE]"
            await draining
        assert (refused.status, ready.status, alive.status) == (503, 503, 200)
        assert refused.json()["error"]["code"] == "shutting_down"
        assert clock.now() < 10

    async def test_before_the_first_token(self) -> None:
        """What is still waiting for a provider then fails honestly, with a status."""
        async with ServiceWorld(one=script(Hang())) as world:
            waiting = asyncio.create_task(world.ask(stream=True))
            await asyncio.sleep(0.1)
            world.service.admission.cut_all()
            answer = await waiting
        assert (answer.status, answer.json()["error"]["code"]) == (503, "shutting_down")
        assert world.outcomes() == {"failed": 1}

    async def test_endless_streams_are_cut_honestly(self) -> None:
        """At the end of the drain's time every open stream gets an error event."""
        async with ServiceWorld(one=healthy(words=("x",) * 999, gap_s=1.0)) as world:
            streams = [asyncio.create_task(world.ask(stream=True)) for _ in range(50)]
            await asyncio.sleep(1)
            await world.service.drain()
            assert clock.now() == pytest.approx(26.0)
            for stream in streams:
                last = payloads((await stream).body)[-1]
                assert last["error"]["code"] == "shutting_down"
        assert world.outcomes() == {"cut": 50}


async def test_unknown_fields_reach_the_provider() -> None:
    """Unknown fields are passed on unchanged."""
    async with ServiceWorld(one=healthy()) as world:
        await world.ask(reasoning_effort="high", x_custom={"deep": [1, None]})
    sent = json.loads(world.asked["one"][0].body)
    assert (sent["reasoning_effort"], sent["x_custom"]) == ("high", {"deep": [1, None]})


async def test_json_answers_pass_as_they_came() -> None:
    """JSON answers are relayed byte for byte."""
    async with ServiceWorld(one=lambda request: reply(200, completion("Hi"))) as world:
        assert (await world.ask()).body == completion("Hi")
