"""Rate limits are real buckets, and the headers report them truly."""

from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.simulators.limits.rate import Bucket, Limits, duration
from dub5.simulators.provider import make
from dub5.simulators.settings import BadSettings, build
from tests.support.play import ASK, ASK_ANTHROPIC, PlayedScript, play, post


class LimitedProvider:
    """A provider with limits, at a time that can be set."""

    def __init__(self, persona: str, **limits: Any) -> None:
        self.now_s = 0.0
        file = {"latency": "zero", "provider": [{"name": "one", "persona": persona, "limits": limits}]}
        self.persona = persona
        self.providers, self.ledger = make(build(file), now=lambda: self.now_s, epoch_s=1_763_700_000)

    def ask(self, at_s: float = 0.0, **fields: Any) -> PlayedScript:
        self.now_s = at_s
        body = ASK_ANTHROPIC if self.persona == "anthropic" else ASK
        return play(self.providers["one"](post(self.persona, {**body, **fields})))


@pytest.mark.parametrize("persona", ["openai", "anthropic", "mistral"])
def test_retry_after_is_true(persona: str) -> None:
    """A client that comes back after Retry-After is served; a second earlier it is not."""
    limited = LimitedProvider(persona, requests_per_minute=4)
    assert [limited.ask().status for _ in range(5)] == [200] * 4 + [429]
    wait_s = int(limited.ask().headers["retry-after"])
    assert wait_s == 15
    assert limited.ask(wait_s - 1).status == 429
    assert limited.ask(wait_s).status == 200
    assert limited.ask(wait_s).status == 429
    assert [line.faults for line in limited.ledger.lines()].count(("limit",)) == 4


def test_openai_headers() -> None:
    """OpenAI reports requests and tokens on every answer, resets as durations, the wait also in
    milliseconds."""
    limited = LimitedProvider("openai", requests_per_minute=600, tokens_per_minute=6000)
    told = {name: value for name, value in limited.ask().headers.items() if name.startswith("x-ratelimit")}
    assert told == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "599",
        "x-ratelimit-reset-requests": "100ms",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5952",
        "x-ratelimit-reset-tokens": "480ms",
    }
    while (refused := limited.ask()).status == 200:
        pass
    error = refused.json["error"]
    assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
    assert (
        "on tokens per min (TPM): Limit 6000, Used 6000, Requested 48. Please try again in 480ms."
        in error["message"]
    )
    assert (refused.headers["retry-after"], refused.headers["retry-after-ms"]) == ("1", "480")


def test_anthropic_headers() -> None:
    """Anthropic reports when each limit is full again, as a date."""
    told = LimitedProvider("anthropic", requests_per_minute=60, input_tokens_per_minute=1000).ask().headers
    assert told["anthropic-ratelimit-requests-remaining"] == "59"
    assert told["anthropic-ratelimit-requests-reset"] == "2025-11-21T04:40:01Z"
    assert told["anthropic-ratelimit-input-tokens-limit"] == "1000"


def test_too_large() -> None:
    """A request larger than the bucket never fits, and gets no Retry-After."""
    refused = LimitedProvider("openai", tokens_per_minute=40).ask()
    assert refused.status == 429 and "retry-after" not in refused.headers
    assert refused.json["error"]["message"].startswith("Request too large for gpt-sim")


def test_one_organisation() -> None:
    """Providers of one organisation share their buckets."""
    table = {"persona": "openai", "limits": {"requests_per_day": 1, "organisation": "org"}}
    file = {"latency": "zero", "provider": [{"name": name, **table} for name in ("one", "two")]}
    providers, _ = make(build(file), now=lambda: 0.0)
    assert [play(providers[name](post("openai"))).status for name in ("one", "two")] == [200, 429]


class TestChanges:
    def test_what_is_used_stays_used(self) -> None:
        """Usage is kept: raising a limit adds the difference, lowering it leaves nothing, and it refills from
        there."""
        limited = LimitedProvider("openai", requests_per_minute=10)
        one = limited.providers["one"]
        assert [limited.ask().status for _ in range(10)] == [200] * 10
        one.set_limits(Limits(requests_per_minute=12))
        assert [limited.ask().status for _ in range(3)] == [200, 200, 429]
        one.set_limits(Limits(requests_per_minute=2))
        assert limited.ask().headers["retry-after"] == "30"
        assert [limited.ask(30).status for _ in range(2)] == [200, 429]

    def test_gone_and_back(self) -> None:
        """Without limits all requests pass and no header reports any; None restores those of the start."""
        limited = LimitedProvider("openai", requests_per_minute=1)
        one = limited.providers["one"]
        one.set_limits(Limits())
        answers = [limited.ask() for _ in range(3)]
        assert {answer.status for answer in answers} == {200}
        assert not any(name.startswith("x-ratelimit") for name in answers[0].headers)
        one.set_limits()
        assert [limited.ask().status for _ in range(2)] == [200, 429]

    def test_one_organisation(self) -> None:
        """Limits change for all providers of an organisation, and no provider moves to another."""
        table = {"persona": "openai", "limits": {"requests_per_day": 1, "organisation": "org"}}
        file = {"latency": "zero", "provider": [{"name": name, **table} for name in ("one", "two")]}
        providers, _ = make(build(file), now=lambda: 0.0)
        providers["one"].set_limits(Limits(requests_per_day=2))
        assert [play(providers["two"](post("openai"))).status for _ in range(3)] == [200, 200, 429]
        with pytest.raises(ValueError, match="the organisation is `org` from the start"):
            providers["one"].set_limits(Limits(organisation="other"))


@pytest.mark.parametrize(
    "how, told",
    [
        ("none", None),
        ("zero", "0"),
        ("garbage", "soon"),
        (300, "300"),
        ("date", "Fri, 21 Nov 2025 04:41:00 GMT"),
    ],
)
def test_distorted(how: Any, told: str | None) -> None:
    """Retry-After can be left out or wrong, and the other headers can be withheld."""
    limited = LimitedProvider("openai", requests_per_minute=1, retry_after=how, headers=False)
    limited.ask()
    refused = limited.ask()
    assert refused.status == 429 and refused.headers.get("retry-after") == told
    assert not any(name.startswith(("x-ratelimit", "retry-after-ms")) for name in refused.headers)
    if how == "date":
        assert parsedate_to_datetime(told or "").timestamp() == 1_763_700_060


def test_clear_errors() -> None:
    """An unknown limit is named."""
    with pytest.raises(BadSettings, match="requests_per_hour"):
        LimitedProvider("openai", requests_per_hour=1)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 40)), min_size=1, max_size=60), st.booleans())
def test_bucket(requests: list[tuple[float, int]], windowed: bool) -> None:
    """A bucket grants at most its limit and what has refilled; after the reported wait the request fits."""
    bucket, now_s, taken = Bucket("tokens", "minute", 50, windowed), 0.0, 0
    for pause_s, n in requests:
        now_s += pause_s
        wait_s = bucket.wait_s(n, now_s)
        if wait_s == 0:
            bucket.used += n
            taken += n
        else:
            assert bucket.wait_s(n, now_s + wait_s + 1e-6) == 0
            now_s += wait_s + 1e-6
    if windowed:
        assert taken <= 50 * (now_s // 60 + 1)
    else:
        assert taken <= 50 + 50 * now_s / 60 + 1e-3


@pytest.mark.parametrize(
    "s, text",
    [
        (0, "0ms"),
        (0.012, "12ms"),
        (1, "1s"),
        (7.66, "7.66s"),
        (179.56, "2m59.56s"),
        (360, "6m0s"),
        (86_399, "23h59m59s"),
    ],
)
def test_duration(s: float, text: str) -> None:
    """Durations are written as Go writes them."""
    assert duration(s) == text
