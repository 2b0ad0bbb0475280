"""Where the answer to a request would lie: equal keys only for requests that no provider could tell apart.

question   the route, its mark, and every field of the body that can change the answer, known here or not
place      the question and who asks
shared     the question alone: answers that are for everybody
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from dub5.service.cache.storage import CacheEntry, Generations
from dub5.service.cache.storage_guard import Patience
from dub5.service.config.options import CacheOptions
from dub5.service.model import ChatRequest

# Fields that say how the answer travels, or whom it is for; all others are part of the key.
NOT_IN_KEY = frozenset(
    {"stream", "stream_options", "user", "metadata", "safety_identifier", "prompt_cache_key"}
)
NEVER_WITH = ("tools", "functions", "logprobs", "store", "audio", "modalities", "response_format")
QUESTION_BYTES_MAX = 1024 * 1024  # larger ones hardly come twice, and reading them takes everybody's time


@dataclass(slots=True, eq=False)
class CacheKey:
    """A place, and what one request has learned of it. Keys are equal if their places are."""

    digest: str
    shared: str | None  # another place to look; None: there is none
    route: str
    caller: str
    patience: Patience
    generations: Generations | None = None  # as the request found them; None: the storage could not be asked
    stale: CacheEntry | None = None  # too old to be given, unless nobody can answer
    claimed_by: str = ""  # our token, while we are the one who asks

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CacheKey) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def key_of(
    request: ChatRequest, options: CacheOptions, fingerprint: str, patience_s: float
) -> CacheKey | None:
    """Where the answer would be, or None if it may not be kept at all. `fingerprint`: the route's."""
    body = request.body
    if not options.enabled or not request.cache_allowed or body.temperature != 0 or (body.n or 1) != 1:
        return None
    if any(bytes(request.fields.get(name, b"null")) not in (b"null", b"false") for name in NEVER_WITH):
        return None
    asked = _canonical(request.fields)
    if asked is None:
        return None
    route, caller = body.model, request.caller.key
    question = _digest(json.dumps([route, fingerprint]) + asked)
    shared = _digest(f"everybody {question}") if options.warm_from is not None else None
    return CacheKey(_digest(f"caller {caller} {question}"), shared, route, caller, Patience(patience_s))


def _canonical(fields: Mapping[str, msgspec.Raw]) -> str | None:
    """One text for all ways to write the same fields, or None if somebody might read them otherwise than we do: a name
    twice in one object, a number that is none. Whole numbers keep all their digits."""
    chosen = {name: bytes(raw) for name, raw in fields.items() if name not in NOT_IN_KEY}
    if sum(map(len, chosen.values())) > QUESTION_BYTES_MAX:
        return None
    try:
        return _CANONICAL.encode({name: _STRICT.decode(raw.decode()) for name, raw in chosen.items()})
    except (ValueError, RecursionError):
        return None


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _reject_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number in JSON")


# Made once: `json.loads` and `json.dumps` would make them anew for each field.
_STRICT = json.JSONDecoder(object_pairs_hook=_unique_names, parse_constant=_reject_number)
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
