import asyncio
import json
import time
from collections.abc import Callable, Iterator
from http.client import HTTPResponse

import pytest
from websockets.sync.client import ClientConnection

from dub5.loadtests import calibrate
from dub5.loadtests.client import LoadClient
from dub5.loadtests.mix import RequestKind
from dub5.loadtests.sample import Sample, SampleOutcome
from dub5.simulators.answers import Proof
from dub5.simulators.script import Action, Close, Data, End, Hang, Head, Reset, Script, SimRequest
from dub5.simulators.server.sockets import serve

STREAM = Head(200, {"content-type": "text/event-stream"})
BODY = {"messages": [{"role": "user", "content": "?"}]}


def event(**data: object) -> Data:
    return Data(b"data: " + json.dumps(data).encode() + b"\n\n")


def choice(**fields: object) -> Data:
    return event(choices=[fields])


HELLO, STOP, DONE = (
    choice(delta={"content": "hello"}),
    choice(finish_reason="stop"),
    Data(b"data: [DONE]\n\n"),
)
TOLD = {"code": "all_targets_down", "message": "No provider can answer."}


def script(*actions: Action) -> Callable[[SimRequest], Script]:
    def respond(_: SimRequest) -> Iterator[Action]:
        yield from actions

    return respond


def says_hello(text: str, prompt: str) -> Proof:
    return Proof.WHOLE if (text, prompt) == ("hello", "?") else Proof.CUT


@pytest.mark.real_sockets
@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_where_and_with_which_key(suffix: str) -> None:
    """The URL may be that of the service, or the base URL of its clients; the key goes along."""
    asked: list[SimRequest] = []

    def respond(request: SimRequest) -> Iterator[Action]:
        asked.append(request)
        yield from (STREAM, HELLO, STOP, DONE, End())

    async with serve(respond) as server:
        client = LoadClient(server.url + suffix, says_hello, key="k")
        sample = await asyncio.to_thread(client.ask, RequestKind("stream", 1), BODY, client.now_s())
        client.close()
    assert sample.outcome is SampleOutcome.COMPLETE
    assert [(r.path, r.headers["authorization"]) for r in asked] == [("/v1/chat/completions", "Bearer k")]


async def ask(*actions: Action, kind: RequestKind | None = None) -> Sample:
    """Send one request to a server that plays these actions."""
    kind = kind or RequestKind("stream", 1)
    async with serve(script(*actions)) as server:
        client = LoadClient(server.url, says_hello)
        sample = await asyncio.to_thread(client.ask, kind, BODY, client.now_s())
        client.close()
    return sample


@pytest.mark.real_sockets
@pytest.mark.parametrize(
    ("actions", "outcome", "why"),
    [
        ((STREAM, HELLO, STOP, DONE, End()), SampleOutcome.COMPLETE, ""),
        ((STREAM, HELLO, event(error=TOLD), End()), SampleOutcome.CUT, "all_targets_down"),
        ((STREAM, HELLO, End()), SampleOutcome.DISHONEST, "ended without finish_reason and [DONE]"),
        ((STREAM, HELLO, DONE, End()), SampleOutcome.DISHONEST, "ended without finish_reason"),
        (
            (STREAM, choice(delta={"content": "he"}), STOP, DONE, End()),
            SampleOutcome.DISHONEST,
            "the text is cut",
        ),
        ((STREAM, Data(b"data: {nonsense\n\n"), End()), SampleOutcome.DISHONEST, "an event that is not JSON"),
        ((STREAM, HELLO, Close()), SampleOutcome.BROKEN, "IncompleteRead"),
        ((STREAM, HELLO, Reset()), SampleOutcome.BROKEN, "ConnectionResetError"),
        ((Close(),), SampleOutcome.BROKEN, "RemoteDisconnected"),
        (
            (Head(503), Data(json.dumps({"error": TOLD}).encode()), End()),
            SampleOutcome.FAILED,
            "503 all_targets_down",
        ),
        (
            (Head(502), Data(b"<html>bad gateway</html>"), End()),
            SampleOutcome.DISHONEST,
            "502 without a readable error",
        ),
    ],
)
async def test_how_a_stream_ends(actions: tuple[Action, ...], outcome: SampleOutcome, why: str) -> None:
    """Only a stream that says it is whole, and is whole, is complete; a failure is honest if a program can
    read it."""
    sample = await ask(*actions)
    assert sample.outcome is outcome, sample.why
    assert sample.why.startswith(why)


SORRY = {"delta": {"content": "Nobody can answer."}}
LABEL = {"source": "words", "reason": "all_targets_down"}


def labelled(source: str, text: str = "Nobody can answer.", header: str | None = None) -> tuple[Action, ...]:
    """Return a fallback answer, as a stream."""
    head = Head(200, {"content-type": "text/event-stream", **({"x-dub5-degraded": header} if header else {})})
    said, end = (
        {"choices": [one], "degraded": {"source": source}}
        for one in ({"delta": {"content": text}}, {"finish_reason": "stop"})
    )
    return head, event(**said), event(**end), DONE, End()


@pytest.mark.real_sockets
@pytest.mark.parametrize(
    ("actions", "outcome", "why"),
    [
        (labelled("words", header="words"), SampleOutcome.DEGRADED, "words"),
        (labelled("words"), SampleOutcome.DEGRADED, "words"),  # the head has gone out with a heartbeat before
        (labelled("stale", "hello", "stale"), SampleOutcome.DEGRADED, "stale"),
        (labelled("stale", "hel", "stale"), SampleOutcome.DISHONEST, "cut_answer_labelled_stale"),
        (labelled("words", "hello", "words"), SampleOutcome.DISHONEST, "whole_answer_labelled_words"),
        (labelled("words", header="stale"), SampleOutcome.DISHONEST, "half_labelled_substitute"),
        (labelled("words", "", "words"), SampleOutcome.DISHONEST, "empty_substitute"),
        ((STREAM, event(choices=[SORRY]), STOP, DONE, End()), SampleOutcome.DISHONEST, "the text is cut"),
        (
            (STREAM, event(choices=[SORRY], degraded=LABEL), STOP, DONE, End()),
            SampleOutcome.DISHONEST,
            "half_labelled_substitute",
        ),
        ((*labelled("words")[:2], End()), SampleOutcome.DISHONEST, "ended without"),
    ],
)
async def test_a_substitute(actions: tuple[Action, ...], outcome: SampleOutcome, why: str) -> None:
    """A fallback answer with a true label from the head to the end is honest, and counts as degraded."""
    sample = await ask(*actions)
    assert sample.outcome is outcome, sample.why
    assert sample.why.startswith(why)


@pytest.mark.real_sockets
async def test_a_json_substitute() -> None:
    """A JSON fallback answer with a true label counts as degraded."""
    head = Head(200, {"content-type": "application/json", "x-dub5-degraded": "words"})
    answer = {"message": {"content": "Nobody can answer."}, "finish_reason": "stop"}
    whole = Data(json.dumps({"choices": [answer], "degraded": LABEL}).encode())
    sample = await ask(head, whole, End(), kind=RequestKind("json", 1, stream=False))
    assert (sample.outcome, sample.why) == (SampleOutcome.DEGRADED, "words")


@pytest.mark.real_sockets
async def test_a_json_answer() -> None:
    """A whole answer is judged like a stream; without a finish_reason it is not whole."""
    kind = RequestKind("json", 1, stream=False)
    head = Head(200, {"content-type": "application/json", "x-dub5-cache": "hit", "x-dub5-target": "one/m"})
    answer = {"message": {"content": "hello"}, "finish_reason": "stop"}
    sample = await ask(head, Data(json.dumps({"choices": [answer]}).encode()), End(), kind=kind)
    assert (sample.outcome, sample.cached, sample.target) == (SampleOutcome.COMPLETE, True, "one/m")
    assert sample.first_token_s is not None

    del answer["finish_reason"]
    sample = await ask(head, Data(json.dumps({"choices": [answer]}).encode()), End(), kind=kind)
    assert sample.outcome is SampleOutcome.DISHONEST


@pytest.mark.real_sockets
@pytest.mark.parametrize(
    "before", [(), (STREAM,), (STREAM, HELLO)], ids=["head", "first token", "second token"]
)
async def test_leaving(before: tuple[Action, ...]) -> None:
    """A client that is to leave does so in time, whatever it is waiting for."""
    kind = RequestKind("leaves", 1, leave_after_s=0.05)
    sample = await ask(*before, Hang(), kind=kind)
    assert sample.outcome is SampleOutcome.CANCELLED
    assert sample.ended_s - sample.started_s < 1


@pytest.mark.real_sockets
async def test_late_requests() -> None:
    """The wait of a request that is sent late counts from the scheduled time."""
    async with serve(script(STREAM, HELLO, STOP, DONE, End())) as server:
        client = LoadClient(server.url, says_hello)
        sample = await asyncio.to_thread(client.ask, RequestKind("stream", 1), BODY, client.now_s() - 3)
        client.close()
    assert sample.waited_for_token_s is not None and sample.waited_for_token_s > 3
    assert sample.first_token_s is not None and sample.first_token_s - sample.started_s < 1


@pytest.mark.real_sockets
async def test_connections_live_on() -> None:
    """Requests one after another share a connection."""
    async with serve(script(STREAM, HELLO, STOP, DONE, End())) as server:
        client = LoadClient(server.url, says_hello)
        used = []
        for _ in range(3):
            await asyncio.to_thread(client.ask, RequestKind("stream", 1), BODY, 0.0)
            used.append(client._idle[-1][1].sock)
        assert server.connections == 1 and used[0] is used[1] is used[2]
        client.close()


def test_the_ruler_is_straight() -> None:
    """Pieces 50 ms apart are reported 50 ms apart, the first one too, by both clients."""
    assert calibrate.check() == ""


def test_a_bent_ruler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that waits for full blocks is detected before it can report anything."""
    monkeypatch.setattr(calibrate, "ATTEMPTS", 1)
    monkeypatch.setattr(HTTPResponse, "read1", HTTPResponse.read)
    assert calibrate.check().startswith("stream: first token 3")


def test_a_bent_ruler_of_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A WebSocket client that takes the time of its messages late is detected."""
    monkeypatch.setattr(calibrate, "ATTEMPTS", 1)
    recv = ClientConnection.recv

    def late(connection: ClientConnection, timeout: float | None = None) -> bytes | str:
        data = recv(connection, timeout)
        time.sleep(0.05)
        return data

    monkeypatch.setattr(ClientConnection, "recv", late)
    assert calibrate.check().startswith("WebSocket: first token")


def test_a_slow_ruler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes the time of pieces late is detected."""
    monkeypatch.setattr(calibrate, "ATTEMPTS", 1)
    now_s = LoadClient.now_s

    def late(client: LoadClient) -> float:
        time.sleep(0.05)
        return now_s(client)

    monkeypatch.setattr(LoadClient, "now_s", late)
    assert "first token" in calibrate.check()
