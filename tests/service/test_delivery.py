"""How a stream is delivered: live, or whole.

Whatever happens to a held stream, its client sees one answer, or one error.
"""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service import clock
from dub5.service.api.chat import EndedBy, Exchange
from dub5.service.config.options import CacheOptions, HedgeOptions, ProbeOptions, TimeoutOptions
from dub5.service.config.settings import ServerSettings
from dub5.service.failover.context import RequestContext
from dub5.service.gateway import Answer, Route
from dub5.simulators.script import Action, Close, Data, End, Hang, Head, Reset, Respond, Wait
from dub5.simulators.virtual import run
from tests.support.world import (
    SSE,
    STRICT,
    ServiceWorld,
    chunk,
    healthy,
    in_turn,
    payloads,
    script,
    status,
    text_of,
)

WORDS = ("one ", "two ", "three ", "four ", "five ", "six")
WHOLE = {"route": {"delivery": "whole"}}
ENDS: dict[str, tuple[Action, ...]] = {
    "closed": (Close(),),
    "reset": (Reset(),),
    "stalled": (Hang(),),
    "ended without a finish": (Data(b"data: [DONE]\n\n"), End()),
    "garbage": (Data(b"data: {{{{\n\n"), End()),
    "an error event": (Data(b'data: {"error":{"message":"overloaded"}}\n\n'), End()),
}


def cut_after(words: int, *how: Action) -> list[Action]:
    """The beginning of an answer, and its bad end."""
    said = [action for word in WORDS[:words] for action in (chunk({"content": word}), Wait(0.01))]
    return [Head(200, SSE), chunk({"role": "assistant", "content": ""}), *said, *how]


@given(words=st.integers(0, len(WORDS)), how=st.sampled_from(sorted(ENDS)))
def test_cut_anywhere(words: int, how: str) -> None:
    """A held stream that dies after any word, in any way, is whole from the next target: nothing repeated or
    missing. After a word, its target is not asked again, which would take as long and be paid for."""

    async def play() -> tuple[int, bytes, str]:
        dying = script(*cut_after(words, *ENDS[how]))
        async with ServiceWorld(one=dying, two=healthy(words=WORDS), **WHOLE) as world:
            answer = await world.ask(stream=True)
            return answer.status, answer.body, answer.headers.get("x-dub5-trail", "")

    status, body, trail = run(play(), seed=1)
    assert status == 200
    assert words == 0 or trail.count("one/") <= 1, trail
    assert text_of(body) == "".join(WORDS)
    assert payloads(body)[-1] == "[DONE]"


KINDS = st.sampled_from(["well", "late", "503", *ENDS])


@given(
    one=st.lists(KINDS, min_size=1, max_size=3),
    two=st.lists(KINDS, min_size=1, max_size=2),
    delivery=st.sampled_from(["live", "whole"]),
    stream=st.booleans(),
)
def test_the_trail_names_each_attempt_once(
    one: list[str], two: list[str], delivery: str, stream: bool
) -> None:
    """However an answer is delivered, the trail has one entry for each request that a provider got."""

    def play_of(kind: str) -> Respond:
        if kind in ENDS:
            return script(*cut_after(3, *ENDS[kind]))
        return status(503, b"{}") if kind == "503" else healthy(first_s=4.0 if kind == "late" else 0.1)

    async def play() -> tuple[str, dict[str, int]]:
        providers = {"one": in_turn(*map(play_of, one)), "two": in_turn(*map(play_of, two))}
        options = {"hedge": HedgeOptions(share=0), "probe": ProbeOptions(enabled=False)}
        async with ServiceWorld(**providers, timeouts=STRICT, options=options) as world:
            answer = await world.ask(stream=stream, headers={"x-dub5-delivery": delivery})
            return answer.headers.get("x-dub5-trail", ""), {n: len(a) for n, a in world.asked.items()}

    trail, asked = run(play(), seed=1)
    entries = [entry.partition("/")[0] for entry in trail.split(", ")]
    assert not trail or {name: entries.count(name) for name in asked} == asked


@given(words=st.integers(0, len(WORDS)), how=st.sampled_from(sorted(ENDS)))
def test_live_is_cut_honestly(words: int, how: str) -> None:
    """The same stream relayed live ends in an error event and no [DONE], after the words that came; before
    the first one it is whole from the next target."""

    async def play() -> bytes:
        dying = script(*cut_after(words, *ENDS[how]))
        async with ServiceWorld(one=dying, two=healthy(words=WORDS)) as world:
            return (await world.ask(stream=True)).body

    body = run(play(), seed=1)
    assert text_of(body) == "".join(WORDS[:words] if words else WORDS)
    assert ("[DONE]" in payloads(body)) == (words == 0)
    assert words == 0 or "error" in payloads(body)[-1]


async def test_a_request_may_choose() -> None:
    """The header goes before the route's setting, either way; anything else is refused in words."""
    dying = script(*cut_after(3, Close()))
    async with ServiceWorld(one=dying, two=healthy(words=WORDS), **WHOLE) as world:
        live = await world.ask(stream=True, headers={"x-dub5-delivery": "live"})
        odd = await world.ask(stream=True, headers={"x-dub5-delivery": "soon"})
    async with ServiceWorld(one=dying, two=healthy(words=WORDS)) as world:
        whole = await world.ask(stream=True, headers={"x-dub5-delivery": "whole"})
    assert "error" in payloads(live.body)[-1]
    assert text_of(whole.body) == "".join(WORDS)
    assert odd.json()["error"]["param"] == "x-dub5-delivery"


async def test_nothing_before_the_end() -> None:
    """Not a byte is sent while the provider is still writing; then all of it at once."""
    async with ServiceWorld(one=healthy(first_s=0.1, gap_s=1.0, words=WORDS), **WHOLE) as world:
        async with world.stream() as reply:
            head_s = clock.now()
            await reply.read()
        assert head_s == pytest.approx(6.1, abs=0.1)


async def test_heartbeats() -> None:
    """A held stream sends a comment every ten seconds, so that proxies and SDKs do not time out."""
    slow = healthy(first_s=1.0, gap_s=4.0, words=WORDS)
    async with ServiceWorld(one=slow, **WHOLE) as world, world.stream() as reply:
        began_s, beats, body = clock.now(), 0, b""
        while data := await reply.read():
            beats += data.startswith(b": ")
            body += b"" if data.startswith(b": ") else data
    assert began_s == pytest.approx(10.0, abs=0.1)
    assert beats == 2
    assert text_of(body) == "".join(WORDS)
    assert world.outcomes() == {"complete": 1}


async def test_nobody_answers_after_a_heartbeat() -> None:
    """The status is sent by then: the error is an event, and the outcome is failed, not cut."""
    slow = TimeoutOptions(first_token_s=8.0)
    async with ServiceWorld(one=script(Hang()), two=script(Hang()), timeouts=slow, **WHOLE) as world:
        answer = await world.ask(stream=True)
    assert answer.status == 200
    assert payloads(answer.body)[-1]["error"]["code"] == "all_targets_down"
    assert world.outcomes() == {"failed": 1}


async def test_leaving_while_it_is_held() -> None:
    """A client that leaves while its stream is held ends the provider's call at once."""
    async with ServiceWorld(one=healthy(gap_s=5.0, words=WORDS), **WHOLE) as world:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(12.0):
                await world.ask(stream=True)
        assert world.service.fleet.snapshots(clock.now())[0].in_flight == 0
    assert world.outcomes() == {"cancelled": 1}


async def test_an_endless_answer() -> None:
    """What is held is bounded: a stream that never ends is that target's failure."""
    big = chunk({"content": "x" * 100_000})
    async with ServiceWorld(one=script(Head(200, SSE), *[big] * 50, Hang()), two=healthy(), **WHOLE) as world:
        answer = await world.ask(stream=True)
    assert "one/m=answer_too_long" in answer.headers["x-dub5-trail"]
    assert answer.headers["x-dub5-target"] == "two/m"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_lot_of_nothing(stream: bool) -> None:
    """So is what comes before the first content, and a JSON answer: one that is too long is that target's
    failure."""
    nothing = chunk({"role": "assistant"}) if stream else Data(b" " * 10_000)
    head = Head(200, SSE if stream else {"content-type": "application/json"})
    server = ServerSettings(answer_bytes_max=100_000, event_bytes_max=100_000)
    async with ServiceWorld(
        one=script(head, *[nothing] * 2_000, Hang()), two=healthy(), server=server
    ) as world:
        answer = await world.ask(stream=stream)
    assert "one/m=answer_too_long" in answer.headers["x-dub5-trail"]
    assert answer.headers["x-dub5-target"] == "two/m"


@pytest.mark.parametrize("cached", [True, False])
async def test_a_client_that_leaves_as_the_answer_becomes_whole(
    cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the held answer and its first byte the client leaves: nothing is left open."""
    ask = Exchange._ask
    route = {"delivery": "whole"} | ({"cache": CacheOptions(enabled=True)} if cached else {})

    async def leave_then(self: Exchange, context: RequestContext, chosen: Route) -> Answer:
        answer = await ask(self, context, chosen)
        self._cancel(EndedBy.CLIENT)
        return answer

    async with ServiceWorld(one=healthy(), route=route) as world:
        monkeypatch.setattr(Exchange, "_ask", leave_then)
        for _ in range(3):
            asking = asyncio.create_task(world.ask(stream=True, temperature=0))
            await asyncio.wait({asking}, timeout=5.0)
            asking.cancel()
            await asyncio.sleep(1.0)
        assert world.outcomes() == {"cancelled": 3}
        assert not world.wire._open, "each connection is released"
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("flight")]
