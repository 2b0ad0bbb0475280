"""Outgoing messages: posts to an operator's hook or to Sentry, by the wire, in nobody's way.

    put --> a bounded queue --> one task: a few tries each, each with a time limit --> NotificationEnded

`put` never waits. A receiver that hangs or answers 500 costs this one task some time, and no request any.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from random import Random

from msgspec import Struct

from dub5.service.events import Event, NotificationEnded
from dub5.service.wire.base import Wire, WireFailure, WireRequest

WAITING_MAX = 100
TRIES = 3
TRY_S = 5.0  # of one try, until its status
PAUSE_S = 2.0  # before the second try, twice as long before the third
TAKEN = range(200, 300)


class Post(Struct, frozen=True):
    """One message. `what`: its kind, in metrics. `url` and `headers` hold secrets, so `repr` omits them."""

    what: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"Post({self.what})"


class Outgoing:
    """The messages to one receiver, named `to` in metrics and in the log."""

    def __init__(
        self, to: str, wire: Wire, emit: Callable[[Event], None], rng: Random, tries: int = TRIES
    ) -> None:
        self._to = to
        self._wire = wire
        self._emit = emit
        self._rng = rng
        self._tries = tries
        self._waiting: deque[Post] = deque()
        self._changed = asyncio.Event()

    def put(self, post: Post) -> None:
        """Send a message later, in order. When too many wait, it is dropped."""
        if len(self._waiting) >= WAITING_MAX:
            self._emit(NotificationEnded(self._to, post.what, "dropped", 0, f"{WAITING_MAX} wait already"))
            return
        self._waiting.append(post)
        self._changed.set()

    async def run(self) -> None:
        """Send what is put, until cancelled."""
        while True:
            self._changed.clear()
            while self._waiting:
                await self.send(self._waiting.popleft())
            await self._changed.wait()

    async def send(self, post: Post) -> str:
        """Send one message now, with all its tries. Return why it was not taken; empty if it was."""
        why = ""
        for tried in range(self._tries):
            if tried:
                await asyncio.sleep(PAUSE_S * 2 ** (tried - 1) * self._rng.uniform(0.75, 1.25))
            why = await self._try(post)
            if not why:
                self._emit(NotificationEnded(self._to, post.what, "sent", tried + 1))
                return ""
        self._emit(NotificationEnded(self._to, post.what, "failed", self._tries, why))
        return why

    async def _try(self, post: Post) -> str:
        try:
            async with asyncio.timeout(TRY_S):
                request = WireRequest("POST", post.url, post.headers, post.body, fresh=True)
                response = await self._wire.send(request)  # messages are rare: no kept connection lasts
                await response.aclose()
        except TimeoutError:
            return f"no answer within {TRY_S:g} s"
        except WireFailure as failure:  # its detail may hold the address, which is a secret
            return f"{failure.stage} {failure.kind}"
        return "" if response.status in TAKEN else f"it answered {response.status}"
