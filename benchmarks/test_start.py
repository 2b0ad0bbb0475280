"""The CPU time from the start of the process to the first 200, as a multiple of its libraries' imports."""

import http.client
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import BudgetGate
from benchmarks.paired import ATTEMPTS, Ratio

ROUNDS = 7
LIBRARIES = "import litestar, aiohttp, uvicorn, uvloop, httptools, msgspec, prometheus_client"
SETTINGS = """
[[provider]]
name = "one"
dialect = "openai"
base_url = "http://127.0.0.1:9/v1"
[[route]]
name = "chat"
targets = ["one/m"]
"""
# As in production: bytecode is on the disk, and none is compiled at each start.
ENVIRON = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _start(arguments: Sequence[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRON,
    )


def _cpu_s(process: "subprocess.Popen[str]") -> float:
    """Wait for the end of a process, and return its CPU time."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.stdout is not None
    process.stdout.close()
    return usage.ru_utime + usage.ru_stime


def imports_s() -> float:
    return _cpu_s(_start(["-c", LIBRARIES]))


def first_answer_s(config: Path) -> float:
    process = _start(["-m", "dub5", "serve", "--config", str(config), "--port", "0"])
    assert process.stdout is not None
    port = int(process.stdout.readline().rpartition(":")[2])
    client = http.client.HTTPConnection("127.0.0.1", port)
    client.request("GET", "/livez")
    assert client.getresponse().status == 200
    client.close()
    process.kill()
    return _cpu_s(process)


def compare(config: Path) -> Ratio:
    """Alternate service and imports, after one round of each that writes the bytecode; return the medians."""
    first_answer_s(config), imports_s()
    spans = [(first_answer_s(config), imports_s()) for _ in range(ROUNDS)]
    return Ratio(*(statistics.median(each) for each in zip(*spans, strict=True)))


def test_a_start(gate: BudgetGate, benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """The service adds less than half to what importing its libraries costs."""
    config = tmp_path / "dub5.toml"
    config.write_text(SETTINGS)
    for _ in range(ATTEMPTS):
        ratio = compare(config)
        if ratio.value <= gate.budget("start"):
            break
    benchmark.extra_info |= {"inner": 1, "ratio": ratio.value}
    benchmark.pedantic(lambda: first_answer_s(config), rounds=1)  # type: ignore[no-untyped-call]
    gate.check("start", ratio, 1)
