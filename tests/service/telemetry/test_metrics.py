import ast
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import cache

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from dub5.service.events import (
    AttemptEnded,
    BreakerChanged,
    BudgetSpent,
    CacheLooked,
    Crashed,
    DrainBegan,
    FeedbackGiven,
    HealthChanged,
    Hedged,
    HistoryPruned,
    JobEnded,
    JobStepEnded,
    KeyChecked,
    LimitLowered,
    NotificationEnded,
    QueueLeft,
    RequestEnded,
    SocketClosed,
    SpendingNoted,
    StatementEnded,
    StepResult,
    TurnEnded,
)
from dub5.service.failover.hedging import LATE, SILENT, SLOW
from dub5.service.model import AttemptRecord, Outcome, Target, Usage
from dub5.service.resilience.health import Health, TargetSnapshot
from dub5.service.telemetry import names
from dub5.service.telemetry.host import HostUsage
from dub5.service.telemetry.metrics import Metrics
from tests.support.source import ROOT, Source, sources
from tests.support.world import ServiceWorld, status

SQL = ("dub5.service.store", "dub5.service.database_command")  # where `run` takes a statement
STATES = [
    TargetSnapshot("one/fast", "one", Health.UNHEALTHY, "open", 3.0, 3.0, 0, 0, False, 1000, 0),
    TargetSnapshot("two/slow", "two", Health.HEALTHY, "closed", 0.0, 0.0, 4, 0, False, 28, 5),
]


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    made = Metrics(
        version="1.2.3",
        routes=["chat"],
        targets=[Target("one", "fast"), Target("two", "slow")],
        hosts=["http://one:80"],
        in_flight=lambda: 7,
        waiting=lambda: 0,
        states=lambda: STATES,
    )
    yield made
    made.close()


def read(metrics: Metrics) -> dict[str, float]:
    """A scrape as `name{label="value",...}` to value, labels sorted, empty ones left out."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.scrape().decode()):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()) if v)
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def test_a_failed_over_stream(
    metrics: Metrics,
    request_ended: Callable[..., RequestEnded],
    attempt_ended: Callable[..., AttemptEnded],
) -> None:
    """Each side is counted apart: what the client saw, what each target did, and that it was carried over."""
    metrics.count(attempt_ended())
    metrics.count(attempt_ended(target="two/slow", started_s=0.2, ended_s=1.5, reason="ok"))
    metrics.count(attempt_ended(target="two/slow", started_s=0.0, ended_s=9.0, reason="cancelled"))
    metrics.count(request_ended())
    seen = read(metrics)

    assert seen['gateway_requests_total{outcome="complete",route="chat",stream="true"}'] == 1
    assert seen['gateway_failovers_total{route="chat"}'] == 1
    assert seen['gateway_attempts_total{kind="first",reason="http_530",target="one/fast"}'] == 1
    assert seen['gateway_attempts_total{kind="first",reason="ok",target="two/slow"}'] == 1
    assert seen['gen_ai_server_time_to_first_token_seconds_sum{cached="false",route="chat"}'] == 0.5
    assert seen['gen_ai_server_time_per_output_token_seconds_sum{route="chat"}'] == pytest.approx(0.1)
    slow = 'gen_ai_operation_name="chat",gen_ai_provider_name="two",gen_ai_request_model="slow"'
    assert seen[f"gen_ai_client_operation_time_to_first_chunk_seconds_sum{{{slow}}}"] == pytest.approx(0.3)
    assert seen[f"gen_ai_client_operation_duration_seconds_sum{{{slow}}}"] == pytest.approx(1.3)
    fast = slow.replace("two", "one").replace("slow", "fast")
    assert seen[
        f'gen_ai_client_operation_duration_seconds_sum{{error_type="failed",{fast}}}'
    ] == pytest.approx(0.2)
    assert seen[f'gen_ai_client_token_usage_sum{{{slow},gen_ai_token_type="output"}}'] == 11


async def test_vectors(
    metrics: Metrics,
    request_ended: Callable[..., RequestEnded],
    attempt_ended: Callable[..., AttemptEnded],
) -> None:
    """What providers do for embeddings stands apart from chat, and writes no tokens."""
    metrics.count(replace(attempt_ended(reason="ok"), operation="embeddings"))
    metrics.count(
        request_ended(operation="embeddings", target="one/fast", stream=False, usage=Usage(9, 0, 9))
    )
    seen = read(metrics)

    fast = 'gen_ai_operation_name="embeddings",gen_ai_provider_name="one",gen_ai_request_model="fast"'
    assert seen[f"gen_ai_client_operation_duration_seconds_sum{{{fast}}}"] == pytest.approx(0.2)
    tokens = {name: value for name, value in seen.items() if name.startswith("gen_ai_client_token_usage_sum")}
    assert tokens == {f'gen_ai_client_token_usage_sum{{{fast},gen_ai_token_type="input"}}': 9}
    assert not any('gen_ai_operation_name="chat"' in name for name in seen)


async def test_which_operation_it_was() -> None:
    """The service itself tells a try and a request for vectors as such."""
    vectors = {"data": [{"embedding": [1.0], "index": 0}], "usage": {"prompt_tokens": 9, "total_tokens": 9}}
    async with ServiceWorld(one=status(200, json.dumps(vectors).encode())) as world:
        answer = await world.client.request("POST", "/v1/embeddings", json={"model": "chat", "input": "Hi"})
        scrape = (await world.client.request("GET", "/metrics")).body.decode()
    assert answer.status == 200
    for name in ("gen_ai_client_operation_duration_seconds_sum", "gen_ai_client_token_usage_sum"):
        assert re.findall(f'^{name}{{.*gen_ai_operation_name="(.*?)"', scrape, re.MULTILINE) == ["embeddings"]


async def test_values_on_and_between_bounds(
    metrics: Metrics, request_ended: Callable[..., RequestEnded]
) -> None:
    """A histogram counts a value into the first bucket whose bound is not below it, as Prometheus reads
    `le`."""
    for overhead_s in (0.0001, 0.00011, 7.0):
        metrics.count(request_ended(overhead_s=overhead_s))
    seen = read(metrics)

    assert seen['gateway_overhead_duration_seconds_bucket{le="0.0001",route="chat"}'] == 1
    assert seen['gateway_overhead_duration_seconds_bucket{le="0.00025",route="chat"}'] == 2
    assert seen['gateway_overhead_duration_seconds_bucket{le="0.1",route="chat"}'] == 2
    assert seen['gateway_overhead_duration_seconds_bucket{le="+Inf",route="chat"}'] == 3
    assert seen['gateway_overhead_duration_seconds_count{route="chat"}'] == 3


async def test_strange_words(
    metrics: Metrics,
    request_ended: Callable[..., RequestEnded],
    attempt_ended: Callable[..., AttemptEnded],
) -> None:
    """However many models, reasons and codes strangers invent, the number of series does not grow."""

    def invent(i: int) -> None:
        metrics.count(
            request_ended(route=f"model-{i}", outcome=Outcome.REFUSED, code=f"code_{i}", target=f"x/{i}")
        )
        metrics.count(attempt_ended(target=f"x/{i}", reason=f"reason_{i}", kind=f"kind_{i}", usage=Usage(1)))
        metrics.count(HealthChanged(f"x/{i}", "healthy", "degraded"))
        metrics.count(LimitLowered(f"x{i}", 9, 6, "http_429"))
        metrics.count(BudgetSpent(f"x{i}"))
        metrics.count(Hedged(f"r-{i}", "chat", f"x/{i}", f"why_{i}"))
        metrics.count(attempt_ended(reason=f"http_{600 + i}"))
        metrics.count(attempt_ended(reason=f"unsupported_{i}"))
        metrics.count(BreakerChanged(f"http://h{i}", "closed", "open", "why"))
        metrics.count(CacheLooked(f"model-{i}", "miss"))

    invent(0)
    after_one = set(read(metrics))
    for i in range(1, 40):
        invent(i)
    assert set(read(metrics)) == after_one
    assert read(metrics)['gateway_errors_total{code="other",route="other"}'] == 40


async def test_gauges_ask_on_each_scrape(metrics: Metrics) -> None:
    """What stands now comes from its owner at the moment of the scrape, not from remembered events."""
    seen = read(metrics)
    assert seen["gateway_requests_in_flight"] == 7
    assert seen['gateway_breaker_state{target="one/fast"}'] == 2
    assert seen['gateway_target_health{target="one/fast"}'] == 2
    assert seen['gateway_target_in_flight{target="two/slow"}'] == 4
    assert seen["process_resident_memory_bytes"] > 1_000_000
    assert seen["process_open_fds"] > 2
    assert seen['target_info{service_name="dub5",service_version="1.2.3"}'] == 1
    assert (seen["gateway_draining"], seen["gateway_crashes_total"]) == (0, 0)

    metrics.count(DrainBegan(7))
    metrics.count(Crashed("r-1", "KeyError at gateway.py:1"))
    seen = read(metrics)
    assert (seen["gateway_draining"], seen["gateway_crashes_total"]) == (1, 1)


async def test_a_provider_under_strain(metrics: Metrics, attempt_ended: Callable[..., AttemptEnded]) -> None:
    """Why a try was made, and what was done to spare a provider, can be told apart from the first scrape
    on."""
    before = read(metrics)
    metrics.count(attempt_ended(kind="retry"))
    metrics.count(BudgetSpent("one"))
    metrics.count(BudgetSpent("one"))
    metrics.count(LimitLowered("two", 40, 28, "http_429"))
    metrics.count(HealthChanged("one/fast", "healthy", "degraded"))
    metrics.count(Hedged("r-1", "chat", "one/fast", "probe"))
    seen = read(metrics)

    moved = {name: value - before[name] for name, value in seen.items() if value != before.get(name, value)}
    assert moved.pop("process_cpu_seconds_total", 0) >= 0
    assert {name: value for name, value in moved.items() if name.startswith("gateway")} == {
        'gateway_retries_denied_total{provider="one"}': 2,
        'gateway_limit_lowered_total{provider="two"}': 1,
        'gateway_health_changes_total{after="degraded",target="one/fast"}': 1,
        'gateway_hedges_total{target="one/fast",why="probe"}': 1,
    }
    assert seen['gateway_attempts_total{kind="retry",reason="http_530",target="one/fast"}'] == 1
    assert seen['gateway_provider_limit{provider="two"}'] == 28
    assert seen['gateway_provider_in_flight{provider="two"}'] == 5


async def test_costs(metrics: Metrics, attempt_ended: Callable[..., AttemptEnded]) -> None:
    """What a whole answer used is billed; what any other try used may be. Without a price there are tokens
    only."""
    metrics.count(attempt_ended(reason="ok", usage=Usage(100, 50, 150), cost_usd=0.5))
    metrics.count(attempt_ended(reason="ok", usage=Usage(100, 50, 150), cost_usd=0.25))
    for reason in ("cancelled", "hedge_lost", "between_tokens_timeout"):
        metrics.count(attempt_ended(reason=reason, usage=Usage(10, 1, 11, estimated=True), cost_usd=0.125))
    metrics.count(attempt_ended(target="two/slow", reason="ok", usage=Usage(7, 0, 7)))
    metrics.count(attempt_ended())  # nothing was used
    seen = read(metrics)

    money = {name: value for name, value in seen.items() if name.startswith("gateway_cost_usd_total")}
    assert money == {
        'gateway_cost_usd_total{certainty="billed",target="one/fast"}': 0.75,
        'gateway_cost_usd_total{certainty="maybe",target="one/fast"}': 0.375,
    }
    of_one = 'gen_ai_token_type="{}",target="one/fast"}}'
    assert seen['gateway_tokens_total{certainty="billed",' + of_one.format("input")] == 200
    assert seen['gateway_tokens_total{certainty="maybe",' + of_one.format("output")] == 3
    assert seen['gateway_tokens_total{certainty="billed",gen_ai_token_type="input",target="two/slow"}'] == 7


async def test_a_try_that_was_stopped(metrics: Metrics, attempt_ended: Callable[..., AttemptEnded]) -> None:
    """How long a try took says nothing about its target if the client left, or another target was faster."""
    metrics.count(attempt_ended(reason="hedge_lost"))
    metrics.count(attempt_ended(reason="cancelled"))
    assert not any(name.startswith("gen_ai_client_operation_duration") for name in read(metrics))


async def test_looking_changes_health() -> None:
    """Health moves when somebody looks: a change that the scrape itself finds is in that scrape."""

    def look() -> list[TargetSnapshot]:
        made.count(HealthChanged("one/fast", "healthy", "unhealthy"))
        return STATES

    made = Metrics(
        version="0",
        routes=[],
        targets=[Target("one", "fast")],
        hosts=[],
        in_flight=lambda: 0,
        waiting=lambda: 0,
        states=look,
    )
    assert read(made)['gateway_health_changes_total{after="unhealthy",target="one/fast"}'] == 1
    made.close()


async def test_passed_over(metrics: Metrics, request_ended: Callable[..., RequestEnded]) -> None:
    """A target that was left alone is not a try, and no failover either."""
    not_permitted = AttemptRecord("one/fast", 0.0, 0.0, "breaker_open", tried=False)
    metrics.count(request_ended(attempts=(not_permitted,)))
    seen = read(metrics)
    assert seen['gateway_passed_over_total{reason="breaker_open",target="one/fast"}'] == 1
    assert not any(name.startswith(("gateway_attempts", "gateway_failovers")) for name in seen)


async def test_cached_and_failed(metrics: Metrics, request_ended: Callable[..., RequestEnded]) -> None:
    """An answer from the cache costs no tokens and its speed says nothing about providers; what got no answer
    says nothing about our overhead."""
    metrics.count(request_ended(cached=True, attempts=()))
    metrics.count(
        request_ended(outcome=Outcome.FAILED, target=None, usage=None, attempts=(), first_token_s=None)
    )
    seen = read(metrics)
    assert seen['gen_ai_server_time_to_first_token_seconds_count{cached="true",route="chat"}'] == 1
    assert seen['gateway_overhead_duration_seconds_count{route="chat"}'] == 1
    assert not any(name.startswith(("gen_ai_client", "gen_ai_server_time_per")) for name in seen)


def test_attributes() -> None:
    """Metrics have fewer than 30 attributes: with more, Python reads them slowly, for each request."""
    metrics = Metrics(
        version="0", routes=(), targets=(), hosts=(), in_flight=lambda: 0, waiting=lambda: 0, states=list
    )
    assert len(vars(metrics)) < 30


async def test_every_name_in_the_table(
    metrics: Metrics,
    request_ended: Callable[..., RequestEnded],
    attempt_ended: Callable[..., AttemptEnded],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The table names what a scrape holds, with the same kinds and labels, and nothing else."""
    not_permitted = AttemptRecord("one/fast", 0.0, 0.0, "breaker_open", tried=False)
    metrics.count(attempt_ended(usage=Usage(1, 1, 2), cost_usd=0.1))
    metrics.count(request_ended())
    metrics.count(request_ended(code="stream_cut", outcome=Outcome.CUT, attempts=(not_permitted,)))
    metrics.count(request_ended(outcome=Outcome.DEGRADED, degraded="stale"))
    metrics.count(CacheLooked("chat", "hit"))
    metrics.count(QueueLeft("req_1", "chat", "normal", "served", 0.2))
    metrics.count(BreakerChanged("http://one:80", "closed", "open", "5 failures in a row"))
    metrics.observe_store(
        lambda: 3, lambda: True, lambda: {"open": 2, "idle": 1, "max": 10}, lambda: 1, lambda: 9
    )
    metrics.observe_connections(lambda: 4)
    metrics.note_loop_lag(0.1)
    metrics.note_gc_pause(2, 0.01)
    everything = HostUsage(1, 2, "cgroup", 0.5, "cgroup", 1.5, 0.25)  # which not every host tells
    monkeypatch.setattr("dub5.service.telemetry.metrics.read_host", lambda: everything)
    metrics.count(StatementEnded("renew_worker", "ok", 0.002))
    metrics.count(HistoryPruned("req_1", "chat", 3, 900))
    metrics.count(TurnEnded("req_1", "chat", Outcome.COMPLETE, kept=True))
    metrics.count(FeedbackGiven("f", "anonymous", None, "crash", *[None] * 6, kept=False))
    metrics.observe_sockets(lambda: 2)
    metrics.count(SocketClosed("req_1", 4999, 0, 1.0))
    metrics.observe_jobs(lambda: 1, ["deck"])
    metrics.count(JobStepEnded("deck", "job", 0, StepResult.KEPT, 1.0, 1))
    metrics.count(JobEnded("deck", "job", "done", 9.0, 1))
    metrics.observe_problems(lambda: {"now": 1, "over": 2}, lambda: [("chat", "not_whole")])
    metrics.count(NotificationEnded("hook", "crash", "sent", 1))
    metrics.count(KeyChecked("one", "aaaaaaaa", "valid"))
    metrics.count(SpendingNoted("one", "spending_near", 8.0, 10.0))
    row = {
        "provider": "one",
        "key": "aaaaaaaa",
        "state": "refused",
        "quota": {"tokens": {"left": 7}},
        "provider_spent_usd_today": 8.0,
        "spend_max_usd_per_day": 10.0,
    }
    metrics.observe_keys(lambda: [row], lambda: [(("one", "aaaaaaaa"), 8.0)])
    families = {f.name: f for f in text_string_to_metric_families(metrics.scrape().decode())}

    assert {m.prometheus_name.removesuffix("_total") for m in names.ALL} == set(families) - {"target"} - {
        "target_info"
    }
    for metric in names.ALL:
        family = families[metric.prometheus_name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels), metric.name


def service() -> Iterator[Source]:
    """Yield the modules of the service."""
    return (source for source in sources() if source.part == "service")


@cache
def constants() -> dict[str, str]:
    """The texts that the service's modules give to names in capitals."""
    found = {}
    for source in service():
        for node in source.tree.body:
            if isinstance(node, ast.Assign):
                for pair in zip(ast.walk(node.targets[0]), ast.walk(node.value), strict=False):
                    if isinstance(pair[0], ast.Name) and isinstance(pair[1], ast.Constant):
                        found[pair[0].id] = pair[1].value
    return {name: text for name, text in found.items() if isinstance(text, str)}


@cache
def calls() -> Mapping[str, list[ast.Call]]:
    """The calls in the service's source, by the name of the function or method; without those of SQL."""
    found: dict[str, list[ast.Call]] = {}
    for node in (n for source in service() if source.folder not in SQL for n in ast.walk(source.tree)):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            found.setdefault(called, []).append(node)
    return found


def said(function: str, place: int) -> set[str]:
    """The words that the service's source gives to a function or method, as its argument at this place."""
    found, named = set(), constants()
    for call in calls()[function]:
        for part in ast.walk(call.args[place]) if len(call.args) > place else ():
            # `"a" if x else "b"` says both
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                found.add(part.value)
            if isinstance(part, ast.Name) and part.id in named:
                found.add(named[part.id])
    return found


def test_reasons_in_the_source() -> None:
    """Every reason that the service's own code can give is one of the set."""
    faults, not_permitted, classifications = (
        said("ProviderFault", 0),
        said("NotPermitted", 0),
        said("Classification", 2),
    )
    only_the_deadline = {"judging", "cache", "equal"}  # ends these: they have no limit of their own
    timeouts = said("run", 0) - {"linger", "race", "backoff", "client_stall", "shared"} - only_the_deadline
    assert {"truncated", "empty_answer"} <= faults
    assert {"isolated", "slow_start", "provider_full", "retry_budget_spent"} <= not_permitted
    assert {"cancelled", "hedge_lost"} <= classifications
    assert timeouts
    # Not the ends of "http_" + status.
    whole = {word for word in faults | classifications if word.strip("_") == word}
    assert whole | {f"{timeout}_timeout" for timeout in timeouts} <= names.REASONS
    assert not_permitted <= names.PASSED_OVER_REASONS


def test_kinds_in_the_source() -> None:
    """Every word for why a try is made, and why a request is hedged, is one of the set."""
    kinds = {"first"} | said("RetryDecision", 0) | said("_Start", 0)
    assert kinds == names.ATTEMPT_KINDS
    assert set(re.findall(r'"(\w+)"', Hedged.__doc__ or "")) == names.HEDGE_REASONS
    assert {SLOW, SILENT, LATE} <= names.HEDGE_REASONS


@pytest.mark.parametrize("reason", sorted(names.PASSED_OVER_REASONS))
def test_passed_over_reasons_are_explained(reason: str) -> None:
    """Each reason has its row in the documentation, with what to do."""
    page = (ROOT / "docs" / "use" / "reasons.md").read_text()
    (row,) = re.findall(rf"^\| `{reason}` \|(.*)\|$", page, re.MULTILINE)
    assert all(cell.strip() for cell in row.split("|"))


@pytest.fixture
def threads_before() -> set[threading.Thread]:
    """The threads of this process before the test begins: a worker of the suite has some of its own."""
    return set(threading.enumerate())


async def test_no_thread(threads_before: set[threading.Thread], metrics: Metrics) -> None:
    """Telemetry starts no thread: the simulation could not hold it."""
    metrics.scrape()
    assert set(threading.enumerate()) <= threads_before
