"""Reading a file in a process of its own, under limits: what is wrong with a file can only end that process.

    read_file   for requests; cancelled with its caller
    read_now    waits: for the start of a service, and for `dub5 check`

The process has no environment, no file and no socket, and is killed after WALL_S.
"""

import asyncio
import signal
import subprocess
import sys

import msgspec

from dub5.service.documents.refusals import PAGES_MAX, REFUSALS, TEXT_BYTES_MAX, ReadRefused
from dub5.service.documents.report import DECODER, WALL_S, ReadText

REPORT_BYTES_MAX = 8 * 1024 * 1024  # a text of control characters would be six times as long in JSON
WHY_CHARS_MAX = 200
# The packages are where this process has found them; neither variables nor the folder it runs in say more.
BOOT = (
    "import sys; sys.path[:] = sys.argv[2:]; del sys.argv[2:];"
    "import runpy; runpy.run_module('dub5.service.documents.read_child', run_name='__main__')"
)


async def read_file(data: bytes, name: str = "") -> ReadText:
    """Return the text of a file. Raises ReadRefused. A caller that is cancelled ends the process."""
    try:
        process = await asyncio.create_subprocess_exec(
            *_command(name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            start_new_session=True,  # Ctrl-C is for the service, which lets this one finish
            limit=REPORT_BYTES_MAX,
        )
    except OSError as error:
        raise ReadRefused("no_reader", f"{type(error).__name__} at the start of a process") from None
    try:
        async with asyncio.timeout(WALL_S):
            report = await _exchange(process, data)
            code = await process.wait()
    except TimeoutError:
        raise ReadRefused("timed_out") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return outcome(code, report)


def read_now(data: bytes, name: str = "") -> ReadText:
    """Return the text of a file, as `read_file` does; nothing else runs meanwhile. Raises ReadRefused."""
    try:
        ended = subprocess.run(
            _command(name),
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            start_new_session=True,
            timeout=WALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ReadRefused("timed_out") from None
    except OSError as error:
        raise ReadRefused("no_reader", f"{type(error).__name__} at the start of a process") from None
    return outcome(ended.returncode, ended.stdout)


def outcome(code: int, report: bytes) -> ReadText:
    """Return what a process has found. It is not believed to be within the bounds. Raises ReadRefused."""
    try:
        said = DECODER.decode(report)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ReadRefused(*_end_of(code)) from None
    found = said.found
    if found is None:
        name = said.refused if said.refused in REFUSALS else "crashed"
        raise ReadRefused(name or "crashed", said.why[:WHY_CHARS_MAX])
    if found.pages not in range(1, PAGES_MAX + 1) or len(found.text.encode()) > TEXT_BYTES_MAX:
        raise ReadRefused("crashed", "what it reported is out of bounds")
    return found


def _end_of(code: int) -> tuple[str, str]:
    """Return the refusal for a process that ended without a report, and what the operator may know."""
    if code < 0:
        timed_out = -code in (signal.SIGXCPU, signal.SIGKILL, signal.SIGALRM)
        return ("timed_out" if timed_out else "crashed"), f"ended by signal {-code}"
    return "crashed" if code == 0 else "no_reader", f"ended with code {code}"


async def _exchange(process: asyncio.subprocess.Process, data: bytes) -> bytes:
    """Send the file, and return the report; its beginning if it is too long."""
    assert process.stdin is not None and process.stdout is not None, "both are pipes"
    sending = asyncio.create_task(_send(process.stdin, data), name="file to read")
    report = bytearray()
    try:
        while len(report) <= REPORT_BYTES_MAX and (part := await process.stdout.read(64 * 1024)):
            report += part
    finally:
        sending.cancel()
    return bytes(report) if len(report) <= REPORT_BYTES_MAX else b""


async def _send(pipe: asyncio.StreamWriter, data: bytes) -> None:
    try:
        pipe.write(data)
        await pipe.drain()
        pipe.close()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the process has ended, and its report says why, or nothing does


def _command(name: str) -> list[str]:
    ending = name.replace("\0", "")[-20:]  # all that is read of it
    return [sys.executable, "-I", "-S", "-c", BOOT, ending, *[path for path in sys.path if path]]
