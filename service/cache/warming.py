"""Cache warming: reads answers from a file for each route, one request with its answer per line.

{"request": {"messages": [...], "temperature": 0}, "answer": {a chat.completion}}
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from dub5.service.cache.cache import AnswerCache, Stored
from dub5.service.cache.replay import is_plain_text
from dub5.service.config.decode_messages import field_path, validation_message
from dub5.service.config.options import CacheOptions
from dub5.service.events import CacheWarmed, Events
from dub5.service.model import Caller, ChatBody, ChatRequest
from dub5.service.resilience.storage_guard import Patience, StorageLost

LINE_BYTES_MAX = 4 * 1024 * 1024
PROBLEMS_MAX = 20  # reported in full; the others are only counted
PATIENCE_S = 1.0  # for the storage, per line: no client waits
LOST_MAX = 3  # consecutive failures of the storage that end the reading of a file
TARGET = "file/warm"  # the target of these answers, in x-dub5-target


class Warm(NamedTuple):
    """A route to warm, with what its cache keys depend on."""

    route: str
    options: CacheOptions
    fingerprint: str


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    request: msgspec.Raw
    answer: msgspec.Raw


class _Unusable(Exception):
    """A line cannot be used; the message says why."""


async def warm(cache: AnswerCache, routes: list[Warm], events: Events) -> None:
    """Store the answers of all files, and emit CacheWarmed for each.

    Raises nothing; other tasks run meanwhile.
    """
    for route in routes:
        if route.options.enabled and route.options.warm_from is not None:
            events.emit(await _warm_route(cache, route, Path(route.options.warm_from)))


async def _warm_route(cache: AnswerCache, route: Warm, path: Path) -> CacheWarmed:
    kept, lost, problems = 0, 0, []
    try:
        for number, line in _lines(path):
            await asyncio.sleep(0)
            try:
                await _store_line(cache, route, line)
                kept, lost = kept + 1, 0
            except _Unusable as error:
                problems.append(f"line {number}: {error}")
            except StorageLost:
                lost += 1
                problems.append(f"line {number}: the cache storage is unavailable")
                if lost == LOST_MAX:
                    break
    except OSError as error:
        problems.append(f"the file cannot be read ({error.strerror})")
    more = [f"and {len(problems) - PROBLEMS_MAX} more"] if len(problems) > PROBLEMS_MAX else []
    return CacheWarmed(route.route, kept, (*problems[:PROBLEMS_MAX], *more))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number and bytes of each line that is not empty. A too long line is cut. Raises OSError."""
    if not path.is_file():
        raise FileNotFoundError(2, "it does not exist, or is not a file")
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_BYTES_MAX):
            number += 1
            whole = line.endswith(b"\n") or len(line) < LINE_BYTES_MAX
            while not whole and (rest := file.readline(LINE_BYTES_MAX)):
                whole = rest.endswith(b"\n")
            if line.strip():
                yield number, line


async def _store_line(cache: AnswerCache, route: Warm, line: bytes) -> None:
    """Store the answer of one line. Raises _Unusable, StorageLost."""
    try:
        row = msgspec.json.decode(line, type=_Line)
        fields = msgspec.json.decode(row.request, type=dict[str, msgspec.Raw])
        fields.setdefault("model", msgspec.Raw(msgspec.json.encode(route.route)))
        body = msgspec.json.decode(msgspec.json.encode(fields), type=ChatBody)
    except msgspec.ValidationError as error:
        raise _Unusable(f"{field_path(error)} {validation_message(error)}".strip()) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _Unusable("it is not valid JSON") from None
    if body.model != route.route:
        raise _Unusable(f"its model is {body.model[:100]!r}, not this route")
    answer = bytes(row.answer)
    if not is_plain_text(answer):
        raise _Unusable("the answer is not a complete chat.completion of plain text")
    key = cache.key(ChatRequest("warm", Caller(), body, fields), route.options, route.fingerprint)
    if key is None:
        raise _Unusable("answers to such a request are not stored: is its temperature 0?")
    key.patience = Patience(PATIENCE_S)
    await cache.offer(key, Stored(answer, TARGET), route.options)
