"""Child processes end with their parent, however the parent ended."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dub5.chaos.engines import processes
from dub5.chaos.engines.processes import NotStarted, child

pytestmark = pytest.mark.real_sockets

READY = "import os, time; print('ready', os.getpid(), flush=True); time.sleep(60)"
PARENT = """
import asyncio, sys
from pathlib import Path
from dub5.chaos.engines.processes import child, run_until_stopped
async def main():
    command = [sys.executable, "-c", sys.argv[1]]
    async with child("it", command, Path(sys.argv[2]), lambda line: line.startswith("ready"), {}) as it:
        print(it.ready_line.split()[1], flush=True)
        await asyncio.Event().wait()
try:
    run_until_stopped(main())
except KeyboardInterrupt:
    print("stopped in order", flush=True)
"""
GONE_S = 5.0


def is_ready(line: str) -> bool:
    return line.startswith("ready")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until_gone(pid: int) -> bool:
    """Wait until the process has ended, by polling: it is no child of this process."""
    until_s = time.monotonic() + GONE_S
    while alive(pid) and time.monotonic() < until_s:
        os.sched_yield()
    return not alive(pid)


def children(pid: int) -> list[int]:
    """Return the process ids of all descendants."""
    table = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    rows = [tuple(map(int, line.split())) for line in table.splitlines()]
    found = [pid]
    for one in found:
        found += [child for child, parent in rows if parent == one]
    return found[1:]


def start_parent(folder: Path) -> tuple["subprocess.Popen[str]", int]:
    command = [sys.executable, "-c", PARENT, READY, str(folder)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


@pytest.mark.parametrize("whole_group", [False, True])
def test_parent_killed(tmp_path: Path, whole_group: bool) -> None:
    """A child ends even if SIGKILL ends its parent, alone or with its whole process group."""
    parent, pid = start_parent(tmp_path)
    assert alive(pid)
    os.killpg(parent.pid, signal.SIGKILL) if whole_group else parent.kill()
    parent.communicate()
    assert until_gone(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_parent_told_to_end(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and a closed terminal end parent and child in order."""
    parent, pid = start_parent(tmp_path)
    parent.send_signal(number)
    assert "stopped in order\n" == parent.communicate(timeout=GONE_S)[0]
    assert not alive(pid)


async def test_end_of_the_block(tmp_path: Path) -> None:
    """A child runs exactly as long as its block."""
    async with child("it", [sys.executable, "-c", READY], tmp_path, is_ready, {}) as it:
        assert it.running
        pid = int(it.ready_line.split()[1])
    assert not it.running
    assert not alive(pid)


async def test_not_ready(tmp_path: Path) -> None:
    """A child that ends before it is ready is reported with its last output."""
    command = [sys.executable, "-c", "import sys; print('I try'); sys.exit('no room')"]
    with pytest.raises(NotStarted, match=r"it ended before it was ready\.\n(?s:.*)no room"):
        async with child("it", command, tmp_path, is_ready, {}):
            pass


async def test_not_there(tmp_path: Path) -> None:
    """A program that does not exist is reported by its name."""
    with pytest.raises(NotStarted, match="cannot start nowhere: No such file"):
        async with child("it", ["nowhere"], tmp_path, is_ready, {}):
            pass


async def test_siblings_do_not_hold_each_other(tmp_path: Path) -> None:
    """Each child has its own supervisor: a child that ends leaves the others running."""
    command = [sys.executable, "-c", READY]
    async with child("first", command, tmp_path, is_ready, {}) as first:
        async with child("second", command, tmp_path, is_ready, {}):
            pass
        assert first.running
        async with asyncio.timeout(GONE_S):
            await first.stop()


SLOW = "import time; time.sleep(0.3); print('ready', flush=True); time.sleep(60)"


async def test_slow_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that lives is waited for, however slow the machine is, and the wait is told."""
    monkeypatch.setattr(processes, "STILL_WAITING_S", 0.1)
    told: list[str] = []
    async with child("it", [sys.executable, "-c", SLOW], tmp_path, is_ready, {}, told.append) as it:
        assert it.ready_line == "ready"
    assert told and all("it is not ready after" in line and "it lives" in line for line in told)


VERBS = {
    "playground": ("playground", "--port", "0"),
    "chaos": ("chaos", "demo", "--engine", "toxiproxy"),
    "virtual": ("chaos", "openai-2024-12-11", "--engine", "virtual", "--runs", "1000"),
    "simulate": ("simulate", "--seeds", "100000", "--jobs", "2"),
    "incidents": ("simulate", "--incidents"),
}
BUSY = {"playground": "Page:", "chaos": " begins: ", "virtual": "begins: ", "simulate": "", "incidents": ""}
END_S = 3.0


@pytest.mark.parametrize(
    ("verb", "number"),
    [
        ("playground", signal.SIGTERM),
        ("chaos", signal.SIGTERM),
        ("virtual", signal.SIGTERM),
        ("virtual", signal.SIGINT),
        ("simulate", signal.SIGTERM),
        ("incidents", signal.SIGHUP),
    ],
)
def test_job_in_the_background(tmp_path: Path, verb: str, number: signal.Signals) -> None:
    """A verb that a script started in the background, so with SIGINT ignored, ends within seconds, as do its
    processes."""
    job = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-m", "dub5", *VERBS[verb]],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert job.stdout is not None
    if BUSY[verb]:
        next(line for line in job.stdout if BUSY[verb] in line)
    else:
        while len(children(job.pid)) < 3:  # two workers, and the tracker of their resources
            assert job.poll() is None
            time.sleep(0.1)
        time.sleep(2.0)  # the workers are busy
    family = children(job.pid)
    began_s = time.monotonic()
    job.send_signal(number)
    said = job.communicate(timeout=20.0)[0]
    took_s = time.monotonic() - began_s
    assert "Traceback" not in said
    assert took_s < END_S, said
    assert all(until_gone(pid) for pid in family)
