"""The judge believes a reply only as far as it proves itself."""

import json
from collections.abc import Iterable

import pytest

from dub5.chaos.run.judge import ClientOutcome, Ending, ReplyReader, Stop
from dub5.chaos.run.sse import EventReader
from dub5.simulators.answers import answer_text

PROMPT = "Why is the sky blue?"
TEXT = answer_text("one", PROMPT, 12)
OTHER = answer_text("two", PROMPT, 12)
HALF = len(TEXT) // 2
DONE = "[DONE]"
ERROR = json.dumps({"error": {"code": "stream_cut", "message": "..."}})


def delta(content: str) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}]})


def finish(reason: str = "stop") -> str:
    return json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})


def streamed(*events: str, stop: Stop = Stop.END) -> Ending:
    reader = ReplyReader(200, PROMPT, stream=True)
    reader.feed("".join(f"data: {event}\n\n" for event in events).encode())
    return reader.end(stop)


def replied(status: int, body: object, stop: Stop = Stop.END) -> Ending:
    reader = ReplyReader(status, PROMPT, stream=False)
    reader.feed(body if isinstance(body, bytes) else json.dumps(body).encode())
    return reader.end(stop)


def completion(text: str, reason: str | None = "stop") -> dict[str, object]:
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": reason}]}


class TestStream:
    def test_whole(self) -> None:
        """A stream with the whole text, a finish reason and [DONE] is complete, and names its provider."""
        reader = ReplyReader(200, PROMPT, stream=True)
        for event in (delta(TEXT[:HALF]), delta(TEXT[HALF:]), finish(), DONE):
            reader.feed(f"data: {event}\n\n".encode())
        assert Ending(ClientOutcome.COMPLETE) == reader.end(Stop.END)
        assert "one" == reader.answered_by

    def test_honest_cut(self) -> None:
        """An error event after content is a cut."""
        assert Ending(ClientOutcome.CUT, "stream_cut") == streamed(delta(TEXT[:HALF]), ERROR)

    def test_error_before_content(self) -> None:
        """An error event before any content is a failure, not a cut."""
        assert Ending(ClientOutcome.FAILED, "stream_cut") == streamed(ERROR)

    def test_told_before_the_line_broke(self) -> None:
        """An error event counts even if the connection breaks after it."""
        assert ClientOutcome.CUT is streamed(delta(TEXT[:HALF]), ERROR, stop=Stop.BROKEN).outcome

    @pytest.mark.parametrize(
        ("events", "stop", "reason"),
        [
            ((delta(TEXT[:HALF]), finish(), DONE), Stop.END, "cut_answer_sold_as_whole"),
            ((delta(TEXT[:HALF] + OTHER[HALF:]), finish(), DONE), Stop.END, "spliced_answer_sold_as_whole"),
            ((delta(answer_text("one", "?", 12)), finish(), DONE), Stop.END, "foreign_answer_sold_as_whole"),
            ((finish(), DONE), Stop.END, "cut_answer_sold_as_whole"),
            ((delta(TEXT), DONE), Stop.END, "done_without_finish"),
            ((delta(TEXT), finish()), Stop.END, "ends_without_done"),
            ((delta(TEXT[:HALF]),), Stop.END, "ends_without_done"),
            ((), Stop.END, "ends_without_done"),
            ((delta(TEXT[:HALF]),), Stop.BROKEN, "breaks_off_without_a_word"),
            ((delta(TEXT[:HALF]), ERROR, DONE), Stop.END, "goes_on_after_its_end"),
            ((delta(TEXT), finish(), DONE, DONE), Stop.END, "goes_on_after_its_end"),
            ((delta(TEXT), finish(), finish(), DONE), Stop.END, "finishes_twice"),
            ((delta(TEXT[:HALF]), finish(), delta(TEXT[HALF:]), DONE), Stop.END, "content_after_finish"),
            (("{", delta(TEXT), finish(), DONE), Stop.END, "unreadable_event"),
        ],
    )
    def test_dishonest(self, events: Iterable[str], stop: Stop, reason: str) -> None:
        """A stream that contradicts itself, or ends without an error, is dishonest."""
        assert Ending(ClientOutcome.DISHONEST, reason) == streamed(*events, stop=stop)

    def test_patience_ran_out(self) -> None:
        """A stream without an end in time hangs, however much content it had."""
        assert ClientOutcome.HUNG is streamed(delta(TEXT), finish(), stop=Stop.TIMEOUT).outcome


class TestJson:
    def test_whole(self) -> None:
        """A JSON answer with the whole text and a finish reason is complete."""
        assert Ending(ClientOutcome.COMPLETE) == replied(200, completion(TEXT))

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (completion(TEXT[:HALF]), "cut_answer_sold_as_whole"),
            (completion(TEXT, None), "answer_without_finish"),
            ({"choices": []}, "unreadable_answer"),
            (b'{"choices": [', "unreadable_answer"),
            (b"<html>", "unreadable_answer"),
        ],
    )
    def test_dishonest(self, body: object, reason: str) -> None:
        """A 200 that does not prove itself is dishonest."""
        assert Ending(ClientOutcome.DISHONEST, reason) == replied(200, body)

    @pytest.mark.parametrize(
        ("status", "code", "outcome"),
        [
            (503, "all_targets_down", ClientOutcome.FAILED),
            (429, "all_targets_limited", ClientOutcome.FAILED),
            (429, "rate_limited", ClientOutcome.REFUSED),
            (503, "overloaded", ClientOutcome.REFUSED),
            (400, "invalid_request", ClientOutcome.REFUSED),
            (500, "internal_error", ClientOutcome.FAILED),
        ],
    )
    def test_error(self, status: int, code: str, outcome: ClientOutcome) -> None:
        """An error is a refusal or a failure by its status and code."""
        assert Ending(outcome, code) == replied(status, {"error": {"code": code}})

    def test_error_page(self) -> None:
        """An HTML error page is an honest failure, by its status."""
        assert Ending(ClientOutcome.FAILED, "http_502") == replied(502, b"<html>Bad Gateway</html>")

    def test_torn_error(self) -> None:
        """An error whose connection breaks is dishonest."""
        assert ClientOutcome.DISHONEST is replied(503, b'{"err', Stop.BROKEN).outcome


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_in_any_cut_of_the_bytes(end: str) -> None:
    """Events read the same however their bytes are split: line ends, comments, fields, multi-byte text."""
    text = end.join(
        (": hello", "event: x", "data: grüße", "data:zwei", "", "data: [DONE]", "", "data: never ends")
    )
    data = text.encode()
    for size in (1, 2, 3, 7, len(data)):
        reader = EventReader()
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        assert ["grüße\nzwei", "[DONE]"] == [event for part in parts for event in reader.feed(part)]


class TestSubstitute:
    WORDS = "No AI model can answer at the moment."

    @staticmethod
    def labelled(event: str, source: str = "words") -> str:
        return json.dumps({**json.loads(event), "degraded": {"source": source}})

    def json_of(self, text: str, source: str) -> Ending:
        return replied(200, {**completion(text), "degraded": {"source": source}})

    def test_labelled(self) -> None:
        """A fallback that is labelled on its first and last event is degraded, not complete."""
        first, last = self.labelled(delta(self.WORDS)), self.labelled(finish())
        assert streamed(first, last, DONE) == Ending(ClientOutcome.DEGRADED, "words")
        assert self.json_of(self.WORDS, "template") == Ending(ClientOutcome.DEGRADED, "template")

    def test_stale(self) -> None:
        """A stale answer must prove itself like any other."""
        assert self.json_of(TEXT, "stale") == Ending(ClientOutcome.DEGRADED, "stale")
        assert self.json_of(TEXT[:HALF], "stale").reason == "cut_answer_labelled_stale"
        assert self.json_of(answer_text("one", "?", 12), "stale").reason == "foreign_answer_labelled_stale"

    def test_no_label(self) -> None:
        """A fallback without a label is dishonest."""
        assert streamed(delta(self.WORDS), finish(), DONE).outcome is ClientOutcome.DISHONEST

    @pytest.mark.parametrize("which", [0, 1])
    def test_half_a_label(self, which: int) -> None:
        """A fallback that is labelled at one end only is dishonest."""
        events = [delta(self.WORDS), finish()]
        events[which] = self.labelled(events[which])
        assert streamed(*events, DONE) == Ending(ClientOutcome.DISHONEST, "half_labelled_substitute")

    def test_a_label_over_an_answer(self) -> None:
        """A provider's answer, a part of one and an empty text cannot be labelled as words of the service."""
        assert self.json_of(TEXT, "words").outcome is ClientOutcome.DISHONEST
        assert self.json_of(TEXT[:HALF], "template").outcome is ClientOutcome.DISHONEST
        assert self.json_of("", "words").reason == "empty_substitute"

    def test_it_must_end_as_well(self) -> None:
        """A labelled fallback that breaks off is dishonest."""
        assert streamed(self.labelled(delta(self.WORDS))).outcome is ClientOutcome.DISHONEST
