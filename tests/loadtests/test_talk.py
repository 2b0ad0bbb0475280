import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from dub5.loadtests.carriers import CARRIERS, Arrived, Credentials, Refused, TurnQuestion
from dub5.loadtests.mix import PersonKind
from dub5.loadtests.sample import Sample, SampleOutcome
from dub5.loadtests.talk import RESUMES_MAX, PersonTalk, TurnPlan
from dub5.loadtests.turn_text import WireMessage
from dub5.simulators.answers import Proof, judge
from dub5.simulators.server.thread import SimulatorThread
from tests.support.conversing import KEY, ServiceProcess

WHOLE = "hello "
ACCEPTED = WireMessage("accepted", "t", id="q", conversation="c", kept=True)
BEGIN = WireMessage("begin", "t", 0, target="one/m")
HELLO, HE = WireMessage("delta", "t", 6, WHOLE), WireMessage("delta", "t", 2, "he")
TO_THE_END = TurnPlan()


def end(seq: int, outcome: str) -> WireMessage:
    return WireMessage("end", "t", seq, outcome=outcome, kept=True)


END = end(6, "complete")


class ScriptedCarrier:
    """A carrier whose messages are written down: of the question, then of each resume."""

    def __init__(self, *connections: tuple[WireMessage | Exception, ...]) -> None:
        self._connections = list(connections)
        self.calls: list[object] = []

    def ask(self, question: TurnQuestion) -> Iterator[Arrived]:
        self.calls.append(question.conversation)
        yield from self._play()

    def resume(self, turn: str, after: int) -> Iterator[Arrived]:
        self.calls.append((turn, after))
        yield from self._play()

    def stop(self, turn: str) -> None:
        self.calls.append(("stop", turn))

    def lose(self) -> None:
        self.calls.append("lose")

    def close(self) -> None:
        self.calls.append("close")

    def _play(self) -> Iterator[Arrived]:
        for step in self._connections.pop(0):
            if isinstance(step, Exception):
                raise step
            yield Arrived(step, 1.0)


def says_hello(text: str, prompt: str) -> Proof:
    return Proof.WHOLE if text == WHOLE else Proof.CUT


def ask(carrier: ScriptedCarrier, plan: TurnPlan = TO_THE_END) -> Sample:
    kind = PersonKind("talks", 1, "websocket", think_s=0.0)
    return PersonTalk(kind, carrier, says_hello, Random("1"), "chat", 0.0).ask(0, 0.0, plan)


def test_a_loss_in_mid_answer() -> None:
    """Who loses the connection reads on from the last position, and the answer is judged as one text."""
    half, rest = WireMessage("delta", "t", 3, "hel"), WireMessage("delta", "t", 6, "lo ")
    carrier = ScriptedCarrier((ACCEPTED, BEGIN, half, rest), (WireMessage("begin", "t", 3), rest, END))
    sample = ask(carrier, TurnPlan(lose_at=1))
    assert (sample.outcome, sample.resumed, sample.kept) == (SampleOutcome.COMPLETE, 1, True)
    assert carrier.calls == [None, "lose", ("t", 3)] and sample.resume_s is not None


@pytest.mark.parametrize(
    ("connections", "outcome", "why"),
    [
        (((ACCEPTED, BEGIN, HELLO, END),), SampleOutcome.COMPLETE, ""),
        (((ACCEPTED, BEGIN, ConnectionResetError()), (BEGIN, HELLO, END)), SampleOutcome.COMPLETE, ""),
        (((ACCEPTED, BEGIN, HELLO), (BEGIN, HELLO, END)), SampleOutcome.DISHONEST, "a repeat: it goes on"),
        (((ACCEPTED, BEGIN, HELLO), (Refused("404 gone"),)), SampleOutcome.DISHONEST, "a turn that cannot"),
        (((Refused("429 rate_limited"),),), SampleOutcome.FAILED, "429 rate_limited"),
        (((ConnectionRefusedError(),),), SampleOutcome.BROKEN, "ConnectionRefusedError"),
        (((ACCEPTED, OSError()), *[(OSError(),)] * RESUMES_MAX), SampleOutcome.BROKEN, "OSError"),
        (
            ((ACCEPTED, BEGIN, HE, end(2, "complete")),),
            SampleOutcome.DISHONEST,
            "the text is cut",
        ),
        (
            ((ACCEPTED, BEGIN, HE, end(2, "cut")),),
            SampleOutcome.CUT,
            "",
        ),
    ],
)
def test_how_a_turn_ends(
    connections: tuple[tuple[WireMessage, ...], ...], outcome: SampleOutcome, why: str
) -> None:
    """Only a turn that says that it is whole, and is whole, is complete; a gap or a repeat is dishonest."""
    sample = ask(ScriptedCarrier(*connections))
    assert sample.outcome is outcome and sample.why.startswith(why), sample


def test_stopping() -> None:
    """Who stops an answer is told that it was cancelled; half of it is no fault then."""
    carrier = ScriptedCarrier((ACCEPTED, BEGIN, HE, end(2, "cancelled")))
    sample = ask(carrier, TurnPlan(stop_at=1))
    assert sample.outcome is SampleOutcome.CANCELLED and carrier.calls == [None, ("stop", "t")]


def test_plans() -> None:
    """People stop and lose their connections as often as their kind says, and think for a while."""
    kind = PersonKind("talks", 1, "sse", stops=0.1, loses=0.3, think_s=2.0, personalities=("tutor", "short"))
    talk = PersonTalk(kind, ScriptedCarrier(), says_hello, Random("1"), "chat", 0.0)
    plans = [talk.plan() for _ in range(2000)]
    assert sum(plan.stop_at is not None for plan in plans) == pytest.approx(200, rel=0.15)
    assert sum(plan.lose_at is not None for plan in plans) == pytest.approx(600, rel=0.15)
    assert sum(talk.think_s() for _ in range(2000)) / 2000 == pytest.approx(2.0, rel=0.1)
    assert {kind.model("chat", Random(str(i))) for i in range(20)} == {"chat:tutor", "chat:short"}


@pytest.mark.real_sockets
@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_real_service(carrier: str, tmp_path: Path) -> None:
    """Over both carriers a lost turn is read on to its end, a stopped one ends, and the next one follows."""
    thread = SimulatorThread()
    provider = thread.start("openai", (), {"words": 40, "models": ["m"], "latency": "quick"})
    service = ServiceProcess(tmp_path, "service", f"sqlite:///{tmp_path}/kept.db", provider.url)
    await service.start()
    try:
        samples = await asyncio.to_thread(_talk, carrier, service.url)
    finally:
        service.kill()
        provider.close()
        thread.close()
    assert [sample.outcome for sample in samples] == [
        SampleOutcome.COMPLETE,
        SampleOutcome.CANCELLED,
        SampleOutcome.COMPLETE,
    ], samples
    assert [sample.resumed for sample in samples] == [1, 0, 0] and all(sample.kept for sample in samples)


def _talk(carrier: str, url: str) -> list[Sample]:
    kind = PersonKind("talks", 1, "sse")
    connection = CARRIERS[carrier](url, Credentials.begin(url, KEY))
    talk = PersonTalk(kind, connection, judge, Random("1"), "chat", 0.0)
    plans = (TurnPlan(lose_at=3, away_s=0.02), TurnPlan(stop_at=3), TurnPlan())
    samples = [talk.ask(number, 0.0, plan) for number, plan in enumerate(plans)]
    talk.close()
    return samples
