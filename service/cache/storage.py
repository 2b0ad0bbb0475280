"""What is kept of an answer, and what a place to keep it must be able to do.

    Entry        an answer, with all that says whether it may still be given
    Generations  a token for whatever was invalidated: an entry from before it bears another stamp
    Storage      storage_memory: this process;  storage_redis: all processes

Whatever lies in a storage and was not written by this version of us is nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

Version = Literal[1]
VERSION: Version = 1
EVERYTHING = "everything"
SELECTORS_MAX = (
    1_000  # tokens held at one time; one more, and all that is kept is invalid: then none are needed
)

Generations = Mapping[str, str]


class StorageLost(Exception):
    """The storage cannot be asked now. Costs nobody an answer."""


class CacheEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A whole answer. `digest`: where it lies; `caller` is empty if it is for everybody; `kept_at_s`: by the storage's
    own clock; `stamp`: the generations it belongs to."""

    version: Version
    digest: str
    route: str
    caller: str
    target: str
    kept_at_s: float
    stamp: str
    body: bytes

    def valid(self, generations: Generations) -> bool:
        """Whether nothing that it belongs to was invalidated since."""
        return self.stamp == stamp_of(generations, self.digest, self.route, self.caller, self.target)


def stamp_of(generations: Generations, digest: str, route: str, caller: str, target: str) -> str:
    """The tokens of all by which an entry can be invalidated."""
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
    """Those after an invalidation. Others hold on to the old ones, which is why these are new."""
    if EVERYTHING in selectors or len(generations) > SELECTORS_MAX:
        return {EVERYTHING: token}
    return {**generations, **dict.fromkeys(selectors, token)}


_ENCODE = msgspec.msgpack.Encoder().encode
_DECODER = msgspec.msgpack.Decoder(CacheEntry)


def encode_entry(entry: CacheEntry) -> bytes:
    """As it goes to a storage that holds bytes."""
    return _ENCODE(entry)


def decode_entry(found: object, digest: str) -> CacheEntry | None:
    """What `encode_entry` made for this place, or None: whatever else may lie there."""
    if not isinstance(found, bytes):
        return None
    try:
        entry = _DECODER.decode(found)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return entry if entry.digest == digest else None


class Storage(Protocol):
    """Places with entries, the generations, and claims: who is about to fetch an answer."""

    across_processes: bool
    failures: tuple[type[Exception], ...]  # what its calls may raise where it is out of order

    def now(self) -> float:
        """Its clock, in seconds."""
        ...

    async def read(self, digests: Sequence[str]) -> tuple[list[CacheEntry | None], Generations]:
        """What lies in these places, valid or not, and the generations to judge it by."""
        ...

    async def write(self, entry: CacheEntry, life_s: float) -> None:
        """Keeps it for so long, in place of what was there."""
        ...

    async def claim(self, digest: str, owner: str, for_s: float) -> bool:
        """Whether nobody else has claimed the place; then it is the owner's for so long."""
        ...

    async def release(self, digest: str, owner: str) -> None:
        """Ends a claim, if it is still the owner's."""
        ...

    async def invalidate(self, selectors: Sequence[str], token: str) -> None:
        """From now on nothing is valid that was kept under these, or is kept by who looked before."""
        ...

    async def aclose(self) -> None:
        """Lets everything go."""
        ...
