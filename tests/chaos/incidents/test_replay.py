"""Incidents: every file is complete, hours are replayed sparsely, and compression keeps the edges."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from dub5 import cli
from dub5.chaos.incidents import replay as incidents
from dub5.chaos.incidents.page import page
from dub5.chaos.scenario.compress import EDGE_S, compress
from dub5.chaos.scenario.model import LEAD_S, Confidence, Expect, Scenario, ScenarioFault, Workload
from dub5.chaos.scenario.parse import INCIDENTS, names, read_bundled
from dub5.chaos.scenario.workload import plan
from tests.support.source import ROOT

NAMES = names(INCIDENTS)
INDEX = ROOT / "docs" / "prove" / "incidents.md"
OTHERS_THAN_FAILOVER = {
    "openai-2024-12-26": "standing_per_target",  # chat was never hit
    "vercel-2025-10-20": "last_settings",
}
FAULT = ScenarioFault(0, 1, "one", "status", {"status": 500}, "one answers 500")


@pytest.mark.parametrize("name", NAMES)
def test_a_file(name: str) -> None:
    """An incident file names a title, a source, a confidence and strict expectations."""
    scenario = read_bundled(INCIDENTS, name)
    assert scenario.title.partition(": ")[2]
    assert scenario.source and scenario.confidence in get_args(Confidence)
    assert len(scenario.providers) >= 3, "a neighbourhood, as real ones are"
    assert scenario.expect.complete_share >= 0.99
    assert scenario.expect.failover_s is not None and scenario.expect.failover_s <= 12
    assert scenario.expect.recover_s is not None
    assert scenario.expect.happened
    assert scenario.off == OTHERS_THAN_FAILOVER.get(name, "failover")


def test_the_index() -> None:
    """docs/prove/incidents.md lists every incident, and all of them held."""
    text = INDEX.read_text()
    assert [name for name in NAMES if f"[{name}]" not in text] == []
    assert f"{len(NAMES)} of {len(NAMES)} held" in text
    assert "NOT HELD" not in text and "not held" not in text


def test_eight_on_real_sockets() -> None:
    """At least eight incidents also run on real sockets."""
    assert sum("toxiproxy" in read_bundled(INCIDENTS, name).engines for name in NAMES) >= 8


def test_one_is_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay holds, writes a report, fails without failover, and its row in the index says so. Here with an
    eighth of its requests; `nox -s simulate -- --incidents` replays each as it is."""

    def sparse(folder: Path, name: str) -> Scenario:
        scenario = read_bundled(folder, name)
        return replace(scenario, workload=structs.replace(scenario.workload, rate_per_s=0.5))

    monkeypatch.setattr(incidents, "read_bundled", sparse)
    one = incidents.replay("vercel-2024-08-07", tmp_path, 1)
    assert one.held, [line for line in one.lines if not line.ok]
    assert one.complete == 1.0 and one.complete_without < 0.9
    assert any("complete" in line for line in one.missed)
    assert one.page.read_text().startswith("<!doctype html>")
    assert "| 29 min |" in page([one]) and "held |" in page([one])


def test_a_name_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """For an unknown incident the message lists the known ones."""
    assert cli.main(["simulate", "--incidents", "openai-2099"]) == 2
    assert (
        "There is no incident 'openai-2099'; known incidents: anthropic-2026-03-02,"
        in capsys.readouterr().err
    )


def incident_of(*faults: tuple[float, float], plateau: float | None = 0.1, edge_s: float = 60.0) -> Scenario:
    made = tuple(replace(FAULT, at_s=at_s, for_s=for_s) for at_s, for_s in faults)
    seconds = max((fault.until_s for fault in made), default=0.0) + 300
    load = Workload(seconds, rate_per_s=5.0, plateau_rate_per_s=plateau, edge_s=edge_s)
    return Scenario("s", "title", "why", load, made, Expect(recover_s=20.0))


SOME = st.lists(st.tuples(st.floats(30, 20_000), st.floats(1, 20_000)), max_size=6)


@given(faults=SOME, edge_s=st.floats(1, 120))
def test_the_load_is_dense_at_every_change(faults: list[tuple[float, float]], edge_s: float) -> None:
    """Stretches of load follow one another without a gap, and the load is dense from before each change
    on."""
    scenario = incident_of(*faults, edge_s=edge_s)
    stretches = scenario.stretches
    assert stretches[0][0] == 0 and stretches[-1][1] == scenario.workload.seconds
    assert all(one[1] == following[0] for one, following in pairwise(stretches))
    for change_s in {moment for fault in scenario.faults for moment in (fault.at_s, fault.until_s)}:
        for near_s in (change_s - LEAD_S / 2, change_s, change_s + edge_s / 2):
            assert any(from_s <= near_s < until_s for from_s, until_s, rate in stretches if rate == 5.0)


def test_requests_come_as_the_load_says() -> None:
    """Requests come at five per second around the changes, and one in ten seconds between them."""
    asks = plan(incident_of((1000, 10_000)), 1)
    sparse = sum(2000 <= ask.at_s < 10_000 for ask in asks)
    dense = sum(1000 <= ask.at_s < 1060 for ask in asks)
    assert 700 < sparse < 900
    assert 240 < dense < 360
    assert asks == sorted(asks, key=lambda ask: ask.at_s)


@given(faults=SOME.filter(bool))
def test_cut_for_real_time(faults: list[tuple[float, float]]) -> None:
    """Compression keeps the order of changes and an edge after each, and turns hours into minutes."""
    whole = incident_of(*faults)
    cut = compress(whole)
    pairs = sorted(
        (old, new)
        for before, after in zip(whole.faults, cut.faults, strict=True)
        for old, new in ((before.at_s, after.at_s), (before.until_s, after.until_s))
    )
    for (old, new), (next_old, next_new) in pairwise(pairs):
        assert next_new - new >= min(next_old - old, EDGE_S) - 1e-6
    assert cut.workload.seconds <= 15 * (2 * len(faults) + 1) + 30
    assert compress(cut) == cut


def test_one_of_a_minute_is_not_cut() -> None:
    """A scenario without plateaus is not compressed."""
    scenario = incident_of((10, 20), plateau=None)
    assert compress(scenario) is scenario
