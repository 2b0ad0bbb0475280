"""Notes each blocking call in the thread of an event loop: files, names, sockets, programs, sleep.

Python tells its audit hooks of them (PEP 578). A hook cannot be taken out again, so one is put in for the
whole test process, and notes only while it is told to.
"""

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BLOCKING = frozenset(
    {
        *("open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "shutil.copyfile"),
        *("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "urllib.Request"),
        *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "time.sleep", "sqlite3.connect"),
    }
)
FROM_THE_KERNEL = ("/proc/", "/sys/", "/dev/fd")  # memory, not a disk

_watched: list[tuple[int, list[str]]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched or event not in BLOCKING:
        return
    thread, noted = _watched[-1]
    if threading.get_ident() != thread or not _blocks(event, arguments):
        return
    frame, places = sys._getframe(1), []
    while frame is not None and len(places) < 40:
        places.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    ours = next((place for place in places if "/service/" in place), places[0])
    noted.append(f"{event}{arguments!r:.80} at {ours}")


def _blocks(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "socket.connect":
        one = arguments[0]
        return isinstance(one, socket.socket) and one.gettimeout() != 0.0
    return not str(arguments[0] if arguments else "").startswith(FROM_THE_KERNEL)


@contextmanager
def blocking_calls() -> Iterator[list[str]]:
    """Yield the list to which the blocking calls of this thread are added while the block runs."""
    noted: list[str] = []
    _watched.append((threading.get_ident(), noted))
    try:
        yield noted
    finally:
        _watched.pop()


sys.addaudithook(_hook)
