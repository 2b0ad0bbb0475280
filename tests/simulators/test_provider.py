"""The ledger is the ground truth: what was requested, what was sent, and which side ended it."""

import json
import random

import pytest

from dub5.simulators.answers import prompt_tag
from dub5.simulators.faults.answers import parse_fault
from dub5.simulators.faults.base import Fault
from dub5.simulators.latency import PRESETS, Latency
from dub5.simulators.ledger import Ended, Ledger
from dub5.simulators.personas.base import Persona, PersonaContext, Profile
from dub5.simulators.provider import SimulatedProvider, make
from dub5.simulators.script import Data, Hang, Script, SimRequest
from dub5.simulators.settings import BadSettings, build
from tests.support.play import ASK, play, post


class EmptyScript(Fault, frozen=True, tag="nothing"):
    """A fault that leaves nothing of the script."""

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        return iter(())


class ManualClock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def one(clock: ManualClock) -> SimulatedProvider:
    return SimulatedProvider("openai", Profile("one", PRESETS["zero"]), rng=random.Random(0), now=clock)


class TestLedger:
    def test_whole_answer(self, one: SimulatedProvider, clock: ManualClock) -> None:
        """A line holds what was requested, what was sent, and that the attempt ended properly."""
        request = post("openai", **{"x-stainless-retry-count": "2"})

        played = play(one(request))

        (line,) = one.ledger.lines()
        assert (line.n, line.provider, line.request, line.at_s) == (1, "one", 1, 100.0)
        assert (line.method, line.path, line.model) == ("POST", "/v1/chat/completions", "m-sim")
        assert (line.prompt, line.stream, line.retry) == (prompt_tag("hi"), False, 2)
        assert (line.status, line.bytes_sent, line.tokens_sent) == (200, len(played.body), 47)
        assert (line.ended, line.left_at_s, line.faults) == (Ended.END, None, ())

    @pytest.mark.parametrize(
        "fault, ended",
        [
            ({"kind": "cut", "after_tokens": 3, "how": "close"}, Ended.CUT),
            ({"kind": "cut", "after_tokens": 3, "how": "reset"}, Ended.RESET),
            ({"kind": "cut", "after_tokens": 3, "how": "end_without_finish"}, Ended.END),
            ({"kind": "reset"}, Ended.RESET),
            ({"kind": "status", "status": 530}, Ended.END),
        ],
        ids=str,
    )
    def test_fault(self, one: SimulatedProvider, fault: dict[str, object], ended: Ended) -> None:
        """A line names the fault that was applied, and how the connection ended."""
        one.set_faults([parse_fault(fault)])

        played = play(one(post("openai", {**ASK, "stream": True})))

        (line,) = one.ledger.lines()
        assert (line.faults, line.ended) == ((fault["kind"],), ended)
        assert (line.status, line.tokens_sent) == (played.status, played.tokens)
        assert line.left_at_s is None

    @pytest.mark.parametrize("hanging", [False, True])
    def test_client_leaves(self, one: SimulatedProvider, clock: ManualClock, hanging: bool) -> None:
        """When the front end closes a script, the client has left, at that time and after that many
        tokens."""
        one.set_faults([parse_fault({"kind": "stall", "before": "first_token"})] if hanging else [])
        script = one(post("openai", {**ASK, "stream": True}))
        for action in script:
            if isinstance(action, Hang) or (isinstance(action, Data) and action.tokens):
                break
        assert one.ledger.open == {"one": 1}

        clock.now_s += 7.5
        script.close()  # type: ignore[attr-defined]

        (line,) = one.ledger.lines()
        assert (line.ended, line.left_at_s, line.duration_s) == (Ended.CLIENT_LEFT, 107.5, 7.5)
        assert line.tokens_sent == (0 if hanging else 1)
        assert one.ledger.open == {"one": 0}

    def test_script_without_an_end(self, one: SimulatedProvider) -> None:
        """A script that runs out is a cut by the provider: its client has not left."""
        one.set_faults([EmptyScript()])
        play(one(post("openai")))
        assert [line.ended for line in one.ledger.lines()] == [Ended.CUT]

    def test_only_the_newest(self, clock: ManualClock) -> None:
        """The ring drops the oldest lines, numbers go on, and a reader gets the lines after its last one."""
        ledger = Ledger(lines_max=3)
        rng = random.Random(0)
        both = [
            SimulatedProvider("openai", Profile(name, Latency()), rng=rng, now=clock, ledger=ledger)
            for name in "ab"
        ]
        for _ in range(3):
            for provider in both:
                play(provider(post("openai")))

        assert [line.n for line in ledger.lines()] == [4, 5, 6]
        assert [line.n for line in ledger.lines(since=5)] == [6]
        assert [line.n for line in ledger.lines(provider="b")] == [4, 6]
        assert ledger.lines(since=6) == ledger.lines(since=99) == []

    def test_requests_that_are_no_chat(self, one: SimulatedProvider) -> None:
        """Requests that are no chat have their line too, with empty fields."""
        play(one(SimRequest("GET", "/v1/models", {}, b"")))
        play(one(post("openai", b"\xff")))
        assert [(line.path, line.model, line.prompt, line.status) for line in one.ledger.lines()] == [
            ("/v1/models", "", "", 200),
            ("/v1/chat/completions", "", "", 400),
        ]


class TestFaultsInForce:
    def test_set_and_clear(self, one: SimulatedProvider) -> None:
        """A fault replaces that of its kind; kinds are independent of each other."""
        for fault in (
            {"kind": "status", "status": 500},
            {"kind": "slow", "factor": 2},
            {"kind": "status", "status": 503},
        ):
            one.set_fault(parse_fault(fault))
        assert [known.fault.kind for known in one.faults] == ["slow", "status"]
        assert play(one(post("openai"))).status == 503

        one.clear_faults("status")
        assert [known.fault.kind for known in one.faults] == ["slow"]
        one.clear_faults()
        assert one.faults == []

    def test_fault_changes_nothing_else(self) -> None:
        """Answers before and after a fault are those of a run without it: ids, times and all."""

        def bodies(broken: bool) -> list[bytes]:
            providers, _ = make(build({}, ["one=openai"], seed=3), now=lambda: 0.0)
            said = []
            for i in range(3):
                providers["one"].set_faults([parse_fault({"kind": "reset"})] if broken and i == 1 else [])
                said.append(play(providers["one"](post("openai"))).body)
            return said

        with_fault, without = bodies(True), bodies(False)
        assert with_fault[1] == b""
        assert [with_fault[0], with_fault[2]] == [without[0], without[2]]


class TestSettings:
    def test_file_and_command_line(self) -> None:
        """The command line wins over the file, and every setting has a default."""
        file = {
            "latency": "lpu",
            "provider": [
                {"name": "one", "persona": "openai", "port": 9, "latency": "zero", "key": "k"},
                {"name": "two", "persona": "mistral", "fault": [{"kind": "empty"}]},
            ],
        }
        settings = build(file, ["two=anthropic"], ["one=right"], words=5, seed=7, admin_port=None)

        one, two = settings.providers
        assert (one.persona, one.port, one.latency, one.words, one.key) == ("openai", 9, "zero", 5, "right")
        assert (two.persona, two.latency, two.faults) == ("anthropic", "lpu", ())
        assert (settings.seed, settings.admin_port) == (7, 0)
        assert "right" not in repr(settings)
        assert [p.persona for p in build({}).providers] == ["openai", "mistral", "anthropic"]
        assert [p.port for p in build({}, port_base=9000).providers] == [9000, 9001, 9002]

    @pytest.mark.parametrize(
        "file, providers, keys, over, words",
        [
            ({}, ["one"], [], {}, "--provider must be a pair such as one=openai"),
            ({}, ["one=opnai"], [], {}, "did you mean `openai`?"),
            ({}, ["a=openai", "a=mistral"], [], {}, "two providers have the same name"),
            ({}, ["a b=openai"], [], {}, "`a b` is not a valid name"),
            ({}, [], ["four=k"], {}, "no provider `four`; providers: one, two, three"),
            ({}, [], [], {"latency": "quik"}, "did you mean `quick`?"),
            ({}, [], [], {"words": 0}, "$.words"),
            ({}, [], [], {"port_base": 65_534}, "a port must be at most 65535"),
            ({}, [], [], {"port_base": 9000, "admin_port": 9001}, "the same port is given twice"),
            ({"sed": 1}, [], [], {}, "unknown field `sed`"),
            (
                {"provider": [{"name": "a", "persona": "openai", "fault": [{"kind": "x"}]}]},
                [],
                [],
                {},
                "a fault of `a`",
            ),
        ],
        ids=str,
    )
    def test_clear_errors(
        self, file: dict[str, object], providers: list[str], keys: list[str], over: dict[str, int], words: str
    ) -> None:
        """Invalid settings are answered with what is valid."""
        with pytest.raises(BadSettings) as caught:
            build(file, providers, keys, **over)
        assert words in str(caught.value)


def test_prompts_of_any_kind(one: SimulatedProvider) -> None:
    """A prompt with half a character in it is answered like any other."""
    body = json.dumps({**ASK, "messages": [{"role": "user", "content": "\ud83d"}]}).encode()
    assert play(one(post("openai", body))).status in (200, 400)
