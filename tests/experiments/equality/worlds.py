"""Record all that can be seen of drawn worlds, line by line.

generate_world -> run_world -> a line for each thing logged, each event with its values, each request at the
wire, each piece a client reads. Names of an event's fields are left out: they may be renamed freely.
"""

import asyncio
import gzip
import json
import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from msgspec import Struct

from dub5.chaos.simulation.invariants.record import RunRecord
from dub5.chaos.simulation.run import run_world
from dub5.chaos.simulation.world.generate import generate_world
from dub5.service.events import Event, Events
from dub5.service.wire.base import WireRequest
from dub5.simulators.virtual import AppStream, VirtualWire

LOG = "log"  # the method of RunRecord that takes each line of a trace
LINE_END = "\u2424"  # stands for it inside a line
LENGTH = "content-length"  # of a reply: another word has another length
WORKERS = 2


def record(seeds: Sequence[int], path: Path) -> tuple[int, int]:
    """Write one line of JSON for the world of each seed. Return how many worlds and trace lines there are."""
    lines, context = 0, multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(WORKERS, context) as pool,
        path.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed,
    ):
        for row in pool.map(play_one, seeds):
            packed.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            lines += len(row["lines"])
    return len(seeds), lines


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the worlds of a recorded file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def play_one(seed: int) -> dict[str, Any]:
    """Play one world and return what was seen."""
    logging.disable(logging.ERROR)  # what goes wrong is in the result
    lines: list[str] = []
    with _watched(lines):
        result = run_world(generate_world(seed))
    return {
        "seed": seed,
        "outcomes": dict(sorted(result.outcomes.items())),
        "violations": list(result.violations),
        "lines": lines,
    }


@contextmanager
def _watched(lines: list[str]) -> Iterator[None]:
    """Note each line of the trace, each event, and what passes at both edges of the service."""
    log, emit, send, read_some = getattr(RunRecord, LOG), Events.emit, VirtualWire.send, AppStream.read

    def note(line: str) -> None:
        lines.append(f"{asyncio.get_running_loop().time():.9f} {line}")

    def logged(self: RunRecord, line: str) -> None:
        log(self, line)
        lines.append(self.trace[-1])

    def emitted(self: Events, event: Event) -> None:
        note(f"event {type(event).__name__} {_plain(event)}")
        emit(self, event)

    async def sent(self: VirtualWire, request: WireRequest) -> Any:
        note(f"wire {request.method} {request.url} {_plain(dict(request.headers))} {_text(request.body)}")
        try:
            response = await send(self, request)
        except Exception as error:
            note(f"wire {request.url} {type(error).__name__}")
            raise
        note(f"wire {request.url} {response.status} {_plain(dict(response.headers))}")
        return response

    async def was_read(self: AppStream) -> bytes:
        data = await read_some(self)
        if self not in known:
            known.add(self)
            note(f"reply {self.status} {_plain({**self.headers, LENGTH: ''})}")
        degraded = " degraded" if "x-dub5-degraded" in self.headers else ""
        note(f"read {self.headers.get('x-request-id', '')}{degraded} {_text(data)}")
        return data

    known: set[AppStream] = set()
    hooks: list[tuple[type, str, Callable[..., Any]]] = [
        (RunRecord, LOG, logged),
        (Events, "emit", emitted),
        (VirtualWire, "send", sent),
        (AppStream, "read", was_read),
    ]
    patches = [patch.object(owner, name, hook) for owner, name, hook in hooks]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def _plain(thing: object) -> str:
    return json.dumps(_values(thing), default=str, ensure_ascii=False)


def _values(thing: object) -> object:
    """Return the values of a Struct, and of those inside it, without the names of its fields."""
    if isinstance(thing, Struct):
        return [_values(getattr(thing, name)) for name in thing.__struct_fields__]
    return [_values(one) for one in thing] if isinstance(thing, (tuple, list)) else thing


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace").replace("\n", LINE_END)
