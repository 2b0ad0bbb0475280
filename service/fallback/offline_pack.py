"""Offline pack: texts and common answers that a client keeps for when it cannot reach the service.

It is built when the settings are read, and bounded, so that a phone can keep it. The common answers are those
of `route.cache.warm_from` that answer a question of one message.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from dub5.service.cache.replay import is_plain_text
from dub5.service.config.settings import RouteSettings
from dub5.service.config.templates import PHRASES, Templates
from dub5.service.fallback.fallback import Fallbacks, wait_phrase

PACK_BYTES_MAX = 512 * 1024
LINE_BYTES_MAX = 64 * 1024
LINES_MAX = 10_000  # read of each file
UNUSABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError)


@dataclass(frozen=True, slots=True)
class OfflinePack:
    """The body of `GET /v1/offline`, and its ETag."""

    body: bytes
    etag: str


def build_pack(routes: Iterable[tuple[RouteSettings, Fallbacks]]) -> OfflinePack:
    """Build the offline pack of all routes that have fallback answers."""
    left = PACK_BYTES_MAX
    found: dict[str, Any] = {}
    for route, fallbacks in routes:
        if not route.degraded.enabled:
            continue
        texts = _without_wait(fallbacks.templates)
        answers, left_out = _fitting(_common(route), left - len(msgspec.json.encode(texts)))
        found[route.name] = {"texts": texts, "answers": answers, "left_out": left_out}
        left -= len(msgspec.json.encode(found[route.name]))
    body = msgspec.json.encode({"object": "offline_pack", "routes": found})
    return OfflinePack(body, f'"{hashlib.sha256(body).hexdigest()[:16]}"')


def _without_wait(texts: Templates) -> Mapping[str, Mapping[str, str]]:
    """Return the texts with "soon" for the wait: an offline client cannot know how long it is."""
    return {
        language: {
            name: text.replace("{wait}", wait_phrase(texts, language, None))
            for name, text in named.items()
            if name not in PHRASES
        }
        for language, named in texts.items()
    }


def _fitting(answers: Iterator[dict[str, str]], bytes_max: int) -> tuple[list[dict[str, str]], int]:
    """Return the answers that fit into `bytes_max`, and the number of those that do not."""
    fitting, size, left_out = [], 0, 0
    for answer in answers:
        size += len(msgspec.json.encode(answer)) + 1
        if size > bytes_max:
            left_out += 1
        else:
            fitting.append(answer)
    return fitting, left_out


def _common(route: RouteSettings) -> Iterator[dict[str, str]]:
    if not route.cache.enabled or route.cache.warm_from is None:
        return
    try:
        with Path(route.cache.warm_from).open("rb") as file:
            for line in islice(iter(lambda: file.readline(LINE_BYTES_MAX), b""), LINES_MAX):
                if (answer := _answer(line)) is not None:
                    yield answer
    except OSError:
        return  # logged when the cache is warmed


def _answer(line: bytes) -> dict[str, str] | None:
    try:
        row = msgspec.json.decode(line)
        (message,) = row["request"]["messages"]
        answer = row["answer"]["choices"][0]["message"]["content"]
        usable = message["role"] == "user" and isinstance(message["content"], str)
        if not usable or not is_plain_text(msgspec.json.encode(row["answer"])):
            return None
    except (*UNUSABLE, ValueError):
        return None
    return {"question": message["content"], "answer": answer}
