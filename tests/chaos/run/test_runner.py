"""A scenario from its file to verdict and report on virtual time, and clients at endpoints that misbehave."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dub5.chaos.engines import virtual
from dub5.chaos.engines.http_endpoint import HttpEndpoint, http_session
from dub5.chaos.report import html as report
from dub5.chaos.run.clients import GRACE_S, ScenarioClients
from dub5.chaos.run.endpoint import EndpointReply, EndpointUnreachable
from dub5.chaos.run.journal import Journal, LedgerEntry, RequestResult
from dub5.chaos.run.judge import ClientOutcome
from dub5.chaos.run.runner import NullObserver, ScenarioRun, derived
from dub5.chaos.run.verdict import judge_run
from dub5.chaos.scenario.model import Expect, Scenario, ScenarioFault, Workload
from dub5.chaos.scenario.parse import parse
from dub5.chaos.scenario.workload import plan
from dub5.cli import main
from dub5.simulators.latency import Latency
from dub5.simulators.personas.base import Profile
from dub5.simulators.provider import SimulatedProvider
from dub5.simulators.script import Close, Data, Head, Script, SimRequest
from dub5.simulators.server.sockets import serve

SHORT = """
title = "One fails & <falls>"
why = "a test"
[workload]
seconds = 30
rate_per_s = 4
[timeouts]
first_token_s = 2
[[fault]]
at_s = 4
for_s = 5
provider = "one"
kind = "status"
status = 530
[[fault]]
at_s = 5
for_s = 3
provider = "two"
kind = "reset_peer"
timeout = 0
[[fault]]
at_s = 14
for_s = 3
provider = "three"
kind = "down"
[[fault]]
at_s = 18
for_s = 2
provider = "one"
kind = "cut"
after_tokens = 5
share = 0.5
[expect]
happened = ["breaker_opened", "failed_over", "stream_cut"]
first_token_p95_s = 1.0
recover_s = 10
"""


def play(text: str = SHORT, seed: int = 1) -> Journal:
    return virtual.run(parse(text, "short"), seed, NullObserver(), lambda line: None)


played = cache(play)


def test_the_service_holds() -> None:
    """Through failures of all providers in turn every request gets a complete answer or an honest cut."""
    journal = played()
    verdict = judge_run(journal)
    assert verdict.ok, [line for line in verdict.lines if not line.ok]
    assert {"one", "two", "three"} == {result.provider for result in journal.requests}
    assert ["one", "two", "three", "one"] == [window.provider for window in journal.windows]


def test_the_same_seed() -> None:
    """Equal seeds give equal runs, to the millisecond; another seed gives another run."""
    first, second, other = played(), play(), play(seed=2)
    assert first.requests == second.requests
    assert first.samples == second.samples
    assert first.requests != other.requests


def test_nobody_left_to_answer() -> None:
    """When every provider is down, the run does not hold, yet every failure is honest."""
    everybody = "".join(
        f'[[fault]]\nat_s = 4\nfor_s = 5\nprovider = "{name}"\nkind = "down"\n'
        for name in ("one", "two", "three")
    )
    text = SHORT[: SHORT.index("[[fault]]")] + everybody + "[expect]\n"
    journal = play(text)
    assert not judge_run(journal).ok
    assert {ClientOutcome.COMPLETE, ClientOutcome.FAILED} == {result.outcome for result in journal.requests}
    assert {"all_targets_down"} == {result.reason for result in journal.requests if result.reason}


def test_report(tmp_path: Path) -> None:
    """The report is one self-contained file without scripts, and escapes text from the scenario."""
    journal = played()
    page, record = report.write(journal, judge_run(journal), tmp_path)
    html = page.read_text()
    assert "<svg" in html
    assert "One fails &amp; &lt;falls&gt;" in html
    assert not re.search(r"<script|<link|<img|src=|@import|url\(", html)
    assert record.read_bytes().startswith(b"{")
    assert page.stem == record.stem


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`dub5 chaos FILE` prints the verdict and the report's path, and exits with 0 only if it held."""
    file = tmp_path / "mine.toml"
    file.write_text(SHORT)
    common = [str(file), "--engine", "virtual", "--seed", "1", "--reports", str(tmp_path)]
    assert 0 == main(["chaos", *common])
    assert "VERDICT: held" in capsys.readouterr().out
    file.write_text(
        SHORT.replace("[expect]", "[expect]\ncomplete_share = 1.0").replace('"failed_over"', '"cache_hit"')
    )
    assert 1 == main(["chaos", *common])
    said = capsys.readouterr().out
    assert "VERDICT: DID NOT HOLD" in said
    assert "--engine virtual --seed 1" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [("dmo", "known scenarios: "), ("nowhere.toml", "cannot be read"), ("demo.toml", "cannot be read")],
)
def test_command_without_a_scenario(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown scenario and a missing file are reported with exit code 2."""
    assert 2 == main(["chaos", name])
    assert said in capsys.readouterr().err


def of(workload: Workload) -> Scenario:
    """Return a scenario with load and no faults."""
    return Scenario("s", "title", "why", workload, (), Expect())


def test_plan() -> None:
    """Planned requests are as many as the rate says and all different; a seed repeats them."""
    asks = plan(of(Workload(100.0, rate_per_s=20.0, stream_share=0.7)), 1)
    assert 1800 < len(asks) < 2200
    assert 0.65 < sum(ask.stream for ask in asks) / len(asks) < 0.75
    assert len(asks) == len({ask.prompt for ask in asks})
    assert asks == plan(of(Workload(100.0, rate_per_s=20.0, stream_share=0.7)), 1)
    assert asks != plan(of(Workload(100.0, rate_per_s=20.0, stream_share=0.7)), 2)


class HangingEndpoint:
    """An endpoint that never answers."""

    @asynccontextmanager
    async def chat(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> AsyncIterator[EndpointReply]:
        await asyncio.get_running_loop().create_future()
        yield self  # type: ignore[misc]

    async def status(self) -> None:
        return None


class RefusingEndpoint(HangingEndpoint):
    """An endpoint that refuses connections."""

    @asynccontextmanager
    async def chat(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> AsyncIterator[EndpointReply]:
        raise EndpointUnreachable("refused")
        yield


async def sent_to(endpoint: Any, workload: Workload) -> list[RequestResult]:
    result: list[RequestResult] = []
    await ScenarioClients(endpoint, workload, asyncio.get_running_loop().time(), result.append).send_all(
        plan(of(workload), 1)
    )
    return result


async def test_a_service_that_hangs() -> None:
    """Clients of a hanging service give up shortly after the deadline as hung, and all requests are sent."""
    workload = Workload(10.0, rate_per_s=2.0, deadline_s=5.0)
    result = await sent_to(HangingEndpoint(), workload)
    assert {ClientOutcome.HUNG} == {one.outcome for one in result}
    assert {workload.deadline_s + GRACE_S} == {round(one.total_s, 3) for one in result}
    assert {0.0} == {one.late_s for one in result}


async def test_a_service_that_is_not_there() -> None:
    """A request without any reply is dishonest."""
    result = await sent_to(RefusingEndpoint(), Workload(5.0, rate_per_s=2.0))
    assert {("no_reply", ClientOutcome.DISHONEST)} == {(one.reason, one.outcome) for one in result}


class BareEnvironment:
    """An environment without /status and without faults: any OpenAI-compatible gateway."""

    notes: Sequence[str] = ()

    def __init__(self, endpoint: Any, ledger: list[LedgerEntry]) -> None:
        self.endpoint = endpoint
        self._ledger = ledger

    async def apply(self, fault: ScenarioFault) -> str:
        return ""

    async def lift(self, fault: ScenarioFault) -> None:
        raise AssertionError("what nobody applied, nobody lifts")

    async def ledger(self) -> list[LedgerEntry]:
        return self._ledger


def quick() -> Scenario:
    text = SHORT.replace("seconds = 30", "seconds = 1").replace("rate_per_s = 4", "rate_per_s = 20")
    for at_s in (
        "at_s = 18\nfor_s = 2",
        "at_s = 4\nfor_s = 5",
        "at_s = 5\nfor_s = 3",
        "at_s = 14\nfor_s = 3",
    ):
        text = text.replace(at_s, "at_s = 0.1\nfor_s = 0.1")
    return parse(text, "quick")


@pytest.mark.real_sockets
async def test_any_gateway() -> None:
    """A server without /status is judged too: clients and ledgers count the events, and a fault that cannot
    be applied is noted as left out."""
    loop = asyncio.get_running_loop()
    rng = Random("any")
    provider = SimulatedProvider(
        "openai", Profile("any", Latency(), models=("chat",)), rng=rng, now=loop.time
    )
    async with serve(provider) as server, http_session() as session:
        journal = await ScenarioRun(quick(), "test", 1).run(
            BareEnvironment(HttpEndpoint(session, server.url), [])
        )
    assert {ClientOutcome.COMPLETE} == {result.outcome for result in journal.requests}
    assert {"any"} == {result.provider for result in journal.requests}
    assert "no /status" in journal.counted_by
    assert 4 == len(journal.notes)
    assert not judge_run(journal).ok


@pytest.mark.real_sockets
async def test_a_connection_that_breaks() -> None:
    """On a real socket, an incomplete body is a broken reply, and a closed port is no reply."""

    def torn(request: SimRequest) -> Script:
        yield Head(200, {"content-type": "text/event-stream"})
        yield Data(b'data: {"choices": [{"index": 0, "delta": {"content": "one answers "}}]}\n\n')
        yield Close()

    async with http_session() as session:
        async with serve(torn) as server:
            result = await sent_to(
                HttpEndpoint(session, server.url), Workload(0.2, rate_per_s=20.0, stream_share=1.0)
            )
            assert {"breaks_off_without_a_word"} == {one.reason for one in result}
        result = await sent_to(HttpEndpoint(session, server.url), Workload(0.2, rate_per_s=20.0))
        assert {"no_reply"} == {one.reason for one in result}


def test_what_clients_and_ledgers_show() -> None:
    """A request that two providers have seen failed over; a cut that a client received is a cut stream."""
    journal = Journal(quick(), "test", 1, "", "")
    journal.requests = [
        result(0, "two", ClientOutcome.COMPLETE),
        result(1, "one", ClientOutcome.CUT),
        result(2, "", ClientOutcome.FAILED),
    ]
    journal.ledger = [
        LedgerEntry(name, f"tag{tag}", ()) for name, tag in (("one", 0), ("two", 0), ("one", 1), ("one", 2))
    ]
    assert {"failed_over": 1, "stream_cut": 1} == derived(journal)


def result(number: int, provider: str, outcome: ClientOutcome) -> RequestResult:
    return RequestResult(number, 0.0, 0.0, True, outcome, "", provider, None, 1.0, tag=f"tag{number}")
