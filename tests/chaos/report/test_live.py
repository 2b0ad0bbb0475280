"""The live view shows and prints about as much of a day as of a minute."""

import re
from io import StringIO
from typing import Any

from rich.console import Console

from dub5.chaos.report.live import LINES_MAX, REDRAWN_MAX, LiveView
from dub5.chaos.run.journal import AppliedFault
from tests.support.journals import result, scenario


def status(*breakers: str) -> dict[str, Any]:
    return {"targets": [{"provider": "one", "breaker": breaker, "cooling_s": 0.0} for breaker in breakers]}


def watched(seconds: float, changes: int = 0, *, terminal: bool = False, step_s: float = 0.5) -> str:
    """Return what a view shows of a run of `seconds`, sampled every `step_s`, with one request per sample."""
    out = StringIO()
    console = Console(file=out, width=140, height=40, force_terminal=terminal, color_system=None)
    with LiveView(scenario(seconds, plateau_rate_per_s=None), "virtual", console) as view:
        for n in range(changes):
            view.changed(AppliedFault("one", "status", f"fault {n}", "x", False, n * 1.0))
        for n in range(round(seconds / step_s) + 1):
            view.ended(result(n * step_s, "one" if n % 2 else "two"))
            view.sampled(n * step_s, status("closed"))
    return out.getvalue()


def test_a_minute_in_a_log() -> None:
    """A log of a minute has one line per second."""
    lines = watched(60).splitlines()
    assert len(lines) == 60
    assert lines[8].startswith(
        "    9 s  answers: one  1  two  1  three  0 | one closed | complete 19 | first token"
    )


def test_a_day_in_a_log() -> None:
    """A log of a day has as many lines as one of a few minutes, and not every one of a thousand faults."""
    lines = watched(72_000, changes=1000, step_s=5).splitlines()
    assert 100 < len([line for line in lines if "answers:" in line]) <= LINES_MAX
    assert len([line for line in lines if "begins" in line]) <= LINES_MAX + 1
    assert lines[-1].strip().startswith("20 h ")


def test_plateaus_are_seldom_looked_at() -> None:
    """If samples come every 30 s, each gives one line, and no request is lost."""
    lines = watched(240, step_s=30).splitlines()
    assert len(lines) == 8
    assert "complete 9" in lines[-1]


def test_a_day_on_a_terminal() -> None:
    """A run of a day redraws about as often as one of five minutes, and shows shares of answers."""
    shown = watched(72_000, terminal=True, step_s=5)
    assert 300 < shown.count("share of answers") <= REDRAWN_MAX + 2
    assert "20 h of 20 h" in shown
    assert "first token, last 10 min" in shown
    assert re.search(r"one \(openai\) +closed +[▁▂▃▄▅▆▇█]{30} +50 %", shown)


def test_a_minute_on_a_terminal() -> None:
    """A run of a minute redraws at every sample, and shows answers per second."""
    shown = watched(60, terminal=True)
    assert shown.count("answers per second") >= 120
    assert "60 of 60 s" in shown
    assert "first token, last 5 s" in shown


def test_the_worst_model() -> None:
    """A provider with several targets shows its worst state, and for how many targets it holds."""
    out = StringIO()
    view = LiveView(scenario(60, plateau_rate_per_s=None), "virtual", Console(file=out, width=140))
    view.sampled(1.0, status("closed", "open", "closed"))
    assert "one open, 1 of 3" in out.getvalue()
    view.sampled(2.0, status("open", "open"))
    assert "| one open | " in out.getvalue()
