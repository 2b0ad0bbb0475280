"""Reading a file in a process of its own, under limits: what is wrong with a file can only end that process.

    read_file   for requests; cancelled with its caller
    read_now    waits: for the start of a service, and for `dub5 check`

The process has no environment, no file and no socket, and is killed after WALL_S.
"""

import asyncio
import os
import signal
import subprocess
import sys

import msgspec

from dub5.service.documents.refusals import PAGES_MAX, REFUSALS, TEXT_BYTES_MAX, ReadRefused
from dub5.service.documents.report import DECODER, WALL_S, ReadText

REPORT_BYTES_MAX = 8 * 1024 * 1024  # a text of control characters would be six times as long in JSON
WHY_CHARS_MAX = 200
PART_BYTES = 64 * 1024
LOOK_S = 0.002  # how often it is looked for the end of a process that writes no more
# The packages are where this process has found them; neither variables nor the folder it runs in say more.
BOOT = (
    "import sys; sys.path[:] = sys.argv[2:]; del sys.argv[2:];"
    "import runpy; runpy.run_module('dub5.service.documents.read_child', run_name='__main__')"
)


class _Exchange:
    """What a process is sent and writes. `whole`: it writes no more, or has written too much."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, process: "subprocess.Popen[bytes]", data: bytes
    ) -> None:
        assert process.stdin is not None and process.stdout is not None, "both are pipes"
        self.report = bytearray()
        self.whole: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._stdin, self._stdout = process.stdin, process.stdout
        self._left = memoryview(data)
        for pipe in (self._stdin, self._stdout):
            os.set_blocking(pipe.fileno(), False)
        loop.add_reader(self._stdout.fileno(), self._read)
        loop.add_writer(self._stdin.fileno(), self._write)

    def close(self) -> None:
        """Close the pipes."""
        self._close_stdin()
        if not self._stdout.closed:
            self._loop.remove_reader(self._stdout.fileno())
            self._stdout.close()

    def _read(self) -> None:
        try:
            part = os.read(self._stdout.fileno(), PART_BYTES)
        except BlockingIOError:
            return
        self.report += part
        if (not part or len(self.report) > REPORT_BYTES_MAX) and not self.whole.done():
            self._loop.remove_reader(self._stdout.fileno())
            self.whole.set_result(None)

    def _write(self) -> None:
        try:
            self._left = self._left[os.write(self._stdin.fileno(), self._left[:PART_BYTES]) :]
        except BlockingIOError:
            return
        except OSError:  # the process has ended, and its report says why, or nothing does
            self._left = self._left[:0]
        if not self._left:
            self._close_stdin()

    def _close_stdin(self) -> None:
        if not self._stdin.closed:
            self._loop.remove_writer(self._stdin.fileno())
            self._stdin.close()


async def read_file(data: bytes, name: str = "") -> ReadText:
    """Return the text of a file. Raises ReadRefused. A caller that is cancelled ends the process.

    It is not started by the loop: uvloop forks, and runs Python's fork handlers before the new program, where
    any lock of a library may hang; and the loop of Python 3.11 waits for each process in a thread.
    """
    process = _start(name)
    exchange = _Exchange(asyncio.get_running_loop(), process, data)
    try:
        async with asyncio.timeout(WALL_S):
            await exchange.whole
            if len(exchange.report) > REPORT_BYTES_MAX:
                raise ReadRefused("crashed", "its report is too long")
            code = await _end_of(process)
    except TimeoutError:
        raise ReadRefused("timed_out") from None
    finally:
        exchange.close()
        if process.poll() is None:
            process.kill()
            await _end_of(process)
    return outcome(code, bytes(exchange.report))


def _start(name: str) -> "subprocess.Popen[bytes]":
    """Start the process, which takes some milliseconds. Raises ReadRefused."""
    try:
        return subprocess.Popen(
            _command(name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the service, which lets this one finish
        )
    except OSError as error:
        raise ReadRefused("no_reader", f"{type(error).__name__} at the start of a process") from None


async def _end_of(process: "subprocess.Popen[bytes]") -> int:
    """Return how the process ended."""
    while (code := process.poll()) is None:
        await asyncio.sleep(LOOK_S)
    return code


def read_now(data: bytes, name: str = "") -> ReadText:
    """Return the text of a file, as `read_file` does; nothing else runs meanwhile. Raises ReadRefused."""
    process = _start(name)
    try:
        report, _ = process.communicate(data, timeout=WALL_S)
    except subprocess.TimeoutExpired:
        raise ReadRefused("timed_out") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return outcome(process.returncode, report)


def outcome(code: int, report: bytes) -> ReadText:
    """Return what a process has found. It is not believed to be within the bounds. Raises ReadRefused."""
    try:
        said = DECODER.decode(report)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ReadRefused(*_why_no_report(code)) from None
    found = said.found
    if found is None:
        name = said.refused if said.refused in REFUSALS else "crashed"
        raise ReadRefused(name or "crashed", said.why[:WHY_CHARS_MAX])
    if found.pages not in range(1, PAGES_MAX + 1) or len(found.text.encode()) > TEXT_BYTES_MAX:
        raise ReadRefused("crashed", "what it reported is out of bounds")
    return found


def _why_no_report(code: int) -> tuple[str, str]:
    """Return the refusal for a process that ended without a report, and what the operator may know."""
    if code < 0:
        timed_out = -code in (signal.SIGXCPU, signal.SIGKILL, signal.SIGALRM)
        return ("timed_out" if timed_out else "crashed"), f"ended by signal {-code}"
    return "crashed" if code == 0 else "no_reader", f"ended with code {code}"


def _command(name: str) -> list[str]:
    ending = name.replace("\0", "")[-20:]  # all that is read of it
    return [sys.executable, "-I", "-S", "-c", BOOT, ending, *[path for path in sys.path if path]]
