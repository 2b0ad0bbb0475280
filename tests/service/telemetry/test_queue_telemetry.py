"""What is told of those who had to wait."""

import pytest

from dub5.service.events import Event, QueueLeft
from dub5.service.telemetry.board import StatusBoard
from dub5.service.telemetry.logs import EventLogger

HOW = ("served", "served", "left", "expired", "overloaded", "overloaded", "full")


def left(how: str) -> Event:
    return QueueLeft("req_1", "chat", "normal", how, 0.4)


async def test_the_board_counts() -> None:
    """The board counts requests that waited, and rejected ones by reason; neither is an operator's news by
    itself."""
    board = StatusBoard()
    for how in HOW:
        board.note(left(how))
    seen = board.snapshot()
    assert {name: count for name, count in seen["happened"].items() if count} == {
        "queued": 7,
        "shed_expired": 1,
        "shed_overloaded": 2,
        "shed_full": 1,
    }
    assert not seen["incidents"]


@pytest.mark.parametrize(("how", "lines"), [("served", 0), ("left", 0), ("overloaded", 1)])
async def test_the_log(how: str, lines: int) -> None:
    """A line a second for each route that refuses people, and none for waiting."""
    seen: list[bytes] = []
    log = EventLogger(lambda line, *, at_once: seen.append(line))
    for _ in range(50):
        log.log(left(how))
    assert len(seen) == lines
    assert all(b'"event":"shed","route":"chat","times":1,"why":"overloaded"' in line for line in seen)
