"""Child processes end with their parent, however the parent ended."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
