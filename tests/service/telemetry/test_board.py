import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dub5.service import clock
from dub5.service.events import (
    AttemptEnded,
    BreakerChanged,
    BudgetSpent,
    CacheLooked,
    Crashed,
    DrainBegan,
    HealthChanged,
    Hedged,
    LimitLowered,
    RequestEnded,
    SecurityKind,
    SecurityNoted,
)
from dub5.service.model import AttemptRecord, Outcome, Usage
from dub5.service.telemetry.board import (
    INCIDENTS_MAX,
    RECENT_MAX,
    REPEAT_INCIDENT_EVERY_S,
    RouteCounters,
    StatusBoard,
    TargetCounters,
)
from dub5.service.telemetry.mistakes import MISTAKES
from dub5.simulators.virtual import run


async def test_empty() -> None:
    """Every count is there from the start, at nought, so that a reader need not guess names."""
    seen = StatusBoard().snapshot()
    assert seen["outcomes"] == dict.fromkeys(
        ["complete", "degraded", "refused", "failed", "cut", "cancelled"], 0
    )
    assert {"failed_over", "breaker_opened", "cache_hit", "drained"} <= set(seen["happened"])
    assert set(seen["happened"].values()) == {0}


async def test_an_incident(
    request_ended: Callable[..., RequestEnded], attempt_ended: Callable[..., AttemptEnded]
) -> None:
    """The board tells an outage in order, the newest first, in plain JSON."""
    board = StatusBoard()
    board.note(attempt_ended())
    board.note(attempt_ended(target="two/slow", reason="ok", started_s=0.2, first_token_s=0.5))
    board.note(attempt_ended(target="two/slow", reason="cancelled"))
    board.note(request_ended())
    board.note(request_ended(outcome=Outcome.CUT, code="stream_cut"))
    board.note(CacheLooked("chat", "hit"))
    board.note(CacheLooked("chat", "miss"))
    board.note(BreakerChanged("one/fast", "closed", "open", "5 failures in a row"))
    board.note(Crashed("r-9", "KeyError at gateway.py:1"))
    board.note(DrainBegan(2))
    seen = json.loads(json.dumps(board.snapshot()))

    happened = {what: count for what, count in seen["happened"].items() if count}
    assert happened == {
        "failed_over": 2,
        "stream_cut": 1,
        "cache_hit": 1,
        "breaker_opened": 1,
        "crashed": 1,
        "drained": 1,
    }
    one, two = seen["targets"]["one/fast"], seen["targets"]["two/slow"]
    spent = one.pop("spent"), two.pop("spent")
    assert spent[0] == spent[1] == seen["spent"]  # nothing yet
    few = {"few_calls": True}
    assert one == few | {
        "answered": 0,
        "failed": 1,
        "failed_in_a_row": 1,
        "last_reason": "http_530",
        "mistake": None,
        "first_token_ms": None,
    }
    assert two == few | {
        "answered": 1,
        "failed": 0,
        "failed_in_a_row": 0,
        "last_reason": "ok",
        "mistake": None,
        "first_token_ms": 300.0,
    }
    assert [incident["what"] for incident in seen["incidents"]] == ["drained", "crashed", "breaker_opened"]
    assert seen["incidents"][-1]["at"] == round(clock.wall(), 3)
    assert [row["outcome"] for row in seen["recent"]] == ["cut", "complete"]
    assert seen["recent"][0]["attempts"][0] == {
        "target": "one/fast",
        "outcome": "failed",
        "reason": "http_530",
        "started_ms": 0.0,
        "ended_ms": 200.0,
    }


def counted(board: StatusBoard) -> dict[str, int]:
    return {what: count for what, count in board.happened.items() if count}


async def test_what_the_guards_did(attempt_ended: Callable[..., AttemptEnded]) -> None:
    """Each thing that was done for or against a target is counted under its own name."""
    board = StatusBoard()
    board.note(HealthChanged("one/fast", "healthy", "degraded"))
    board.note(HealthChanged("one/fast", "degraded", "unhealthy"))
    board.note(HealthChanged("one/fast", "unhealthy", "degraded"))  # on its way back: no news
    board.note(HealthChanged("one/fast", "degraded", "healthy"))
    board.note(BudgetSpent("one"))
    board.note(BudgetSpent("one"))
    board.note(Hedged("r-1", "chat", "one/fast", "probe"))
    for kind in ("first", "retry", "fresh", "key", "hedge", "probe"):
        board.note(attempt_ended(kind=kind))
    assert counted(board) == {
        "health_degraded": 1,
        "health_restored": 1,
        "budget_spent": 2,
        "hedged": 1,
        "retried": 1,
    }
    assert board.snapshot()["incidents"] == []


async def test_probes() -> None:
    """A breaker that a probe closed is told apart from one that an operator's hand let go."""
    board = StatusBoard()
    board.note(BreakerChanged("one/fast", "half_open", "open", "the probe failed"))
    board.note(BreakerChanged("one/fast", "half_open", "closed", "the probe succeeded"))
    board.note(BreakerChanged("one/fast", "closed", "isolated", "isolated by the settings"))
    board.note(BreakerChanged("one/fast", "isolated", "closed", "no longer isolated by the settings"))
    assert counted(board) == {
        "breaker_opened": 1,
        "breaker_closed": 2,
        "breaker_isolated": 1,
        "probe_succeeded": 1,
    }
    assert [incident["what"] for incident in board.snapshot()["incidents"]] == [
        "breaker_closed",
        "breaker_isolated",
        "breaker_closed",
        "breaker_opened",
    ]


async def test_a_long_overload() -> None:
    """Every lowering of a limit is counted; the incidents tell it once a minute for each provider."""
    board = StatusBoard()
    for second in range(int(REPEAT_INCIDENT_EVERY_S) + 5):
        board.note(LimitLowered("one", 400 - second, 399 - second, "http_429"))
        await asyncio.sleep(1)
    board.note(LimitLowered("two", 40, 28, "connect_timeout"))
    seen = board.snapshot()
    assert seen["happened"]["limit_lowered"] == REPEAT_INCIDENT_EVERY_S + 6
    assert [(incident["target"], incident["why"]) for incident in seen["incidents"]] == [
        ("two", "from 40 to 28 concurrent requests (connect_timeout)"),
        ("one", "from 340 to 339 concurrent requests (http_429)"),
        ("one", "from 400 to 399 concurrent requests (http_429)"),
    ]


async def test_outrun(attempt_ended: Callable[..., AttemptEnded]) -> None:
    """A try that was given up because another target was faster is no failure, and no last word on its
    target."""
    board = StatusBoard()
    board.note(attempt_ended(reason="first_token_timeout"))
    board.note(attempt_ended(reason="hedge_lost"))
    standing = board.snapshot()["targets"]["one/fast"]
    assert (standing["failed"], standing["last_reason"]) == (1, "first_token_timeout")


async def test_costs(
    attempt_ended: Callable[..., AttemptEnded], request_ended: Callable[..., RequestEnded]
) -> None:
    """What is billed stands apart from what may be, by target and in all; estimates say that they are."""
    board = StatusBoard()
    answer = {"reason": "ok", "usage": Usage(100, 50, 150), "cost_usd": 0.02}
    cut = {"reason": "body_closed", "usage": Usage(9, 1, 10, estimated=True), "cost_usd": 0.001}
    board.note(attempt_ended(**cut))
    board.note(attempt_ended(**answer))
    board.note(attempt_ended(**answer))
    board.note(attempt_ended(target="two/slow", **answer | {"cost_usd": None}))
    tries = attempt_ended(**cut).attempt, attempt_ended(**answer).attempt
    board.note(request_ended(attempts=tries))
    seen = json.loads(json.dumps(board.snapshot()))

    billed, maybe = seen["spent"]["billed"], seen["spent"]["maybe"]
    assert billed == {
        "prompt_tokens": 300,
        "completion_tokens": 150,
        "estimated_tokens": 0,
        "cost_usd": pytest.approx(0.04),
    }
    assert maybe == {
        "prompt_tokens": 9,
        "completion_tokens": 1,
        "estimated_tokens": 10,
        "cost_usd": pytest.approx(0.001),
    }
    assert seen["targets"]["one/fast"]["spent"]["billed"]["cost_usd"] == pytest.approx(0.04)
    assert seen["targets"]["two/slow"]["spent"]["billed"]["cost_usd"] is None
    (row,) = seen["recent"]
    assert row["cost_usd"] == 0.02
    lost, whole = row["attempts"]
    assert (lost["tokens"], lost["tokens_estimated"], lost["cost_usd"]) == ([9, 1], True, 0.001)
    assert not {"tokens", "cost_usd"} & set(whole)  # told beside the trail


async def test_a_request_without_an_answer(request_ended: Callable[..., RequestEnded]) -> None:
    """Nothing was billed for it: what it may have cost stands in its trail."""
    lost = replace(AttemptRecord("one/fast", 0.0, 0.2, "cancelled"), usage=Usage(9, 1, 10), cost_usd=0.001)
    board = StatusBoard()
    board.note(request_ended(outcome=Outcome.CANCELLED, target=None, attempts=(lost,)))
    (row,) = board.snapshot()["recent"]
    assert row["cost_usd"] is None
    assert row["attempts"][0]["cost_usd"] == 0.001


async def test_long_days(request_ended: Callable[..., RequestEnded]) -> None:
    """Only the last entries are kept, however long the service runs."""
    board = StatusBoard()
    for i in range(RECENT_MAX + INCIDENTS_MAX):
        board.note(request_ended(request_id=f"r-{i}"))
        board.note(Crashed(f"r-{i}", f"place {i}"))
    seen = board.snapshot()
    assert (len(seen["recent"]), len(seen["incidents"])) == (RECENT_MAX, INCIDENTS_MAX)
    assert seen["recent"][0]["id"] == f"r-{RECENT_MAX + INCIDENTS_MAX - 1}"
    assert seen["outcomes"]["complete"] == RECENT_MAX + INCIDENTS_MAX


async def test_failed_probes_are_one_incident() -> None:
    """Failed probes do not flood the incidents: those of one breaker are one, with their number."""
    board = StatusBoard()
    board.note(BreakerChanged("one/m", "closed", "open", "5 failures in a row"))
    board.note(BreakerChanged("two/m", "closed", "open", "5 failures in a row"))
    for _ in range(150):
        for scope in ("one/m", "two/m"):
            board.note(BreakerChanged(scope, "open", "half_open", "time for a probe"))
            board.note(BreakerChanged(scope, "half_open", "open", "the probe failed"))
    told = [(row["target"], row["why"]) for row in board.snapshot()["incidents"]]
    assert told == [
        ("two/m", "the probe failed (150 times)"),
        ("one/m", "the probe failed (150 times)"),
        ("two/m", "5 failures in a row"),
        ("one/m", "5 failures in a row"),
    ]
    assert board.happened["breaker_opened"] == 302
    board.note(BreakerChanged("one/m", "half_open", "closed", "the probe succeeded"))
    board.note(BreakerChanged("one/m", "half_open", "open", "the probe failed"))
    assert board.snapshot()["incidents"][0]["why"] == "the probe failed"


ENDED = RequestEnded(
    request_id="r-1",
    caller="anonymous",
    route="chat",
    outcome=Outcome.COMPLETE,
    code=None,
    target="one/m",
    stream=False,
    cached=False,
    first_token_s=0.5,
    total_s=1.5,
    overhead_s=0.0004,
    usage=None,
    attempts=(AttemptRecord("one/m", 0.0, 1.5, "ok"),),
)
HOW: dict[str, dict[str, Any]] = {
    "answered": {},
    "failed": {"outcome": Outcome.FAILED, "code": "all_targets_down"},
    "shed": {"outcome": Outcome.REFUSED, "code": "overloaded", "attempts": ()},
    "invalid": {"outcome": Outcome.REFUSED, "code": "invalid_request", "attempts": ()},
    "left": {"outcome": Outcome.CANCELLED},
}
STEPS = st.tuples(st.sampled_from(["shed", "shed", *HOW]), st.sampled_from([0.0, 1.0, 11.0, 61.0]))


@given(st.lists(STEPS, max_size=12))
@settings(max_examples=100)
def test_when_a_route_is_failing(steps: list[tuple[str, float]]) -> None:
    """It is: three failures without an answer between; or three requests shed over half a minute, without an
    answer between. A burst that is partly shed is none, nor are invalid requests and clients that left."""

    async def play() -> None:
        board, at_s, sheds, failures, last = StatusBoard(), 0.0, list[float](), 0, -1e9
        for how, pause_s in steps:
            await asyncio.sleep(pause_s)
            at_s += pause_s
            board.note(replace(ENDED, **HOW[how]))
            if how == "answered":
                sheds, failures = [], 0
            elif how == "failed":
                failures, last = failures + 1, at_s
            elif how == "shed":
                sheds = [*sheds, at_s] if sheds and at_s - sheds[-1] < 60.0 else [at_s]
            fresh = [s for s in sheds if at_s - sheds[-1] < 60.0]
            only_shed = len(fresh) >= 3 and fresh[-1] - fresh[0] >= 30.0
            expected = only_shed or (failures >= 3 and at_s - last < 60.0)
            assert board.routes.get("chat", RouteCounters()).failing is expected

    run(play())


@pytest.mark.parametrize("reason", MISTAKES)
async def test_a_mistake_in_the_settings(reason: str, attempt_ended: Callable[..., AttemptEnded]) -> None:
    """A failure that only the settings mend is told from the first one on; at a target that has answered,
    from the third in a row on, for it may be one request's; and no longer when it answers."""
    board = StatusBoard()
    target = board.targets.setdefault("one/fast", TargetCounters())
    for answered_before in (False, True):
        for n in range(1, 5):
            board.note(attempt_ended(reason=reason))
            expected = MISTAKES[reason] if n >= 3 or not answered_before else None
            assert target.snapshot()["mistake"] == expected
        board.note(attempt_ended(reason="ok"))
        assert target.snapshot()["mistake"] is None


async def test_security_events() -> None:
    """Each security event is counted; of a burst one incident a minute is told, and never the address."""
    board = StatusBoard()
    for _ in range(50):
        board.note(SecurityNoted(SecurityKind.BAD_KEY, "203.0.113.7", "/v1/models"))
    board.note(SecurityNoted(SecurityKind.HOST_REFUSED, "203.0.113.7", "/v1/models"))
    await asyncio.sleep(REPEAT_INCIDENT_EVERY_S)
    board.note(SecurityNoted(SecurityKind.BAD_KEY, "203.0.113.7", "/v1/models"))

    assert counted(board) == {"bad_key": 51, "host_refused": 1}
    assert [i["what"] for i in board.snapshot()["incidents"]] == ["bad_key", "host_refused", "bad_key"]
    assert "203.0.113.7" not in json.dumps(board.snapshot())
