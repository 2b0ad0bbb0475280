import time
from pathlib import Path

import pytest

from benchmarks import sockets
from benchmarks.clocked_provider import script
from benchmarks.socket_clients import late_ms
from dub5.simulators.script import Data, Wait


def test_a_provider_that_keeps_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are sent at fixed times, however late the one before was, and say when that is."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "monotonic_ns", lambda: round(now[0] * 1e9))
    sent: list[tuple[float, bool]] = []
    for action in script(0.25, 3):
        if isinstance(action, Wait):
            now[0] += action.s
        elif isinstance(action, Data) and b"content" in action.data:
            sent.append((now[0], b"%d " % round(now[0] * 1e9) in action.data))
            now[0] += 0.05  # a slow reader
    assert sent == [(100.25, True), (100.5, True), (100.75, True)]


def test_the_way_of_each_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delta of several chunks gives the time of each of them."""
    monkeypatch.setattr(time, "monotonic_ns", lambda: 5_000_000)
    assert late_ms("1000000 4000000 ") == [4.0, 1.0] and late_ms("") == []
    assert sockets.quantile([3.0, 1.0, 2.0], 0.5) == 2.0 and sockets.quantile([1.0, 9.0], 0.99) == 9.0


@pytest.mark.real_sockets
async def test_a_short_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run in small: idle sockets, then people who talk; every answer is whole, and every chunk is timed."""
    monkeypatch.setattr(sockets, "SETTLE_S", 0.05)
    monkeypatch.setattr(sockets, "WARM_UP", 10)
    monkeypatch.setattr(sockets, "GROWTH_MAX", 1.0)
    monkeypatch.setattr(sockets, "IDLE_KB_MAX", 1_000.0)  # of so few it says nothing
    monkeypatch.setattr(sockets, "OVER_MS_MAX", 1_000.0)
    options = sockets.parser().parse_args(
        ["--idle", "50", "--talking", "20", "--seconds", "1.2", "--every-ms", "50", "--chunks", "6"]
    )
    assert await sockets.measure(options, tmp_path) == []
    shown = capsys.readouterr().out
    assert "KB for each socket" in shown and " 0 not whole" in shown
    answers = int(shown.partition(" answers")[0].rpartition("\n")[2])
    chunks = int(shown.partition("over sockets")[2].split()[0])
    assert answers >= 20 and chunks == 6 * answers
