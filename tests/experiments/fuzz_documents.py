"""Reads mutated files under the limits of a reading process: `python -m tests.experiments.fuzz_documents`.

A process that reads one file takes 0.1 s to start. Here one reads many: each with its own time of processor,
and with the same bounds of memory and files. One that is ended by a file is started again after it.
"""

import argparse
import random
import resource
import select
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator

from dub5.service.documents.extract import extract, reader_of
from dub5.service.documents.read_child import LIMITS, limit
from dub5.service.documents.refusals import REFUSALS, ReadRefused
from dub5.service.documents.report import CPU_S, WALL_S
from tests.support.docx_files import PARTS, block, document, docx_of, make_docx
from tests.support.pdf_files import make_pdf

READ = "read"
PDF = [make_pdf(["The cell is the unit of life."] * 3, compress=packed) for packed in (True, False)]
TEXT = "# Cells\n\nThe cell is the unit of life: \u7d30\u80de, \u201eZelle\u201c.\n" * 20
BODY = "".join(map(block, ("# Jane Roe", "Works with cells.", [["2020", "Acme"], ["2022", "Beta"]])))
TOKENS = (
    *(
        b"<<",
        b">>",
        b"[",
        b"]",
        b"(",
        b"endobj",
        b"stream\n",
        b"endstream",
        b"1 0 R",
        b"2 0 R",
        b"/Kids",
        b"/Count ",
    ),
    *(
        b"/Filter /FlateDecode ",
        b"/Length ",
        b"/Prev 0 ",
        b"%%EOF",
        b"xref",
        b"2147483647",
        b"-1",
        b"1e39",
        b"\0",
    ),
    *(
        b"<w:tbl>",
        b"</w:p>",
        b"<w:p>",
        b"&amp;",
        b"&x;",
        b"<!DOCTYPE",
        b"\xff\xfe",
        b"\xf0\x9f",
        b"PK\x01\x02",
    ),
)


def mutated(seed: int) -> tuple[bytes, str]:
    """Return a file that was good before, and its name."""
    rng = random.Random(seed)
    match rng.randrange(8):
        case 0 | 1 | 2:
            return _mutate(rng, rng.choice(PDF)), "a.pdf"
        case 3:
            return _mutate(rng, make_docx("# Jane Roe", "Works with cells.")), "a.docx"
        case 4 | 5:
            parts: dict[str, str | bytes] = {**PARTS, "word/document.xml": document(BODY)}
            name = rng.choice([*parts, "word/document.xml"])
            given = parts[name]
            parts[name] = _mutate(rng, given.encode() if isinstance(given, str) else given)
            return docx_of(parts), "a.docx"
        case 6:
            return _mutate(rng, TEXT.encode(rng.choice(("utf-8", "utf-16", "utf-8-sig")))), "a.txt"
    return _mutate(rng, TEXT.encode()), "a.md"


def _mutate(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 4, 16, 64))):
        at, length = rng.randrange(len(changed) + 1), rng.choice((1, 4, 16, 256))
        match rng.randrange(6):
            case 0:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                changed[at : at + length] = rng.randbytes(length)
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length] * rng.choice((1, 8, 200))
            case 4:
                changed[at:at] = rng.choice(TOKENS) * rng.choice((1, 1, 1, 50))
            case 5:
                start = rng.randrange(len(changed) + 1)
                changed[at:at] = changed[start : start + length]
    return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.1 else changed)


def result_of(seed: int) -> str:
    """Return the name of a refusal, READ, or where reading failed."""
    try:
        extract(*mutated(seed))
        return READ
    except ReadRefused as refused:
        return refused.name
    except MemoryError:
        return "out_of_memory"
    except Exception as error:  # noqa: BLE001  # what a reading process would report as a crash
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"crashed {type(error).__name__} at {frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"


def work(first: int, end: int) -> None:
    """Read the files of these seeds, and print what becomes of each."""
    for file in (PDF[0], make_docx("Loads all that is needed.")):
        reader_of(file, "")()
    for which, most in LIMITS:
        if which != resource.RLIMIT_CPU:
            limit(which, most)
    limit(resource.RLIMIT_NOFILE, 3)
    for seed in range(first, end):
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime) + CPU_S
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
        print(seed, result_of(seed), flush=True)


def play(first: int, end: int) -> Iterator[tuple[int, str]]:
    """Yield each seed and what becomes of its file."""
    while first < end:
        command = [sys.executable, "-m", __spec__.name, "--worker", str(first), str(end)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            while first < end:
                if not select.select([process.stdout], [], [], WALL_S + 5)[0]:
                    process.kill()
                    yield first, "timed_out"
                    first += 1
                    break
                line = process.stdout.readline().decode()
                if not line:
                    yield first, f"crashed by signal {-process.wait()}"
                    first += 1
                    break
                seed, _, result = line.strip().partition(" ")
                yield int(seed), result
                first = int(seed) + 1


def main() -> int:
    """Read the files, and print how many ended in what. Return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first file")
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(*options.worker)
        return 0
    began, found = time.monotonic(), Counter[str]()
    for seed, result in play(options.seed, options.seed + options.files):
        name = result.partition(" ")[0]
        found[name] += 1
        if name == "crashed" or name not in (READ, *REFUSALS):
            print(f"  seed {seed}: {result}", flush=True)
    print(f"{options.files} files in {time.monotonic() - began:.0f} s")
    for name, count in found.most_common():
        print(f"  {count:6} {name}")
    return 0 if found.keys() <= {READ, *REFUSALS} else 1


if __name__ == "__main__":
    sys.exit(main())
