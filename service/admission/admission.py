"""Admission control: known callers, a bound on the requests in flight, and the drain at the end."""

import asyncio
import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from dub5.service.config.settings import OTHERS, Secret
from dub5.service.errors import Overloaded, ShuttingDown
from dub5.service.model import Caller, Priority

SMALL_BODY_BYTES = 64 * 1024  # always accepted: a few large bodies must not lock small ones out
SPARE_MAX = 256  # extra slots at capacity, for requests that get an answer at once without a provider


class InFlightRequest(Protocol):
    """A request that is being answered."""

    def cut_for_drain(self) -> None:
        """End now, with an honest error: the drain's time is up."""
        ...


class Admission:
    """The requests in flight, bounded in number, and together in the size of their bodies.

    A drain admits no new ones.
    """

    def __init__(self, in_flight_max: int, bodies_bytes_max: int) -> None:
        self.ready = True  # false: load balancers must send new requests elsewhere; they are still answered
        self.draining = False  # true: new requests are refused
        self._empty = asyncio.Event()
        self.in_flight_max = in_flight_max
        self.bodies_bytes_max = bodies_bytes_max
        self._bodies_bytes = 0
        # The size of each body, in the order of arrival, which a drain keeps.
        self._requests: dict[InFlightRequest, int] = {}
        self._spare_requests: set[InFlightRequest] = set()  # those of them in a spare slot

    @property
    def in_flight(self) -> int:
        """The number of requests in flight."""
        return len(self._requests)

    def acquire(self, request: InFlightRequest, *, spare: bool = False) -> Overloaded | None:
        """Admit a request. Raises ShuttingDown or Overloaded.

        With `spare`, Overloaded is returned instead of raised while a spare slot is free: the request is
        admitted, but no provider may be asked for it.
        """
        if self.draining:
            raise ShuttingDown("This instance is shutting down.", retry_after_s=1.0)
        refusal = None
        if len(self._requests) - len(self._spare_requests) >= self.in_flight_max:
            refusal = Overloaded("Too many requests are open on this instance.", retry_after_s=1.0)
            if not spare or len(self._spare_requests) >= SPARE_MAX:
                raise refusal
            self._spare_requests.add(request)
        self._requests[request] = 0
        return refusal

    def hold_body(self, request: InFlightRequest, size: int) -> None:
        """Count the body that is being read, `size` bytes by now, until the request is released.

        Raises Overloaded if the bodies of all requests are too large together, and this one is not small.
        """
        more = size - self._requests[request]
        if size > SMALL_BODY_BYTES and self._bodies_bytes + more > self.bodies_bytes_max:
            raise Overloaded("The requests that are open on this instance are too large.", retry_after_s=1.0)
        self._requests[request] = size
        self._bodies_bytes += more

    def release(self, request: InFlightRequest) -> None:
        """Remove a request that is over."""
        self._bodies_bytes -= self._requests.pop(request, 0)
        self._spare_requests.discard(request)
        if not self._requests:
            self._empty.set()

    async def announce_drain(self, announce_s: float) -> None:
        """Report not ready for `announce_s`, so that load balancers notice; then admit no more requests."""
        self.ready = False
        await asyncio.sleep(announce_s)
        self.draining = True

    async def wait_until_empty(self, within_s: float) -> bool:
        """Wait until no request is left, for at most `within_s`. Return whether none is left."""
        while self._requests:
            self._empty.clear()
            try:
                async with asyncio.timeout(within_s):
                    await self._empty.wait()
            except TimeoutError:
                return False
        return True

    def cut_all(self) -> None:
        """End the requests that are still open, each with an honest error."""
        for request in list(self._requests):
            request.cut_for_drain()


class Callers:
    """The callers' keys, as hashes.

    `variables`: the variable of each key; `priorities`: by variable; `premium`: the variables of callers
    whose requests are not counted.
    """

    def __init__(
        self,
        keys: Iterable[Secret],
        variables: Iterable[str] = (),
        priorities: Mapping[str, str] = {},
        premium: Collection[str] = (),
    ) -> None:
        digests = [key_hash(key.reveal()) for key in keys]
        self._known = {digest: Caller(digest[:16], _priority(OTHERS, priorities)) for digest in digests}
        for digest, variable in zip(digests, variables, strict=False):
            self._known[digest] = Caller(digest[:16], _priority(variable, priorities), variable in premium)

    @property
    def have_keys(self) -> bool:
        """Whether callers need keys."""
        return bool(self._known)

    def find(self, key: str) -> Caller | None:
        """Return the caller with this key, or None."""
        return self._known.get(key_hash(key))

    def named(self, name: str) -> Caller | None:
        """Return the caller with this name in logs, which is of the hash of its key, or None."""
        return next((caller for caller in self._known.values() if caller.key == name), None)


def bearer_key(authorization: str) -> str:
    """Return the key of an Authorization header; empty if there is none."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def key_hash(key: str) -> str:
    """Hash a key. Comparing hashes takes a time that says nothing about a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def _priority(variable: str, priorities: Mapping[str, str]) -> Priority:
    name = priorities.get(variable) or priorities.get(OTHERS) or Priority.NORMAL.label
    return Priority[name.upper()]
