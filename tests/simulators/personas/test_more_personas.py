"""OpenRouter, Groq, the free tier and embeddings: only their differences from OpenAI."""

import base64
import struct
from typing import Any

import pytest

from dub5.simulators.answers import Proof, judge
from dub5.simulators.faults.answers import parse_fault
from dub5.simulators.provider import make
from dub5.simulators.settings import build
from tests.support.play import ASK, PlayedScript, ask, play, post, provider


def refused(persona: str, status: int, seed: int = 0) -> PlayedScript:
    return play(provider(persona, parse_fault(f"status:{status}"), seed=seed)(post(persona)))


def limited(persona: str, **limits: Any) -> PlayedScript:
    """Return the first response beyond the limits."""
    file = {"latency": "zero", "provider": [{"name": "one", "persona": persona, "limits": limits}]}
    one = make(build(file), now=lambda: 0.0)[0]["one"]
    while (played := play(one(post(persona)))).status == 200:
        assert persona != "openrouter" or "x-ratelimit-limit" not in played.headers
    return played


class TestOpenRouter:
    def test_comments(self) -> None:
        """The head goes out at once; comments fill the silence before the first token; the answer is
        whole."""
        one = provider("openrouter", parse_fault("slow:10"), latency="frontier")
        played = play(one(post("openrouter", {**ASK, "stream": True})))
        before = played.body.partition(b"data: ")[0]
        assert before.count(b": OPENROUTER PROCESSING\n\n") >= 1
        assert before.replace(b": OPENROUTER PROCESSING\n\n", b"") == b""
        text = "".join(e["choices"][0]["delta"].get("content", "") for e in played.events)
        assert judge(text, "hi") is Proof.WHOLE
        assert played.events[0]["id"].startswith("gen-")

    def test_error_in_a_200(self) -> None:
        """An error after the beginning comes with status 200, also as a JSON answer, where its code is a
        number."""
        played = ask("openrouter", parse_fault("cut:3:error_event"))
        assert played.status == 200
        assert played.json["error"] == {"code": 500, "message": "Internal Server Error"}

    def test_upstream(self) -> None:
        """A host's own 429 is reported with its name and its words."""
        said = refused("openrouter", 429).json
        assert said["error"]["code"] == 429 and said["error"]["message"] == "Provider returned error"
        assert "temporarily rate-limited upstream" in said["error"]["metadata"]["raw"]

    def test_limits_are_told_only_when_they_bite(self) -> None:
        """Only the 429 has limit headers; the reset is in epoch milliseconds; days end at midnight."""
        played = limited("openrouter", requests_per_day=2)
        told = {n: v for n, v in played.headers.items() if n.startswith(("x-rate", "retry"))}
        midnight_ms = 1_763_769_600_000
        wait_s = midnight_ms // 1000 - 1_763_700_000
        assert told == {
            "x-ratelimit-limit": "2",
            "x-ratelimit-remaining": "0",
            "x-ratelimit-reset": str(midnight_ms),
            "retry-after": str(wait_s),
        }
        assert "free-models-per-day" in played.json["error"]["message"]


class TestGroq:
    def test_x_groq(self) -> None:
        """`x_groq` is in the first event and in the last, with the usage."""
        events = ask("groq", stream=True).events
        assert [bool(e.get("x_groq")) for e in (events[0], events[1], events[-1])] == [True, False, True]
        assert events[-1]["x_groq"]["usage"]["completion_tokens"] == 47
        assert ask("groq").json["x_groq"]["id"].startswith("req_")

    def test_limits(self) -> None:
        """Headers report requests per day and tokens per minute; a request too large is a 413 with the same
        code."""
        played = limited("groq", requests_per_day=1, tokens_per_minute=6000)
        assert played.status == 429 and played.headers["retry-after"] == "86400"
        assert played.headers["x-ratelimit-limit-requests"] == "1"
        assert played.headers["x-ratelimit-reset-requests"] == "24h0m0s"
        assert played.headers["x-ratelimit-remaining-tokens"] == "5952"
        assert "on requests per day (RPD): Limit 1, Used 1, Requested 1." in played.json["error"]["message"]

        large = limited("groq", tokens_per_minute=40)
        assert (large.status, large.json["error"]["code"]) == (413, "rate_limit_exceeded")

    def test_capacity(self) -> None:
        """Only Groq has a 498."""
        assert refused("groq", 498).json["error"]["code"] == "capacity_exceeded"


class TestFree:
    def test_three_shapes(self) -> None:
        """A status has three shapes of errors; each one names the status."""
        said = [refused("free", 403, seed).json for seed in range(20)]
        assert {tuple(sorted(body)) for body in said} == {
            ("error", "status"),
            ("error", "status", "success"),
            ("details", "error", "status"),
        }
        assert all(body["status"] == 403 for body in said)

    def test_cloudflare_in_front(self) -> None:
        """By default a 530 is Cloudflare's page, and a 402 the origin's own."""
        assert b'errorCode":1033' in refused("free", 530).body
        assert "required tier: seed" in refused("free", 402).json["error"]


class TestEmbeddings:
    def ask(self, **fields: Any) -> PlayedScript:
        body = {"model": "embed-sim", "input": "hi", **fields}
        return play(provider("openai")(post("openai", body, path="/v1/embeddings")))

    def test_both_forms(self) -> None:
        """Equal texts give equal unit vectors, as numbers or as float32 in base64."""
        played = self.ask(input=["a", "b", "a"], dimensions=8)
        a, b, again = (item["embedding"] for item in played.json["data"])
        assert a == again != b and len(a) == 8 and abs(sum(x * x for x in a) - 1) < 1e-9
        packed = self.ask(input="a", dimensions=8, encoding_format="base64").json["data"][0]["embedding"]
        assert struct.unpack("<8f", base64.b64decode(packed)) == pytest.approx(a)
        assert played.json["usage"] == {"prompt_tokens": 3, "total_tokens": 3}

    @pytest.mark.parametrize(
        "fields",
        [{"input": []}, {"input": None}, {"model": ""}, {"dimensions": 0}, {"encoding_format": "hex"}],
        ids=str,
    )
    def test_wrong_body(self, fields: dict[str, Any]) -> None:
        """An invalid input is rejected in OpenAI's shape."""
        played = self.ask(**fields)
        assert (played.status, played.json["error"]["type"]) == (400, "invalid_request_error")

    def test_faults(self) -> None:
        """Faults apply to embeddings as to chat."""
        one = provider("openai", parse_fault("empty:"))
        body = {"model": "e", "input": "hi"}
        assert play(one(post("openai", body, path="/v1/embeddings"))).json["data"] == []
