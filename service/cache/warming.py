"""Answers that are there from the start: a file for each route, one question with its answer a line.

{"request": {"messages": [...], "temperature": 0}, "answer": {a chat.completion}}
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from dub5.service.cache.cache import AnswerCache, Stored
from dub5.service.cache.replay import is_plain_text
from dub5.service.cache.storage import StorageLost
from dub5.service.cache.storage_guard import Patience
from dub5.service.config.decode_messages import field_path, validation_message
from dub5.service.config.options import CacheOptions
from dub5.service.events import CacheWarmed, Events
from dub5.service.model import Caller, ChatBody, ChatRequest

LINE_BYTES_MAX = 4 * 1024 * 1024
PROBLEMS_MAX = 20  # told; the others are only counted
PATIENCE_S = 1.0  # nobody waits for these
LOST_MAX = 3  # a storage that fails so often in a row is asked no more
TARGET = "file/warm"  # who gave them, in x-dub5-target


class Warm(NamedTuple):
    """A route, and what its answers are kept by. `fingerprint` is the gateway's."""

    route: str
    options: CacheOptions
    fingerprint: str


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    request: msgspec.Raw
    answer: msgspec.Raw


class _Unusable(Exception):
    """A line, and why not."""


async def warm(cache: AnswerCache, routes: list[Warm], events: Events) -> None:
    """Keeps the answers of all files, and tells how it went. Raises nothing; other tasks run between the lines."""
    for one in routes:
        if one.options.enabled and one.options.warm_from is not None:
            events.emit(await _file(cache, one, Path(one.options.warm_from)))


async def _file(cache: AnswerCache, one: Warm, path: Path) -> CacheWarmed:
    kept, lost, problems = 0, 0, []
    try:
        for number, line in _lines(path):
            await asyncio.sleep(0)
            try:
                await _keep(cache, one, line)
                kept, lost = kept + 1, 0
            except _Unusable as error:
                problems.append(f"line {number}: {error}")
            except StorageLost:
                lost += 1
                problems.append(f"line {number}: the storage cannot be asked now")
                if lost == LOST_MAX:
                    break
    except OSError as error:
        problems.append(f"the file cannot be read ({error.strerror})")
    more = [f"and {len(problems) - PROBLEMS_MAX} more"] if len(problems) > PROBLEMS_MAX else []
    return CacheWarmed(one.route, kept, (*problems[:PROBLEMS_MAX], *more))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Those that are not empty; of a line that is too long, its beginning. Raises OSError."""
    if not path.is_file():
        raise FileNotFoundError(2, "it is not there, or is no file")
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_BYTES_MAX):
            number += 1
            whole = line.endswith(b"\n") or len(line) < LINE_BYTES_MAX
            while not whole and (rest := file.readline(LINE_BYTES_MAX)):
                whole = rest.endswith(b"\n")
            if line.strip():
                yield number, line


async def _keep(cache: AnswerCache, one: Warm, line: bytes) -> None:
    """Raises _Unusable, StorageLost."""
    try:
        said = msgspec.json.decode(line, type=_Line)
        fields = msgspec.json.decode(said.request, type=dict[str, msgspec.Raw])
        fields.setdefault("model", msgspec.Raw(msgspec.json.encode(one.route)))
        body = msgspec.json.decode(msgspec.json.encode(fields), type=ChatBody)
    except msgspec.ValidationError as error:
        raise _Unusable(f"{field_path(error)} {validation_message(error)}".strip()) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _Unusable("it is not valid JSON") from None
    if body.model != one.route:
        raise _Unusable(f"its model is {body.model[:100]!r}, not this route")
    answer = bytes(said.answer)
    if not is_plain_text(answer):
        raise _Unusable("the answer is no finished chat.completion of plain text")
    key = cache.key(ChatRequest("warm", Caller(), body, fields), one.options, one.fingerprint)
    if key is None:
        raise _Unusable("answers to such a request are not kept: is its temperature 0?")
    key.patience = Patience(PATIENCE_S)
    await cache.offer(key, Stored(answer, TARGET), one.options)
