"""Cache key of a request. Keys are equal only for requests that no provider could tell apart.

question   the route, its fingerprint, and every field of the body that can change the answer, known or not
digest     the question and the caller
shared     the question alone, for answers that all callers may get
"""

import hashlib
import json
from collections.abc import Mapping
from math import isinf
from typing import Any, NoReturn

import msgspec
from msgspec import Struct

from dub5.service.cache.storage import CacheEntry, Generations
from dub5.service.config.options import CacheOptions
from dub5.service.model import ChatRequest
from dub5.service.resilience.storage_guard import Patience

# Fields that say how the answer is delivered, or for whom; all others are part of the key.
NOT_IN_KEY = frozenset(
    {"stream", "stream_options", "user", "metadata", "safety_identifier", "prompt_cache_key"}
)
NEVER_WITH = ("tools", "functions", "logprobs", "store", "audio", "modalities", "response_format")
_NEVER = frozenset(NEVER_WITH)
QUESTION_BYTES_MAX = 1024 * 1024  # larger ones hardly repeat, and reading them blocks all other requests


class CacheKey(Struct, eq=False):
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
    for name in _NEVER & request.fields.keys():
        if bytes(request.fields[name]) not in (b"null", b"false"):
            return None
    route, caller = body.model, request.caller.key
    try:
        question = _question(request.fields)
        if question is None:
            return None
        digest = _digest([caller, route, fingerprint, question])
        shared = None if options.warm_from is None else _digest([None, route, fingerprint, question])
    except (ValueError, RecursionError):
        return None
    return CacheKey(digest, shared, route, caller, Patience(patience_s))


def _question(fields: Mapping[str, msgspec.Raw]) -> Any:
    """Return the fields that are part of the key, decoded; None if they are too large.

    Raises ValueError if they are ambiguous: a name twice in one object, and numbers without end, which a
    provider may read differently. Whole numbers keep all their digits.
    """
    text = msgspec.json.encode({name: raw for name, raw in fields.items() if name not in NOT_IN_KEY})
    return None if len(text) > QUESTION_BYTES_MAX else _STRICT.raw_decode(text.decode())[0]


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate name in an object")
    return found


def _reject_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    return _reject_number(text) if isinf(number) else number


# msgspec would take the last of two values with one name, and round long whole numbers.
_STRICT = json.JSONDecoder(
    object_pairs_hook=_unique_names, parse_constant=_reject_number, parse_float=_finite
)
_CANONICAL = msgspec.json.Encoder(order="sorted")


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(_CANONICAL.encode(values)).hexdigest()
