"""Cache storage: the entry that is stored for an answer, and the interface of a storage.

    CacheEntry   an answer, with all that decides whether it may still be served
    Generations  a token for each selector that was invalidated: older entries have another stamp
    Storage      storage_memory: this process;  storage_redis: all processes

A stored value that this version of the service did not write counts as absent.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

Version = Literal[1]
VERSION: Version = 1
EVERYTHING = "everything"
_EVERYTHING_ALONE = frozenset({EVERYTHING})
SELECTORS_MAX = 1_000  # tokens held; one more invalidates all entries instead, which needs no tokens

Generations = Mapping[str, str]


class CacheEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A stored answer.

    `digest`: its key. `caller`: empty if it is for all callers. `kept_at_s`: by the storage's own clock.
    `stamp`: the generations that it belongs to.
    """

    version: Version
    digest: str
    route: str
    caller: str
    target: str
    kept_at_s: float
    stamp: str
    body: bytes

    def valid(self, generations: Generations) -> bool:
        """Return whether no selector of this entry was invalidated since it was stored."""
        return self.stamp == stamp_of(generations, self.digest, self.route, self.caller, self.target)


def stamp_of(generations: Generations, digest: str, route: str, caller: str, target: str) -> str:
    """Return the stamp of an entry: the tokens of all selectors that can invalidate it."""
    if generations.keys() <= _EVERYTHING_ALONE:  # as nearly always
        return f"{generations.get(EVERYTHING, '')}....."
    model = target.partition("/")[2]
    names = (
        EVERYTHING,
        f"route:{route}",
        f"caller:{caller}",
        f"key:{digest}",
        f"model:{target}",
        f"model:{model}",
    )
    return ".".join([generations.get(name, "") for name in names])


def next_generations(generations: Generations, selectors: Sequence[str], token: str) -> Generations:
    """Return the generations after an invalidation, as a new object: requests in flight keep the old one."""
    if EVERYTHING in selectors or len(generations) > SELECTORS_MAX:
        return {EVERYTHING: token}
    return {**generations, **dict.fromkeys(selectors, token)}


_ENCODE = msgspec.msgpack.Encoder().encode
_DECODER = msgspec.msgpack.Decoder(CacheEntry)


def encode_entry(entry: CacheEntry) -> bytes:
    """Return an entry as bytes, for a storage that holds bytes."""
    return _ENCODE(entry)


def decode_entry(found: object, digest: str) -> CacheEntry | None:
    """Return the entry that `encode_entry` wrote for this key, or None for any other value."""
    if not isinstance(found, bytes):
        return None
    try:
        entry = _DECODER.decode(found)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return entry if entry.digest == digest else None


class Storage(Protocol):
    """A storage of entries, generations, and claims (which request is about to fetch an answer)."""

    across_processes: bool
    failures: tuple[type[Exception], ...]  # what its calls may raise while it is unavailable

    def now(self) -> float:
        """Return the time of the storage's clock, in seconds."""
        ...

    async def read(self, digests: Sequence[str]) -> tuple[list[CacheEntry | None], Generations]:
        """Return the entries of these keys, valid or not, and the generations that decide it."""
        ...

    async def write(self, entry: CacheEntry, life_s: float) -> None:
        """Store an entry for `life_s`, in place of an older one."""
        ...

    async def claim(self, digest: str, owner: str, for_s: float) -> bool:
        """Claim a key for `for_s`. Return whether no other owner holds it."""
        ...

    async def release(self, digest: str, owner: str) -> None:
        """End a claim, if the owner still holds it."""
        ...

    async def invalidate(self, selectors: Sequence[str], token: str) -> None:
        """Invalidate all entries of these selectors, also those of requests that are in flight now."""
        ...

    async def aclose(self) -> None:
        """Close the storage."""
        ...
