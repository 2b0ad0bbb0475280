"""When a fault applies: exact lists first, then shares, then time windows, all from one seed."""

import itertools
from typing import Any

import pytest

from dub5.simulators.faults.answers import BadFault, parse_fault
from dub5.simulators.provider import SimulatedProvider, make
from dub5.simulators.script import SimRequest
from dub5.simulators.settings import BadSettings, build
from tests.support.play import ASK, play, post


class ProvidersWithClock:
    """Simulated providers, and a clock that the test sets."""

    def __init__(self, *faults: dict[str, Any], seed: int = 0, **file: Any) -> None:
        self.now_s = 0.0
        settings = build({"latency": "zero", **file}, ["one=openai", "two=mistral"], seed=seed)
        self.providers, self.ledger = make(settings, now=lambda: self.now_s)
        self.one: SimulatedProvider = self.providers["one"]
        for fault in faults:
            self.one.set_fault(parse_fault(fault))

    def statuses(self, at_s: list[float], name: str = "one") -> list[int]:
        found = []
        for self.now_s in at_s:
            found.append(play(self.providers[name](post("openai"))).status)
        return found


class TestSequence:
    def test_fail_twice_then_succeed(self) -> None:
        """Each request meets its own step; after the last the provider is healthy; the ledger names the
        faults applied."""
        providers = ProvidersWithClock(
            {"kind": "sequence", "steps": ["status:500", {"kind": "status", "status": 503}]}
        )
        assert providers.statuses([0, 0, 0, 0]) == [500, 503, 200, 200]
        assert [line.faults for line in providers.ledger.lines()] == [("status",), ("status",), (), ()]

    def test_loop(self) -> None:
        """With `loop` the steps begin again, for ever."""
        providers = ProvidersWithClock(
            {"kind": "sequence", "steps": ["ok", "status:530:cloudflare_1033_text"], "loop": True}
        )
        assert providers.statuses([0] * 5) == [200, 530, 200, 530, 200]

    def test_only_what_is_asked(self) -> None:
        """A GET of the models uses up no step, nor does a request to another model."""
        providers = ProvidersWithClock({"kind": "sequence", "steps": ["status:500"], "model": "m-sim"})
        play(providers.one(SimRequest("GET", "/v1/models", {}, b"")))
        play(providers.one(post("openai", {**ASK, "model": "other"})))
        assert providers.statuses([0, 0]) == [500, 200]

    @pytest.mark.parametrize(
        "short, long",
        [
            ("status:429::2", {"kind": "status", "status": 429, "retry_after_s": 2}),
            ("cut:5:reset", {"kind": "cut", "after_tokens": 5, "how": "reset"}),
            ("stall:first_token:1.5", {"kind": "stall", "before": "first_token", "s": 1.5}),
            ("reset:", {"kind": "reset"}),
        ],
    )
    def test_short_form(self, short: str, long: dict[str, Any]) -> None:
        """The short form is the kind and its own fields, in order; an empty one keeps its default."""
        assert parse_fault(short) == parse_fault(long)

    @pytest.mark.parametrize(
        "steps, words",
        [
            ([], "length >= 1"),
            (["stat:500"], "unknown kind `stat`"),
            (["status:x"], "step 'status:x'"),
            (["slow:1:2"], "too many values; fields of slow: factor"),
            ([{"kind": "sequence", "steps": ["ok"]}], "a step cannot be a sequence"),
        ],
        ids=str,
    )
    def test_clear_errors(self, steps: list[Any], words: str) -> None:
        """An invalid step is named."""
        with pytest.raises(BadFault) as caught:
            parse_fault({"kind": "sequence", "steps": steps})
        assert words in str(caught.value)


class TestOutages:
    def test_window(self) -> None:
        """A window lasts from `at_s` for `for_s`, counted from the moment the fault is set."""
        providers = ProvidersWithClock({"kind": "status", "status": 530, "at_s": 10, "for_s": 5})
        assert providers.statuses([0, 9.9, 10, 14.9, 15, 100]) == [200, 200, 530, 530, 200, 200]

    def test_again_and_again(self) -> None:
        """`every_s` repeats the window; `first` counts only requests within a window."""
        providers = ProvidersWithClock(
            {"kind": "status", "status": 530, "at_s": 1, "for_s": 2, "every_s": 10, "first": 2}
        )
        assert providers.statuses([0, 2, 5, 12, 22]) == [200, 530, 200, 530, 200]

    def test_drawn(self) -> None:
        """Drawn outages last `down_s` in the mean and follow the seed, however often they are checked."""
        flap = {"kind": "status", "status": 530, "up_s": 30, "down_s": 10}
        times = [float(s) for s in range(4000)]
        providers = ProvidersWithClock(flap, seed=1)
        often = providers.statuses(times)
        down = often.count(530) / len(often)
        assert 0.18 < down < 0.32
        changes = sum(a != b for a, b in itertools.pairwise(often))
        assert 120 < changes < 280
        assert ProvidersWithClock(flap, seed=1).statuses(times[::7]) == often[::7]
        assert ProvidersWithClock(flap, seed=2).statuses(times) != often

    def test_host_takes_all_of_its_providers_along(self) -> None:
        """A shared fault hits every provider that it names at the same times."""
        flap = {"kind": "status", "status": 530, "up_s": 30, "down_s": 10, "providers": ["one", "two"]}
        providers, times = ProvidersWithClock(fault=[flap]), [float(s) for s in range(500)]
        one = providers.statuses(times)
        assert 530 in one
        assert ProvidersWithClock(fault=[flap]).statuses(times, "two") == one

    @pytest.mark.parametrize(
        "fields, words",
        [
            ({"every_s": 5}, "`for_s` must be shorter than `every_s`"),
            ({"for_s": 5, "every_s": 5}, "`for_s` must be shorter than `every_s`"),
            ({"up_s": 5}, "must be given together"),
            ({"up_s": 5, "down_s": 5, "for_s": 1, "every_s": 9}, "not both"),
            ({"down_s": 0, "up_s": 1}, "> 0"),
        ],
        ids=str,
    )
    def test_clear_errors(self, fields: dict[str, Any], words: str) -> None:
        """Contradictory windows are rejected."""
        with pytest.raises(BadFault) as caught:
            parse_fault({"kind": "empty", **fields})
        assert words in str(caught.value)

    def test_unknown_provider(self) -> None:
        """A shared fault must name existing providers."""
        with pytest.raises(BadSettings, match="must be a list of: one, two"):
            ProvidersWithClock(fault=[{"kind": "empty", "providers": ["three"]}])


def test_notice_sold_as_an_answer() -> None:
    """A notice is a healthy answer in every way but its text, streamed or not."""
    providers = ProvidersWithClock({"kind": "notice", "text": "We are moving."})
    whole = play(providers.one(post("openai"))).json["choices"][0]
    stream = play(providers.one(post("openai", {**ASK, "stream": True}))).events
    assert (whole["message"]["content"], whole["finish_reason"]) == ("We are moving.", "stop")
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in stream) == "We are moving."
    assert stream[-1]["choices"][0]["finish_reason"] == "stop"
