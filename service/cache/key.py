"""Cache key of a request. Keys are equal only for requests that no provider could tell apart.

question   the route, its fingerprint, and every field of the body that can change the answer, known or not
digest     the question and the caller
shared     the question alone, for answers that all callers may get
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from dub5.service.cache.storage import CacheEntry, Generations
from dub5.service.config.options import CacheOptions
from dub5.service.model import ChatRequest
from dub5.service.resilience.storage_guard import Patience

# Fields that say how the answer is delivered, or for whom; all others are part of the key.
NOT_IN_KEY = frozenset(
    {"stream", "stream_options", "user", "metadata", "safety_identifier", "prompt_cache_key"}
)
NEVER_WITH = ("tools", "functions", "logprobs", "store", "audio", "modalities", "response_format")
QUESTION_BYTES_MAX = 1024 * 1024  # larger ones hardly repeat, and reading them blocks all other requests


@dataclass(slots=True, eq=False)
class CacheKey:
    """A cache key, and what one request has found out about it. Keys are equal if their digests are."""

    digest: str
    shared: str | None  # the key of an answer for all callers; None: the route has none
    route: str
    caller: str
    patience: Patience
    generations: Generations | None = None  # at the first read; None: the storage was unavailable
    stale: CacheEntry | None = None  # too old to be served, unless no provider can answer
    claimed_by: str = ""  # the token of this request's claim

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CacheKey) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def key_of(
    request: ChatRequest, options: CacheOptions, fingerprint: str, patience_s: float
) -> CacheKey | None:
    """Return the key of a request, or None if its answer may not be stored. `fingerprint`: the route's."""
    body = request.body
    if not options.enabled or not request.cache_allowed or body.temperature != 0 or (body.n or 1) != 1:
        return None
    for name, raw in request.fields.items():
        if name in NEVER_WITH and bytes(raw) not in (b"null", b"false"):
            return None
    canonical = _canonical(request.fields)
    if canonical is None:
        return None
    route, caller = body.model, request.caller.key
    question = _digest(json.dumps([route, fingerprint]) + canonical)
    shared = _digest(f"everybody {question}") if options.warm_from is not None else None
    return CacheKey(_digest(f"caller {caller} {question}"), shared, route, caller, Patience(patience_s))


def _canonical(fields: Mapping[str, msgspec.Raw]) -> str | None:
    """Return the fields as canonical JSON, or None if they are too large or ambiguous.

    Ambiguous are a name twice in one object, and NaN or Infinity: a provider may read them differently. Whole
    numbers keep all their digits.
    """
    in_key = {name: bytes(raw) for name, raw in fields.items() if name not in NOT_IN_KEY}
    if sum(map(len, in_key.values())) > QUESTION_BYTES_MAX:
        return None
    try:
        return _CANONICAL.encode({name: _STRICT.decode(raw.decode()) for name, raw in in_key.items()})
    except (ValueError, RecursionError):
        return None


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate name in an object")
    return found


def _reject_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


# Built once: `json.loads` and `json.dumps` would build them again for each field.
_STRICT = json.JSONDecoder(object_pairs_hook=_unique_names, parse_constant=_reject_number)
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
