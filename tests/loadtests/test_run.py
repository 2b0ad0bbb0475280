import ast
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import pstdev

import msgspec
import pytest

from dub5 import loadtests
from dub5.loadtests.arrivals import poisson
from dub5.loadtests.mix import MIXES, Mix, PersonKind, RequestKind, load
from dub5.loadtests.sample import Sample, SampleOutcome
from dub5.loadtests.summary import RunHeader, judge, objectives, quantiles, summarize


def sample(
    intended_s: float = 0.0,
    *,
    late_s: float = 0.0,
    first_token_s: float | None = 0.1,
    outcome: SampleOutcome = SampleOutcome.COMPLETE,
    stream: bool = True,
    carrier: str = "",
    resumed: int = 0,
) -> Sample:
    started_s = intended_s + late_s
    return Sample(
        "stream",
        stream,
        outcome,
        "",
        intended_s,
        started_s,
        None if first_token_s is None else started_s + first_token_s,
        started_s + 0.5,
        0.02,
        "one/m",
        False,
        carrier=carrier,
        resumed=resumed,
        resume_s=0.01 if resumed else None,
        kept=bool(carrier),
    )


def test_arrivals() -> None:
    """Arrivals have the given rate, are irregular as independent people are, and equal for equal seeds."""
    moments = list(poisson(50, 100, Random("7")))
    assert len(moments) == pytest.approx(5000, rel=0.05)
    assert moments == sorted(moments) and moments[-1] < 100
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert pstdev(gaps) == pytest.approx(1 / 50, rel=0.1)  # an exponential's deviation is its mean
    assert moments == list(poisson(50, 100, Random("7")))


def test_mixes() -> None:
    """Each mix in the file can be read and says why it exists."""
    for name in ("chat", "added"):
        assert load(name).why
    with pytest.raises(ValueError, match="Valid names: chat, added"):
        load("nonsense")
    assert MIXES.is_file()


def test_shares() -> None:
    """Kinds are drawn by their shares."""
    mix = Mix("", (RequestKind("often", 3),), (PersonKind("seldom", 1, "sse"),))
    rng = Random("1")
    drawn = [mix.draw(rng).name for _ in range(4000)]
    assert drawn.count("often") == pytest.approx(3000, rel=0.05)


def test_questions() -> None:
    """A kind draws from its number of questions; without one no question repeats."""
    rng = Random("1")
    repeated = RequestKind("repeated", 1, stream=False, temperature=0.0, prompts=3)
    asked = {repeated.body("chat", rng)["messages"][0]["content"] for _ in range(100)}
    assert len(asked) == 3
    body = repeated.body("chat", rng)
    assert (body["model"], body["temperature"], "stream" in body) == ("chat", 0.0, False)
    new = RequestKind("new", 1)
    assert len({new.body("chat", rng)["messages"][0]["content"] for _ in range(100)}) == 100


def test_a_good_run() -> None:
    """A run that keeps its schedule and answers everything holds every objective of the file."""
    samples = [sample(at / 20) for at in range(580)]
    samples += [sample(at, carrier="sse", resumed=at % 2) for at in range(20)]
    seen = summarize(RunHeader(600, 0, 31.0), samples, 30.0)
    seen["cached_ms"] = quantiles([0.001])
    rows = judge(seen, objectives("chat"))
    assert rows and all(row.held for row in rows), [row for row in rows if not row.held]
    assert seen["first_token_ms"]["p99"] == 100.0


@pytest.mark.parametrize(
    ("head", "samples"),
    [
        (RunHeader(100, 3, 30.0), [sample(at / 4) for at in range(97)]),
        (RunHeader(100, 0, 40.0), [sample(at * 0.35) for at in range(100)]),
    ],
    ids=["requests that found no place", "a schedule that took longer"],
)
def test_a_generator_that_cannot_keep_up(head: RunHeader, samples: list[Sample]) -> None:
    """Requests that were not sent in time make the run invalid, however good the rest looks."""
    (row,) = judge(summarize(head, samples, 30.0), {"achieved_share_min": 0.98})
    assert not row.held


def test_one_request_that_never_ended() -> None:
    """A request that is still open a minute after the last one has no sample, and still fails the run."""
    seen = summarize(RunHeader(1000, 0, 91.0), [sample(at / 50) for at in range(999)], 30.0)
    assert [row.name for row in judge(seen, objectives("chat")) if not row.held and row.value] == ["hung_max"]


def test_one_false_answer() -> None:
    """One dishonest answer among ten thousand fails the run."""
    samples = [sample()] * 9999 + [sample(outcome=SampleOutcome.DISHONEST)]
    seen = summarize(RunHeader(10_000, 0, 1.0), samples, 30.0)
    assert [row.name for row in judge(seen, objectives("chat")) if not row.held and row.value] == [
        "outcomes.dishonest_max"
    ]


def test_waiting_counts_from_the_schedule() -> None:
    """A pause of five seconds counts as latency for all requests scheduled within it."""
    samples = [sample(at / 20, late_s=max(0.0, 5 - at / 20)) for at in range(600)]
    seen = summarize(RunHeader(600, 0, 31.0), samples, 30.0)
    assert seen["first_token_ms"]["p95"] > 2000
    assert seen["late_ms"]["p99"] > 4000


def test_one_turn_that_was_not_read_on() -> None:
    """One turn of a hundred that lost its connection, and is not whole then, fails the run."""
    turns = [sample(carrier="websocket", resumed=1)] * 99
    turns.append(sample(carrier="websocket", resumed=1, outcome=SampleOutcome.CUT))
    seen = summarize(RunHeader(100, 0, 1.0), turns, 30.0)
    held = {row.name: row.held for row in judge(seen, objectives("chat"))}
    assert held["turns.resumed_min"] and not held["turns.resumed_whole_share_min"]
    assert seen["resume_ms"]["p50"] == 10.0 and seen["first_token_ms"]["p50"] is None


def test_a_run_without_a_lost_connection() -> None:
    """A run in which no connection was lost proves nothing of reading on, and does not hold."""
    seen = summarize(RunHeader(1, 0, 1.0), [sample(carrier="sse")], 30.0)
    rows = {row.name: row for row in judge(seen, objectives("chat"))}
    assert not rows["turns.resumed_min"].held and not rows["turns.resumed_whole_share_min"].held


def test_what_the_service_adds() -> None:
    """The latency that the service adds is the difference to direct requests, at each quantile."""
    through = [sample(first_token_s=0.003 if i < 90 else 0.02) for i in range(100)]
    direct = [msgspec.structs.replace(sample(first_token_s=0.001), direct=True) for _ in range(100)]
    seen = summarize(RunHeader(200, 0, 1.0), through + direct, 30.0)
    assert (seen["added_ms"]["p50"], seen["added_ms"]["p95"]) == (2.0, 19.0)
    assert seen["first_token_ms"]["p50"] == 3.0


def test_substitutes_count_apart() -> None:
    """Fallback answers count neither as complete nor for first tokens; they have a row of their own."""
    quick = [sample(first_token_s=0.001, outcome=SampleOutcome.DEGRADED)] * 30
    seen = summarize(RunHeader(60, 0, 1.0), [sample()] * 30 + quick, 30.0)
    assert (seen["complete_share"], seen["outcomes"]["degraded"]) == (0.5, 30)
    assert seen["first_token_ms"]["p50"] == 100.0 and seen["degraded_ms"]["p50"] == 500.0
    held = {row.name: row.held for row in judge(seen, objectives("chat"))}
    assert held["outcomes.dishonest_max"] and not held["complete_share_min"]


def test_people_who_left() -> None:
    """A client that leaves counts neither as an answer nor as a failure."""
    samples = [sample(), sample(outcome=SampleOutcome.CANCELLED, first_token_s=None)]
    seen = summarize(RunHeader(2, 0, 1.0), samples, 30.0)
    assert (seen["complete_share"], seen["outcomes"]["cancelled"]) == (1.0, 1)


def test_quantiles() -> None:
    """Quantiles are of nearest rank, in milliseconds; without samples there is none, and no objective
    holds."""
    assert quantiles([i / 1000 for i in range(1, 1001)]) == {
        "p50": 500.0,
        "p95": 950.0,
        "p99": 990.0,
        "p999": 999.0,
    }
    assert quantiles([]) == {"p50": None, "p95": None, "p99": None, "p999": None}
    (row,) = judge({"cached_ms": {"p95": None}}, {"cached_ms.p95_max": 50})
    assert not row.held


def test_locust_is_imported_by_one_file_alone() -> None:
    """Only the Locust file imports Locust, which patches sockets and threads of the whole process."""
    for path in Path(loadtests.__path__[0]).rglob("*.py"):
        names = [
            alias.name if isinstance(node, ast.Import) else str(node.module)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        ]
        assert path.name == "locustfile.py" or not any(n.split(".")[0] in ("locust", "gevent") for n in names)
