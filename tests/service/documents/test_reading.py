"""The process that reads a file: its limits, how it ends, and that nothing of it is left."""

import asyncio
import os
import random
import sys
from collections.abc import Coroutine
from functools import cache
from typing import Any

import pytest
import uvloop

from dub5.service.documents import reading
from dub5.service.documents.reading import read_file, read_now
from dub5.service.documents.refusals import REFUSALS, ReadRefused, ReadResult
from tests.support.docx_files import make_docx
from tests.support.odd_files import READ, OddFile, harmful
from tests.support.odd_readers import memory_kib, misread, new_children
from tests.support.pdf_files import make_pdf

pytestmark = pytest.mark.real_sockets

QUICK = (  # of the harmful files; the others are played by --thorough
    *("packed twice", "5,000 pages", "pages that hold themselves", "2 billion pages"),
    *("a table that follows itself", "lists in lists of a page", "the text lies about its size"),
    *("entities", "3,000 parts", "tables in tables", "marks on one letter", "one byte too many"),
)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold every limit")


async def result_of(data: bytes = b"Hello.", name: str = "") -> tuple[str, str]:
    """Return the name of a refusal and why, or READ and the text."""
    try:
        return READ, (await read_file(data, name)).text
    except ReadRefused as refused:
        return refused.name, refused.why


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_both_loops(run: Any) -> None:
    """On the loop of Python and on that of the service, files of each kind are read, and no process stays."""

    async def read() -> None:
        assert await result_of(make_pdf(["The cell."])) == (READ, "The cell.")
        assert await result_of(make_docx("# Jane")) == (READ, "# Jane")
        assert await result_of(b"x" * 1_000_000) == (READ, "x" * 1_000_000)
        assert (await result_of(b"\x89PNG\r\n\x1a\n"))[0] == "image"
        assert not new_children()

    run(read())


async def test_at_start() -> None:
    """The waiting form returns and refuses the same."""
    assert read_now(make_pdf(["The cell."])).text == "The cell."
    with pytest.raises(ReadRefused, match="password"):
        read_now(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"))


@cache
def harmful_files() -> dict[str, OddFile]:
    """Return the harmful files, by what they are."""
    return {file.what: file for file in harmful()}


async def play(file: OddFile) -> None:
    """Read a harmful file."""
    before = memory_kib(os.getpid())
    found, _ = await result_of(file.data, file.name)
    assert found in file.ends, file.what
    assert not new_children()
    assert memory_kib(os.getpid()) < before + 40_000


@pytest.mark.parametrize("what", QUICK)
async def test_harmful_files(what: str) -> None:
    """A file that is made to do harm ends in one sentence, and this process does not grow."""
    await play(harmful_files()[what])


@pytest.mark.thorough
async def test_all_harmful_files() -> None:
    """So do all the others."""
    for file in harmful_files().values():
        await play(file)


@LINUX
async def test_it_can_open_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it reads it has no environment, opens no file and no socket, and writes to none."""
    monkeypatch.setenv("PROVIDER_KEY", "sk-secret")
    code = """
text = str(sorted(set(os.environ) - {'LC_CTYPE'}))
for name, act in (('file', lambda: open('/etc/passwd')), ('socket', socket.socket), ('pipe', os.pipe)):
    try:
        act()
        text += f' {name}: open'
    except OSError as error:
        text += f' {name}: {error.errno}'
"""
    misread(monkeypatch, code)
    assert await result_of() == (READ, "[] file: 24 socket: 24 pipe: 24")


@LINUX
async def test_it_writes_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """It cannot write to a file that was open before."""
    misread(
        monkeypatch, "held.write('x' * 10)\nheld.flush()", f"held = open({str(tmp_path / 'held')!r}, 'w')"
    )
    name, why = await result_of()
    assert name == "crashed" and why.startswith("OSError at ")
    assert (tmp_path / "held").read_bytes() == b""


@LINUX
@pytest.mark.parametrize(
    "code, result",
    [
        ("held = bytes(600 * 2**20)", ("out_of_memory", "")),
        ("held = [bytes(2**20) for _ in range(600)]", ("out_of_memory", "")),
        ("f = lambda: f()\nf()", ("crashed", "NameError at <string>:1")),
        ("raise KeyError('a secret of the file')", ("crashed", "KeyError at <string>:1")),
        ("os.kill(os.getpid(), signal.SIGSEGV)", ("crashed", "ended by signal 11")),
        ("os.abort()", ("crashed", "ended by signal 6")),
        ("os._exit(0)", ("crashed", "ended with code 0")),
        ("os._exit(3)", ("no_reader", "ended with code 3")),
        ("os.write(1, b'not JSON')", ("crashed", "ended with code 0")),
        ("os.close(1)", ("no_reader", "ended with code 120")),
        ("text = 'x' * (2**20 + 1)", ("crashed", "what it reported is out of bounds")),
    ],
)
async def test_how_it_ends(monkeypatch: pytest.MonkeyPatch, code: str, result: tuple[str, str]) -> None:
    """However it ends, that is one refusal, with what an operator may know and no word of the file."""
    misread(monkeypatch, code)
    assert await result_of() == result
    assert not new_children()


@LINUX
async def test_no_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that computes for too long is ended by its own limit, one that waits or babbles by us."""
    spin = "while True:\n    pass"
    misread(monkeypatch, spin, "read_child.LIMITS = ((resource.RLIMIT_CPU, 1), *read_child.LIMITS[1:])")
    name, why = await result_of()
    assert name == "timed_out" and why in ("ended by signal 24", "ended by signal 9")
    misread(monkeypatch, "while True:\n    os.write(1, b'x' * 65_536)")
    assert await result_of() == ("crashed", "its report is too long")
    monkeypatch.setattr(reading, "WALL_S", 0.5)
    misread(monkeypatch, "time.sleep(60)")
    assert await result_of() == ("timed_out", "")
    with pytest.raises(ReadRefused, match="takes too long"):
        read_now(b"Hello.")
    assert not new_children()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("after_s", [0.0, 0.002, 0.02, 0.5])
def test_cancelled(run: Any, after_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that is cancelled ends the process, whenever that is; nothing of it is left."""
    misread(monkeypatch, "time.sleep(60)")

    async def cancel() -> None:
        task = asyncio.create_task(read_file(b"x" * 5_000_000))
        await asyncio.sleep(after_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(100):
            if not new_children():
                return
            await asyncio.sleep(0.02)
        raise AssertionError("a process is left")

    run(cancel())


@pytest.mark.parametrize("package, data", [("pypdfium2", make_pdf(["A."])), ("docx", make_docx("A."))])
async def test_missing_packages(package: str, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a package its files are refused in plain words, and the operator is told what to install."""
    boot = reading.BOOT.replace("import runpy", f"sys.modules[{package!r}] = None; import runpy")
    monkeypatch.setattr(reading, "BOOT", boot)
    name, why = await result_of(data)
    assert REFUSALS[name].result is ReadResult.MISSING_PACKAGE
    assert why == f"install dub5[documents] ({package} is missing)"
    assert await result_of(b"Hello.") == (READ, "Hello.")


async def test_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process can be started, or Python does not start, files are refused, and the log says why."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert await result_of() == ("no_reader", "FileNotFoundError at the start of a process")
    with pytest.raises(ReadRefused, match="tell its operator"):
        read_now(b"Hello.")
    monkeypatch.undo()
    monkeypatch.setattr(reading, "BOOT", "import nothing_of_this_name")
    assert await result_of() == ("no_reader", "ended with code 1")


def together(*reads: Coroutine[Any, Any, Any]) -> list[Any]:
    """Await all at once, on the loop of the service."""

    async def gather() -> list[Any]:
        return list(await asyncio.gather(*reads))

    return uvloop.run(gather())


def test_many_at_once() -> None:
    """Ten files at once do not mix, in any order of their ends."""
    rng = random.Random(1)
    texts = [f"Text {number}. " * rng.randrange(1, 20_000) for number in range(10)]
    assert together(*[result_of(text.encode()) for text in texts]) == [
        (READ, text.rstrip()) for text in texts
    ]
