"""Whole answers, kept for the next caller who asks exactly the same.

    key   caller + route and who stands behind it + every field of the body that can change the answer
    kept  finished plain-text answers to requests with temperature 0, as chat.completion objects
    given as JSON or as a stream, whichever is asked

aiocache is the storage; the bounds are ours, as its memory has none.
"""

import hashlib
from collections import OrderedDict

import msgspec
from aiocache import SimpleMemoryCache

from service.chat import ChatRequest
from service.events import CacheLooked, Events
from service.options import CacheBounds, CacheOptions

# Fields that say how the answer travels, or whom it is for; all others are part of the key, known or not.
NOT_IN_KEY = frozenset(
    {"stream", "stream_options", "user", "metadata", "safety_identifier", "prompt_cache_key"}
)
NEVER_WITH = ("tools", "functions", "logprobs", "store", "audio", "modalities", "response_format")


class Stored(msgspec.Struct, frozen=True):
    """An answer and who gave it."""

    body: bytes
    target: str


class AnswerCache:
    """Keeps answers in memory, the longest unused going first."""

    def __init__(self, bounds: CacheBounds, events: Events) -> None:
        self.bounds = bounds  # others hold from the next answer on
        self._events = events
        self._storage = SimpleMemoryCache(timeout=0)
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._bytes = 0

    def key(self, request: ChatRequest, options: CacheOptions, mark: str) -> str | None:
        """Where the answer would be, or None if it may not be kept at all. `mark`: the route's."""
        body = request.body
        if not options.enabled or not request.cache_allowed or body.temperature != 0 or (body.n or 1) != 1:
            return None
        if any(bytes(request.fields.get(name, b"null")) not in (b"null", b"false") for name in NEVER_WITH):
            return None
        fields = {name: raw for name, raw in request.fields.items() if name not in NOT_IN_KEY}
        try:
            parsed = {name: msgspec.json.decode(raw) for name, raw in fields.items()}
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
            return None  # a field that we only pass on, and cannot read
        text = msgspec.json.encode([request.caller.key, body.model, mark, parsed], order="sorted")
        return hashlib.sha256(text).hexdigest()

    async def look(self, key: str, route: str) -> Stored | None:
        """The stored answer, if there is one."""
        stored: Stored | None = await self._storage.get(key)
        if stored is None:
            self._forget(key)
        else:
            self._sizes.move_to_end(key)
        self._events.emit(CacheLooked(route, "miss" if stored is None else "hit"))
        return stored

    async def keep(self, key: str, stored: Stored, options: CacheOptions) -> None:
        """Stores a whole answer, and lets the longest unused go to make room."""
        size = len(stored.body) + len(key)
        if size > self.bounds.bytes_max:
            return
        self._forget(key)
        self._sizes[key] = size
        self._bytes += size
        await self._storage.set(key, stored, ttl=options.ttl_s)
        while len(self._sizes) > self.bounds.entries_max or self._bytes > self.bounds.bytes_max:
            oldest = next(iter(self._sizes))
            self._forget(oldest)
            await self._storage.delete(oldest)

    async def aclose(self) -> None:
        """Lets everything go, and the timers with it."""
        for key in list(self._sizes):
            await self._storage.delete(key)
        self._sizes.clear()
        self._bytes = 0

    def _forget(self, key: str) -> None:
        self._bytes -= self._sizes.pop(key, 0)
