"""Fixtures of the benchmarks: what is measured, the gate of budgets, and a table of results at the end."""

import datetime
import os
import platform
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks.canned import RequestBench
from benchmarks.paired import Ratio

BUDGETS = tomllib.loads(Path(__file__).with_name("budgets.toml").read_text(encoding="utf-8"))
MEASURED = pytest.StashKey[list[tuple[str, Ratio, float, int]]]()


class BudgetGate:
    """Checks ratios against their budgets, and collects them for the table."""

    def __init__(self, config: pytest.Config) -> None:
        self._rows = config.stash.setdefault(MEASURED, [])
        self.enabled = not config.getoption("benchmark_disable") or config.getoption("benchmark_enable")

    def budget(self, name: str) -> float:
        """Return the budget in budgets.toml for this version of Python."""
        here = ".".join(platform.python_version_tuple()[:2])
        return float(BUDGETS["ratio_on"].get(here, {}).get(name, BUDGETS["ratio"][name]))

    def check(self, name: str, ratio: Ratio, inner: int) -> None:
        """Fail if the ratio is over its budget."""
        self._rows.append((name, ratio, self.budget(name), inner))
        assert ratio.value <= self.budget(name), (
            f"{name} costs {ratio.value:.2f} times its reference; the budget is {self.budget(name)}"
        )


@pytest.fixture
def gate(request: pytest.FixtureRequest) -> BudgetGate:
    made = BudgetGate(request.config)
    if not made.enabled:
        pytest.skip("benchmarks run with --benchmark-enable")
    return made


@pytest.fixture(scope="session")
def bench() -> Iterator[RequestBench]:
    with RequestBench() as made:
        yield made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(MEASURED, [])
    if not rows:
        return
    write = terminalreporter.write_line
    terminalreporter.section("cost against a reference in the same process")
    write(f"{'what':<16}{'us each':>10}{'reference us':>14}{'ratio':>8}{'budget':>8}")
    for name, ratio, budget, inner in rows:
        each, reference = (span_s / inner * 1e6 for span_s in (ratio.subject_s, ratio.reference_s))
        mark = "" if ratio.value <= budget else "  over budget"
        write(f"{name:<16}{each:>10.1f}{reference:>14.1f}{ratio.value:>8.2f}{budget:>8.2f}{mark}")
    write(machine())


def machine() -> str:
    """Describe the measurement: date, versions and machine."""
    names = ("aiohttp", "litestar", "msgspec", "opentelemetry-sdk")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    today = datetime.datetime.now(datetime.UTC).date()
    hardware = f"{_processor()}, {os.cpu_count()} cores, {platform.system()}"
    return f"{today}, Python {platform.python_version()}, {versions}; {hardware}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
