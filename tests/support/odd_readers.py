"""Processes that read a file as none should: `misread(monkeypatch, "code")` in place of the reading."""

import json
import os
import subprocess
from typing import Any

from dub5.service.documents import reading

BOOT = (
    "import sys; sys.path[:] = sys.argv[2:]; del sys.argv[2:]\n"
    "import os, resource, signal, socket, time\n"
    "from dub5.service.documents import read_child\n"
    "from dub5.service.documents.model import DocumentKind\n"
    "from dub5.service.documents.report import ReadText\n"
    "before = {before!r}\n"
    "exec(before)\n"
    "def misread():\n"
    "    found = {{}}\n"
    "    exec({code!r}, globals(), found)\n"
    "    return ReadText(DocumentKind.TEXT, 1, str(found.get('text', '')))\n"
    "read_child.reader_of = lambda data, name: misread\n"
    "read_child.main('')\n"
)


def misread(monkeypatch: Any, code: str, before: str = "") -> None:
    """Let a file be read by this code; `before`: what happens before the limits are set."""
    monkeypatch.setattr(reading, "BOOT", BOOT.format(code=code, before=before))


def children(of: int) -> set[int]:
    """Return the processes that a process has started and that are there still, dead or alive."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return {int(pid) for pid, parent, command in rows if int(parent) == of and command != "ps"}


_others: set[int] = set()  # that other tests of this process have started


def forget_children() -> None:
    """Take the children that there are for those of others."""
    _others.clear()
    _others.update(children(os.getpid()))


def new_children() -> set[int]:
    """Return the children of this process that a test has started."""
    return children(os.getpid()) - _others


def memory_kib(of: int) -> int:
    """Return the resident memory of a process."""
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(of)], capture_output=True, text=True, check=True)
    return int(json.loads(shown.stdout))
