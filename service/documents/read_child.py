"""The process that reads one file: its bytes on stdin, what was read as JSON on stdout. reading.py starts it.

It limits itself before it reads anything, and can open nothing more once it knows what it needs.
"""

import codecs
import os
import resource
import signal
import sys
import traceback
from types import TracebackType

import msgspec

from dub5.service.documents.extract import reader_of
from dub5.service.documents.refusals import FILE_BYTES_MAX, ReadRefused
from dub5.service.documents.report import CPU_S, MEMORY_BYTES, WALL_S, ChildReport

LIMITS = (
    (resource.RLIMIT_CPU, CPU_S),
    (resource.RLIMIT_FSIZE, 0),
    (resource.RLIMIT_NPROC, 0),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_AS, MEMORY_BYTES),
)
NEEDED_CODECS = ("cp437", "cp1252", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "ascii")


def limit(which: int, most: int) -> None:
    """Lower a limit of this process, where the system has it."""
    try:
        _, hard = resource.getrlimit(which)
        resource.setrlimit(which, (most, most if hard == resource.RLIM_INFINITY else min(most, hard)))
    except (ValueError, OSError):
        pass  # macOS refuses some: `dub5 check` says which are not held


def report_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write what went wrong, without a word of the file."""
    if issubclass(kind, MemoryError):
        write(ChildReport(refused="out_of_memory"))
        return
    frames = traceback.extract_tb(trace)
    place = f"{frames[-1].filename.rsplit('/', 2)[-1]}:{frames[-1].lineno}" if frames else "?"
    write(ChildReport(refused="crashed", why=f"{kind.__name__} at {place}"))


def write(report: ChildReport) -> None:
    """Write the report."""
    sys.stdout.buffer.write(msgspec.json.encode(report))
    sys.stdout.buffer.flush()


def main(name: str) -> None:
    """Read the file on stdin."""
    sys.excepthook = report_crash
    signal.alarm(WALL_S + 5)  # should nobody be left who ends it before
    for which, most in LIMITS:
        limit(which, most)
    data = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
    try:
        read = reader_of(data, name)
        for codec in NEEDED_CODECS:
            codecs.lookup(codec)
        limit(resource.RLIMIT_NOFILE, 3)  # no file, and no socket
        found = read()
    except ReadRefused as refused:
        write(ChildReport(refused=refused.name, why=refused.why))
        return
    write(ChildReport(found=found))


if __name__ == "__main__":
    main(sys.argv[1])
    os._exit(0)  # nothing is to be tidied up
