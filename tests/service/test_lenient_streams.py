"""Deviating streams through the whole service, live and held: whole answers are given, half ones never."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dub5.simulators.script import Action, Close, Data, End, Hang, Head, Reset, Wait
from dub5.simulators.virtual import run
from tests.support.world import (
    SSE,
    WORDS,
    ServiceWorld,
    chunk,
    completion,
    healthy,
    payloads,
    reply,
    script,
    status,
    text_of,
)

WHOLE: dict[str, Any] = {"route": {"delivery": "whole"}}
LIVE: dict[str, Any] = {}
DONE = Data(b"data: [DONE]\n\n")
NOTHING = (
    b'data: {"type":"ping"}\n\n',
    b"event: ping\ndata: {}\n\n",
    b"data: : keepalive\n\n",
    b"data:\n\n",
    b'data: {"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\n',
    b'data: {"status":"processing","error":false}\n\n',
)
deliveries = pytest.mark.parametrize("delivery", [LIVE, WHOLE], ids=["live", "held"])
ENDS: dict[str, tuple[Action, ...]] = {
    "closed": (Close(),),
    "reset": (Reset(),),
    "hanging": (Hang(),),
    "an error": (Data(b'data: {"error":{"message":"no"}}\n\n'), End()),
    "ended": (End(),),
}


def every_chunk(words: int, gap_s: float, *how: Action, first: bool = True) -> list[Action]:
    """A stream with a finish reason in every chunk, the first one's included if `first`."""
    said: list[Action] = [
        Head(200, SSE),
        chunk({"role": "assistant", "content": ""}, "stop" if first else None),
    ]
    for word in WORDS[:words]:
        said += [Wait(gap_s), chunk({"content": word}, "stop")]
    return [*said, *how]


@deliveries
@given(gap_s=st.floats(0.0, 8.0), first=st.booleans())
@example(gap_s=1.5, first=False)
def test_a_finish_in_every_chunk(delivery: dict[str, Any], gap_s: float, first: bool) -> None:
    """All words arrive, and the answer is whole, however far apart they come."""

    async def play() -> bytes:
        one = script(*every_chunk(len(WORDS), gap_s, DONE, End(), first=first))
        async with ServiceWorld(one=one, **delivery) as world:
            return (await world.ask(stream=True)).body

    body = run(play(), seed=1)
    assert text_of(body) == "".join(WORDS)
    assert payloads(body)[-1] == "[DONE]"


@deliveries
@given(words=st.integers(2, len(WORDS)), gap_s=st.floats(0.1, 3.0), how=st.sampled_from(sorted(ENDS)))
def test_a_finish_in_every_chunk_and_a_bad_end(
    delivery: dict[str, Any], words: int, gap_s: float, how: str
) -> None:
    """Such an answer that breaks off is never told as whole: a cut, or the next target."""

    async def play() -> bytes:
        one = script(*every_chunk(words, gap_s, *ENDS[how]))
        async with ServiceWorld(one=one, two=healthy(words=("another ", "answer")), **delivery) as world:
            return (await world.ask(stream=True)).body

    body = run(play(), seed=1)
    if delivery is WHOLE:
        assert text_of(body) == "another answer"
    else:
        assert text_of(body) == "".join(WORDS[:words])
        assert "error" in payloads(body)[-1]


@pytest.mark.parametrize("reason", ["abort", "network_error", "insufficient_system_resource", "cancelled"])
@pytest.mark.parametrize("how", ["json", "live", "held"])
async def test_a_reason_outside_the_list(reason: str, how: str) -> None:
    """Half an answer is a failure of its target: the next one answers, or the client is told of the cut."""
    half = script(Head(200, SSE), chunk({"content": "half"}), Wait(0.1), chunk({}, reason), DONE, End())
    one = half if how != "json" else lambda request: reply(200, completion("half", reason))
    async with ServiceWorld(one=one, two=healthy(), **(WHOLE if how == "held" else LIVE)) as world:
        answer = await world.ask(stream=how != "json")
    if how == "live":
        assert text_of(answer.body) == "half"
        assert "error" in payloads(answer.body)[-1]
    else:
        assert answer.headers["x-dub5-target"] == "two/m"
        assert f"one/m=error_{'event' if how == 'held' else 'in_answer'}" in answer.headers["x-dub5-trail"]


@deliveries
@given(places=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(NOTHING)), min_size=1, max_size=6))
def test_events_that_say_nothing(delivery: dict[str, Any], places: list[tuple[int, bytes]]) -> None:
    """The client gets the answer and nothing of them, wherever they stand."""
    said: list[Action] = [*(chunk({"content": word}) for word in WORDS), chunk({}, "stop"), DONE]
    for place, one in places:
        said.insert(min(place, len(said)), Data(one))
    spaced = [action for one in said for action in (one, Wait(0.05))]

    async def play() -> bytes:
        async with ServiceWorld(one=script(Head(200, SSE), *spaced, End()), **delivery) as world:
            return (await world.ask(stream=True)).body

    body = run(play(), seed=1)
    assert text_of(body) == "".join(WORDS)
    assert payloads(body)[-1] == "[DONE]"
    assert all(one == "[DONE]" or len(one["choices"]) == 1 for one in payloads(body))


@deliveries
@pytest.mark.parametrize("type_", ["application/json", "application/json; charset=utf-8", "text/html", ""])
async def test_events_of_another_type(delivery: dict[str, Any], type_: str) -> None:
    """Events are read, whatever their content type says."""
    said = (chunk({"content": "Hi"}), chunk({}, "stop"), DONE, End())
    one = script(Head(200, {"content-type": type_}), Data(b"\r\n"), Wait(0.1), *said)
    async with ServiceWorld(one=one, **delivery) as world:
        assert text_of((await world.ask(stream=True)).body) == "Hi"


@pytest.mark.parametrize("beginning", [b"{", b"  \n[", b"<html>", b"\xef\xbb\xbf{"])
async def test_no_events(beginning: bytes) -> None:
    """JSON and pages are told by their beginning, at once, also where nothing else comes."""
    one = script(Head(200, {"content-type": "application/json"}), Data(beginning), Hang())
    async with ServiceWorld(one=one, two=healthy()) as world:
        answer = await world.ask(stream=True)
    assert "one/m=not_a_stream" in answer.headers["x-dub5-trail"]


@deliveries
async def test_n_is_ignored(delivery: dict[str, Any]) -> None:
    """A provider that gives one choice of two has given its answer."""
    async with ServiceWorld(one=healthy(), **delivery) as world:
        answer = await world.ask(stream=True, n=2)
    assert text_of(answer.body) == "".join(WORDS)
    assert payloads(answer.body)[-1] == "[DONE]"


@deliveries
async def test_the_second_choice_comes_late(delivery: dict[str, Any]) -> None:
    """While choices are missing, the time between tokens applies, not the short one after the end."""
    second = json.loads(chunk({"content": "B"}, "stop").data[len(b"data: ") :])
    second["choices"][0]["index"] = 1
    late = Data(b"data: " + json.dumps(second).encode() + b"\n\n")
    one = script(Head(200, SSE), chunk({"content": "A"}), chunk({}, "stop"), Wait(4.0), late, DONE, End())
    async with ServiceWorld(one=one, **delivery) as world:
        answer = await world.ask(stream=True, n=2)
    assert b'"B"' in answer.body
    assert payloads(answer.body)[-1] == "[DONE]"


@deliveries
async def test_the_trail_names_each_attempt_once(delivery: dict[str, Any]) -> None:
    """The last attempt stands in the trail once, whether it runs still or has ended."""
    async with ServiceWorld(one=script(Head(503, {}), End()), two=healthy(), **delivery) as world:
        answer = await world.ask(stream=True)
    assert answer.headers["x-dub5-trail"].count("two/m=ok") == 1


@deliveries
@given(gap_s=st.floats(0.0, 8.0), done=st.booleans(), reason=st.sampled_from(["stop", "length"]))
@example(gap_s=1.5, done=True, reason="stop")
def test_a_finish_before_the_first_word(
    delivery: dict[str, Any], gap_s: float, done: bool, reason: str
) -> None:
    """An answer may honestly be empty, but only its proper end says so: words may still follow."""

    async def play(*said: Action) -> bytes:
        role = chunk({"role": "assistant", "content": ""}, reason)
        one = script(Head(200, SSE), role, *said, *([DONE] if done else []), End())
        async with ServiceWorld(one=one, **delivery) as world:
            options = {"stop": ["END"], "stream_options": {"include_usage": True}}
            return (await world.ask(stream=True, **options)).body

    words = [part for word in WORDS for part in (Wait(gap_s), chunk({"content": word}, reason))]
    full = run(play(*words), seed=1)
    assert (b"[DONE]" in full) == done  # the last of several reasons proves nothing
    assert text_of(full) == "".join(WORDS) or (delivery is WHOLE and not done)
    empty = payloads(run(play(Wait(gap_s)), seed=1))
    assert empty[-1] == "[DONE]"
    assert sum(one != "[DONE]" and bool(one.get("usage")) for one in empty) == 1


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (b'data: {"choices":[{"del\n\n', "something unreadable"),
        (b'data: {"error":{"message":"secret"}}\n\n', "reported an error"),
        (b"", "ended the answer"),
    ],
)
async def test_a_cut_says_what_it_was(broken: bytes, said: str) -> None:
    """The client is told whether the provider ended its answer, reported an error or sent nonsense."""
    one = script(Head(200, SSE), chunk({"content": "Hi"}), Wait(0.1), Data(broken), End())
    async with ServiceWorld(one=one) as world:
        answer = await world.ask(stream=True)
    error = payloads(answer.body)[-1]["error"]
    assert said in error["message"] and "secret" not in error["message"]
    assert error["code"] == "stream_cut"


FRAMES = (
    "data: {}\n\n",
    "{}\n\n",
    "{}\n",
    "\n  {}\n\n",
    " data: {}\n\n",
    "Data: {}\n\n",
    "data : {}\n\n",
    "data = {}\n\n",
    "data\t{}\n\n",
    "data: data: {}\n\n",
    "message: {}\n\n",
    "chunk {}\r\n",
    "id: 4\n{}\n\n",
    "event: message\n{}\n\n",
)
JOINTS = ("", " ", "\n", "data: ", "\ndata: ", "\ndata:", "\n\ndata: ", "\r\n\r\n")
TYPES = ("text/event-stream", "application/json", "application/x-ndjson", "text/plain", "")


def framed(parts: list[bytes], frames: list[str], joints: list[str | None]) -> list[Action]:
    """Return the payloads, each in its frame, or joined to the next one."""
    said: list[Action] = []
    held = ""
    for number, part in enumerate(parts):
        frame, joint = frames[number % len(frames)], joints[number % len(joints)]
        held += part.decode()
        if joint is None or number == len(parts) - 1:
            said += [Data(frame.replace("{}", held).encode()), Wait(0.02)]
            held = ""
        else:
            held += joint
    return [*said, Data(b"\n\n")]  # an event without its empty line is none


@deliveries
@given(
    frames=st.lists(st.sampled_from(FRAMES), min_size=1, max_size=5),
    joints=st.lists(st.sampled_from((None, None, *JOINTS)), min_size=1, max_size=5),
    kind=st.sampled_from(TYPES),
)
@example(frames=["data: {}\n\n"], joints=["\n", None], kind="application/json")
@example(frames=["{}\n"], joints=[None], kind="application/json")
def test_bad_framing(
    delivery: dict[str, Any], frames: list[str], joints: list[str | None], kind: str
) -> None:
    """An event whose `data:` is missing or odd, or that holds several, loses no word."""
    actions = (*(chunk({"content": word}) for word in WORDS), chunk({}, "stop"), DONE)
    parts = [action.data.removeprefix(b"data: ").strip() for action in actions]

    async def play() -> bytes:
        head = Head(200, {"content-type": kind})
        one = script(head, *framed(parts, frames, joints), End())
        async with ServiceWorld(one=one, **delivery) as world:
            return (await world.ask(stream=True)).body

    body = run(play(), seed=1)
    assert text_of(body) == "".join(WORDS)
    assert payloads(body)[-1] == "[DONE]"


@deliveries
@given(frame=st.sampled_from(FRAMES), place=st.integers(0, len(WORDS) - 1), cut=st.floats(0.3, 0.99))
def test_a_broken_line(delivery: dict[str, Any], frame: str, place: int, cut: float) -> None:
    """An object that is broken off within an odd line may have held words: the answer is not whole."""
    actions = [*(chunk({"content": word}) for word in WORDS), chunk({}, "stop"), DONE]
    payload = actions[place].data.removeprefix(b"data: ").strip()
    broken = payload[: max(int(len(payload) * cut), payload.index(b'"choices"') + 10)]
    actions[place] = Data(frame.encode().replace(b"{}", broken))

    async def play() -> bytes:
        one = script(Head(200, SSE), *actions, End())
        async with ServiceWorld(one=one, two=healthy(words=("another ", "answer")), **delivery) as world:
            return (await world.ask(stream=True)).body

    body = run(play(), seed=1)
    assert "error" in payloads(body)[-1] or text_of(body) == "another answer"


@deliveries
async def test_a_broken_beginning(delivery: dict[str, Any]) -> None:
    """A line that begins as an object, and is broken off before it says of what, may have held words, too."""
    actions = [*(chunk({"content": word}) for word in WORDS), chunk({}, "stop"), DONE]
    actions[1] = Data(b'{"id":"c","object":"chat.comp\x00\xff<<<event: ping\ndata: {"type": "ping"}\n\n')
    one = script(Head(200, SSE), *actions, End())
    async with ServiceWorld(one=one, two=healthy(words=("another ", "answer")), **delivery) as world:
        body = (await world.ask(stream=True)).body
    assert "error" in payloads(body)[-1] or text_of(body) == "another answer"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", "text/html"])
@pytest.mark.parametrize(
    "error",
    [
        {"error": {"code": 429, "message": "Rate limited."}},
        {"error": {"code": 401, "message": "No."}},
        {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}},
    ],
)
async def test_a_refusal_in_a_200(error: dict[str, Any], kind: str, stream: bool) -> None:
    """A refusal that comes with 200 rests the key as with its status, also where events were asked for."""
    one = status(200, json.dumps(error).encode(), {"content-type": kind})
    async with ServiceWorld(one=one, two=healthy()) as world:
        first = await world.ask(stream=stream)
        await world.ask(stream=stream)
    assert first.headers["x-dub5-trail"].startswith("one/m=error_event")
    assert len(world.asked["one"]) == 1
