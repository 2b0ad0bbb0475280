"""Faults change scripts in exactly the way that their names say, and compose."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from dub5.simulators.answers import Proof, judge
from dub5.simulators.faults.answers import KINDS, BadFault, parse_fault
from dub5.simulators.faults.base import described
from dub5.simulators.personas.edges import EDGE_PAGES
from dub5.simulators.script import Close, Reset
from tests.support.play import PlayedScript, ask, ended_well, hangs, play, post, provider

PERSONAS = ["openai", "mistral", "anthropic", "openrouter", "groq", "free"]


def struck(persona: str, *faults: Mapping[str, Any], stream: bool = True) -> PlayedScript:
    return ask(persona, *(parse_fault(dict(fault)) for fault in faults), stream=stream)


def text_of(played: PlayedScript) -> str:
    """Return the text of a stream's tokens, in any dialect."""
    said = ""
    for event in played.events:
        delta = event.get("delta") or (event.get("choices") or [{}])[0].get("delta") or {}
        said += delta.get("content") or delta.get("text") or ""
    return said


def finished(played: PlayedScript) -> bool:
    """Return whether the provider said that the answer is whole, in any dialect."""
    return b'finish_reason":"stop"' in played.body or b"message_stop" in played.body


class TestStatus:
    @pytest.mark.parametrize(
        "persona, status, said",
        [
            ("openai", 429, {"type": "requests", "code": "rate_limit_exceeded"}),
            ("openai", 500, {"type": "server_error"}),
            ("openai", 503, {"type": "service_unavailable_error", "code": "server_is_overloaded"}),
            ("anthropic", 429, {"type": "rate_limit_error"}),
            ("anthropic", 529, {"type": "overloaded_error", "message": "Overloaded"}),
            ("mistral", 429, {"type": "rate_limited", "code": "1300", "raw_status_code": 429}),
            ("mistral", 401, {"detail": "Unauthorized"}),
        ],
    )
    def test_own_words(self, persona: str, status: int, said: dict[str, Any]) -> None:
        """Without a named body the error is in the persona's own shape; only a 429 has Retry-After."""
        played = struck(persona, {"kind": "status", "status": status})

        error = played.json.get("error", played.json)
        assert played.status == status
        assert said.items() <= error.items()
        assert played.headers.get("retry-after") == ("20" if status == 429 else None)
        assert ended_well(played)

    def test_retry_after(self) -> None:
        """`retry_after_s` sets the header for any status, null takes it away."""
        for status in (429, 503):
            page = {"kind": "status", "status": status}
            assert struck("openai", {**page, "retry_after_s": 2.5}).headers["retry-after"] == "2.5"
            assert "retry-after" not in struck("openai", {**page, "retry_after_s": None}).headers

    @pytest.mark.parametrize("name", [name for name in EDGE_PAGES if name.count("_") == 2])
    def test_edges(self, name: str) -> None:
        """An edge answers in its own format, with its own headers, and its code is in each format."""
        status = 502 if "502" in name else 530
        played = struck("openai", {"kind": "status", "status": status, "body": name})

        edge, code, form = name.split("_")
        media = {"text": "text/plain", "html": "text/html", "json": "application/json"}[form]
        assert played.status == status
        assert played.headers["content-type"].startswith(media)
        assert played.headers["server"] == edge
        assert code.encode() in played.body
        if edge == "cloudflare":
            assert played.headers["cf-ray"].endswith("-FRA")
        if form == "text":
            assert played.body == f"error code: {code}".encode()
        if form == "json":
            assert played.json["retry_after"] == int(played.headers["retry-after"]) == 120
            assert (played.json["error_code"], played.json["cloudflare_error"]) == (1033, True)

    @pytest.mark.parametrize(
        "edge, accept, status, media, words",
        [
            ("cloudflare", "application/json", 530, "application/json", b'"error_code":1033'),
            ("cloudflare", "*/*", 530, "text/html", b'errorCode":1033'),
            ("cloudflare", "application/json", 525, "application/json", b'"retryable":false'),
            (
                "cloudflare",
                "",
                504,
                "text/html",
                b"<title>Gateway time-out | provider.example | Cloudflare</title>",
            ),
            ("cloudflare", "", 503, "application/json", b"server_is_overloaded"),
            ("nginx", "application/json", 504, "text/html", b"<title>504 Gateway Time-out</title>"),
            ("vercel", "application/json", 504, "text/plain", b"FUNCTION_INVOCATION_TIMEOUT"),
            ("none", "", 504, "application/json", b"server_error"),
        ],
    )
    def test_edge_in_front(self, edge: str, accept: str, status: int, media: str, words: bytes) -> None:
        """An edge answers for a provider that is gone, in the requested format; other statuses pass."""
        one = provider("openai", parse_fault({"kind": "status", "status": status}), edge=edge)
        played = play(one(post("openai", accept=accept)))
        assert played.status == status and played.headers["content-type"].startswith(media)
        assert words in played.body


class TestStall:
    @pytest.mark.parametrize("stream", [True, False])
    def test_for_ever(self, stream: bool) -> None:
        """A stall for ever: before the head nothing comes; before the first token all comes that precedes
        it."""
        at_head = struck("openai", {"kind": "stall", "before": "head"}, stream=stream)
        at_token = struck("openai", {"kind": "stall", "before": "first_token"}, stream=stream)

        assert hangs(at_head) and (at_head.status, at_head.body) == (0, b"")
        assert hangs(at_token) and at_token.status == 200 and at_token.tokens == 0
        assert bool(at_token.body) == stream  # the event with the role

    @pytest.mark.parametrize("before", ["head", "first_token"])
    def test_for_a_while(self, before: str) -> None:
        """A stall that ends delays an answer that is otherwise untouched."""
        played = struck("openai", {"kind": "stall", "before": before, "s": 7})
        assert played.waited_s == 7
        assert played.body == struck("openai").body


class TestCut:
    @pytest.mark.parametrize("persona", PERSONAS)
    @pytest.mark.parametrize("after", [0, 1, 46])
    @pytest.mark.parametrize("how", ["close", "reset", "error_event", "end_without_finish"])
    def test_stream(self, persona: str, after: int, how: str) -> None:
        """`after_tokens` tokens come, then the break, and never an event that says the answer is whole."""
        played = struck(persona, {"kind": "cut", "after_tokens": after, "how": how})

        assert played.tokens == after == len(text_of(played).split())
        assert judge(text_of(played), "hi") is Proof.CUT
        assert not finished(played) and b"[DONE]" not in played.body
        ends = {"close": Close(), "reset": Reset()}
        assert played.end == ends[how] if how in ends else ended_well(played)
        assert (b"error" in played.body) == (how == "error_event")

    @pytest.mark.parametrize("persona", PERSONAS)
    def test_error_event(self, persona: str) -> None:
        """A provider breaks off in its own dialect."""
        event = struck(persona, {"kind": "cut", "after_tokens": 3, "how": "error_event"}).body.split(b"\n\n")[
            -2
        ]
        said = json.loads(event.partition(b"data: ")[2])

        match persona:
            case "openrouter":
                assert said["choices"][0]["finish_reason"] == "error"
                assert said["error"]["code"] == "server_error"
            case "groq":
                assert said["choices"] == [] and said["x_groq"]["error"]
            case "openai" | "free":
                assert set(said) == {"error"} and said["error"]["type"] == "server_error"
            case "mistral":
                assert said["choices"][0]["finish_reason"] == "error"
            case "anthropic":
                assert event.startswith(b"event: error\n") and said["error"]["type"] == "overloaded_error"

    def test_answer_that_is_shorter(self) -> None:
        """An answer with no more tokens than `after_tokens` stays whole."""
        assert finished(struck("openai", {"kind": "cut", "after_tokens": 47, "how": "close"}))

    def test_json(self) -> None:
        """A JSON answer breaks in its middle: as a short body, as a whole but broken one, or as an error in a
        200."""
        whole = ask("openai").body
        short, broken, error = (
            struck("openai", {"kind": "cut", "after_tokens": 20, "how": how}, stream=False)
            for how in ("close", "end_without_finish", "error_event")
        )

        assert whole.startswith(short.body) and short.headers["content-length"] == str(len(whole))
        assert short.end == Close() and 0 < len(short.body) < len(whole)
        assert ended_well(broken) and broken.body == short.body and "content-length" not in broken.headers
        assert error.status == 200 and "error" in error.json


class TestGarbageAndEmpty:
    def test_garbage(self) -> None:
        """Garbage breaks the kind of answer that it names; the other kind is untouched."""
        on_json, on_stream = {"kind": "garbage", "where": "json"}, {"kind": "garbage", "where": "sse"}

        broken = struck("openai", on_json, stream=False)
        assert broken.status == 200 and ended_well(broken)
        with pytest.raises(ValueError):
            json.loads(broken.body)
        with pytest.raises(ValueError):
            assert struck("openai", on_stream).events
        assert struck("openai", on_json).body == ask("openai", stream=True).body
        assert struck("openai", on_stream, stream=False).body == ask("openai").body

    @pytest.mark.parametrize("persona", PERSONAS)
    def test_empty_after_a_cut(self, persona: str) -> None:
        """An answer that is no longer whole stays as it is."""
        cut = [{"kind": "cut", "after_tokens": 3, "how": "end_without_finish"}, {"kind": "empty"}]
        assert struck(persona, *cut, stream=False).status == 200

    @pytest.mark.parametrize("persona", PERSONAS)
    def test_empty(self, persona: str) -> None:
        """An empty answer has no content, and is properly finished."""
        stream = struck(persona, {"kind": "empty"})
        whole = struck(persona, {"kind": "empty"}, stream=False)

        assert finished(stream) and text_of(stream) == ""
        said = (
            whole.json["content"]
            if persona == "anthropic"
            else whole.json["choices"][0]["message"]["content"]
        )
        assert not said and ended_well(whole)
        assert (whole.json.get("stop_reason") or whole.json["choices"][0]["finish_reason"]) in (
            "stop",
            "end_turn",
        )


class TestConnection:
    @pytest.mark.parametrize("kind, end", [("reset", Reset()), ("close", Close())])
    def test_before(self, kind: str, end: object) -> None:
        """The connection ends before a single byte, or before the first token."""
        at_head, at_token = (struck("openai", {"kind": kind, "before": b}) for b in ("head", "first_token"))
        assert (at_head.end, at_head.status) == (end, 0)
        assert (at_token.end, at_token.status, at_token.tokens) == (end, 200, 0)


class TestTogether:
    def test_composition(self) -> None:
        """Faults act on the result of those before them."""
        slow_then_cut = struck(
            "openai",
            {"kind": "stall", "before": "first_token", "s": 2},
            {"kind": "slow", "factor": 10},
            {"kind": "cut", "after_tokens": 1, "how": "reset"},
        )
        assert (slow_then_cut.waited_s, slow_then_cut.tokens, slow_then_cut.end) == (20, 1, Reset())

        late_530 = struck(
            "openai", {"kind": "status", "status": 530}, {"kind": "stall", "before": "head", "s": 3}
        )
        assert (late_530.status, late_530.waited_s) == (530, 3)

    def test_first(self) -> None:
        """`first` hits exactly the first n requests from the moment it is set."""
        one = provider("openai", parse_fault({"kind": "status", "status": 500, "first": 2}))
        assert [play(one(post("openai"))).status for _ in range(4)] == [500, 500, 200, 200]
        one.set_fault(parse_fault({"kind": "status", "status": 503, "first": 1}))
        assert [play(one(post("openai"))).status for _ in range(2)] == [503, 200]

    def test_share(self) -> None:
        """`share` hits about that share, drawn from the seed; a fault added later does not change the
        draws."""
        some = parse_fault({"kind": "status", "status": 500, "share": 0.3})
        other = parse_fault({"kind": "stall", "share": 0.0})

        def statuses(*faults: Any, seed: int) -> list[int]:
            one = provider("openai", *faults, seed=seed)
            return [play(one(post("openai"))).status for _ in range(300)]

        assert 60 < statuses(some, seed=1).count(500) < 120
        assert statuses(some, seed=1) == statuses(some, other, seed=1) != statuses(some, seed=2)


class TestParsing:
    @pytest.mark.parametrize(
        "fault",
        [
            {"kind": "status", "status": 530, "body": "cloudflare_1033_text", "share": 0.5},
            {"kind": "status", "status": 429, "retry_after_s": None},
            {"kind": "stall", "before": "first_token", "s": 1.5, "first": 3},
            {"kind": "cut", "after_tokens": 5, "how": "error_event"},
        ],
    )
    def test_there_and_back(self, fault: dict[str, Any]) -> None:
        """A fault is described by the fields it was set with."""
        assert fault.items() <= described(parse_fault(fault)).items()
        assert parse_fault(described(parse_fault(fault))) == parse_fault(fault)

    @pytest.mark.parametrize(
        "fault, words",
        [
            ("status", 'a fault is an object, for example {"kind": "status", "status": 503}'),
            ({}, f"unknown kind ``; valid kinds: {', '.join(KINDS)}"),
            ({"kind": "stahl"}, "unknown kind `stahl`"),
            ({"kind": ["x"]}, "unknown kind"),
            ({"kind": "status"}, "missing required field `status`"),
            ({"kind": "status", "status": 99}, ">= 200"),
            (
                {"kind": "status", "status": 530, "body": "cloudflare"},
                "valid bodies: cloudflare_1033, cloudflare_1016, ",
            ),
            ({"kind": "stall", "befor": "head"}, "unknown field `befor`"),
            ({"kind": "stall", "before": "lunch"}, "'lunch'"),
            ({"kind": "cut", "after_tokens": -1}, ">= 0"),
            ({"kind": "empty", "share": 2}, "<= 1.0"),
            ({"kind": "stall", "s": True}, "Expected `float | null`"),
        ],
        ids=str,
    )
    def test_clear_errors(self, fault: object, words: str) -> None:
        """An invalid fault is answered with what is valid."""
        with pytest.raises(BadFault) as caught:
            parse_fault(fault)
        assert words in str(caught.value)
