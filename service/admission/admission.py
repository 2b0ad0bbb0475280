"""Who may pass: known callers, while there is room and the process is not about to end."""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from typing import Protocol

from dub5.service.config.settings import OTHERS, Secret
from dub5.service.errors import Overloaded, ShuttingDown, Unauthorized
from dub5.service.model import Caller, Priority

ANONYMOUS = Caller()
SPARE_MAX = 256  # places for those who find none: for a moment, to be told something better than no


class InFlightRequest(Protocol):
    """A request that is being answered."""

    def cut_for_drain(self) -> None:
        """The process ends: finish now, with an honest error."""
        ...


class Admission:
    """The requests in flight, bounded; a drain lets no more in."""

    def __init__(self, in_flight_max: int) -> None:
        self.ready = True  # false: send new requests elsewhere; they are still answered here
        self.draining = False  # true: they are not
        self._empty = asyncio.Event()
        self.in_flight_max = in_flight_max
        self._requests: dict[InFlightRequest, None] = {}  # in the order of arrival, which a drain keeps
        self._spare_requests: set[InFlightRequest] = set()  # those of them who have a spare place

    @property
    def in_flight(self) -> int:
        """How many requests are being answered."""
        return len(self._requests)

    def acquire(self, request: InFlightRequest, *, spare: bool = False) -> Overloaded | None:
        """None: it has a place. Raises ShuttingDown or Overloaded. With `spare` the latter is returned, as long as there
        is a spare place: the request is let in, but no provider may be asked for it."""
        if self.draining:
            raise ShuttingDown("This instance is shutting down.", retry_after_s=1.0)
        refusal = None
        if len(self._requests) - len(self._spare_requests) >= self.in_flight_max:
            refusal = Overloaded("More requests are open than this instance takes.", retry_after_s=1.0)
            if not spare or len(self._spare_requests) >= SPARE_MAX:
                raise refusal
            self._spare_requests.add(request)
        self._requests[request] = None
        return refusal

    def release(self, request: InFlightRequest) -> None:
        """The request is over."""
        self._requests.pop(request, None)
        self._spare_requests.discard(request)
        if not self._requests:
            self._empty.set()

    async def announce_drain(self, announce_s: float) -> None:
        """Not ready any more: gives balancers time to hear of it, then lets no more in."""
        self.ready = False
        await asyncio.sleep(announce_s)
        self.draining = True

    async def wait_until_empty(self, within_s: float) -> bool:
        """Waits until nobody is left, for at most `within_s` seconds; whether nobody is."""
        while self._requests:
            self._empty.clear()
            try:
                async with asyncio.timeout(within_s):
                    await self._empty.wait()
            except TimeoutError:
                return False
        return True

    def cut_all(self) -> None:
        """Ends what is still open, honestly."""
        for request in list(self._requests):
            request.cut_for_drain()


class Callers:
    """The inbound keys, as hashes. `variables`: where each comes from; `priorities`: by these names."""

    def __init__(
        self, keys: Iterable[Secret], variables: Iterable[str] = (), priorities: Mapping[str, str] = {}
    ) -> None:
        digests = [_digest(key.reveal()) for key in keys]
        self._known = {digest: Caller(digest[:16], _priority(OTHERS, priorities)) for digest in digests}
        for digest, variable in zip(digests, variables, strict=False):
            self._known[digest] = Caller(digest[:16], _priority(variable, priorities))

    def identify(self, authorization: str) -> Caller:
        """Who sends this `Authorization` header. Raises Unauthorized. Where no keys are set, all are anonymous."""
        if not self._known:
            return ANONYMOUS
        scheme, _, key = authorization.partition(" ")
        digest = _digest(key.strip())
        caller = self._known.get(digest)
        if scheme.lower() != "bearer" or caller is None:
            raise Unauthorized("The API key is missing or not known here.")
        return caller


def _priority(variable: str, priorities: Mapping[str, str]) -> Priority:
    name = priorities.get(variable) or priorities.get(OTHERS) or Priority.NORMAL.label
    return Priority[name.upper()]


def _digest(key: str) -> str:
    """Compared as hashes, so that the time a comparison takes says nothing about a key."""
    return hashlib.sha256(key.encode()).hexdigest()
