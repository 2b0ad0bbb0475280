import json
from collections.abc import Callable

from service import clock
from service.chat import Outcome
from service.events import AttemptEnded, BreakerChanged, CacheLooked, Crashed, DrainBegan, RequestEnded
from service.telemetry.board import INCIDENTS_MAX, RECENT_MAX, Board


async def test_empty() -> None:
    """Every count is there from the start, at nought, so that a reader need not guess names."""
    seen = Board().snapshot()
    assert seen["outcomes"] == dict.fromkeys(
        ["complete", "degraded", "refused", "failed", "cut", "cancelled"], 0
    )
    assert {"failed_over", "breaker_opened", "cache_hit", "drained"} <= set(seen["happened"])
    assert set(seen["happened"].values()) == {0}


async def test_an_incident(
    request_ended: Callable[..., RequestEnded], attempt_ended: Callable[..., AttemptEnded]
) -> None:
    """The board tells an outage in order, the newest first, in plain JSON."""
    board = Board()
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
    assert one == {"answered": 0, "failed": 1, "last_reason": "http_530", "first_token_ms": None}
    assert two == {"answered": 1, "failed": 0, "last_reason": "ok", "first_token_ms": 300.0}
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


async def test_long_days(request_ended: Callable[..., RequestEnded]) -> None:
    """Only the last are kept, however long the service runs."""
    board = Board()
    for i in range(RECENT_MAX + INCIDENTS_MAX):
        board.note(request_ended(request_id=f"r-{i}"))
        board.note(Crashed(f"r-{i}", f"place {i}"))
    seen = board.snapshot()
    assert (len(seen["recent"]), len(seen["incidents"])) == (RECENT_MAX, INCIDENTS_MAX)
    assert seen["recent"][0]["id"] == f"r-{RECENT_MAX + INCIDENTS_MAX - 1}"
    assert seen["outcomes"]["complete"] == RECENT_MAX + INCIDENTS_MAX
